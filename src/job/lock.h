/* One run at a time in an output directory. */
#ifndef FM_JOB_LOCK_H
#define FM_JOB_LOCK_H

#include "base/file.h"

/* Begins as zeros. */
typedef struct {
    bool held;
    int fd;
    char path[FM_PATH_BYTES];
} fm_lock;

/* Takes DIR/.lock until fm_lock_release or the end of the process, however it ends. FM_ERR_JOB where another run has it: the
 * message says which. Local: rank 0 calls it. */
int fm_lock_take(fm_lock *lock, const char *dir);

/* Removes the file. */
void fm_lock_release(fm_lock *lock);

#endif
