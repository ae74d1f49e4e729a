/* One run at a time in an output directory. */
#ifndef FM_JOB_LOCK_H
#define FM_JOB_LOCK_H

#include "base/error.h"

/* Takes DIR/.lock until fm_lock_release or the end of the process, however it ends. FM_ERR_JOB where another run has it: the
 * message says which. *lock is for fm_lock_release. Local: rank 0 calls it. */
int fm_lock_take(int *lock, const char *dir);

/* -1: nothing. */
void fm_lock_release(int lock);

#endif
