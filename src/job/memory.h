/* Whether a run fits into this machine's memory, asked before anything large is allocated. */
#ifndef FM_JOB_MEMORY_H
#define FM_JOB_MEMORY_H

#include "base/memory.h"

/* Bytes that all processes of this machine may still take: MemAvailable, or what is left under the cgroup's limit where that is less.
 * 0: not known. Local. */
int64_t fm_memory_available_bytes(void);

/* What there is for a run. */
typedef struct {
    int64_t bytes;                     /* 0: not known */
    int ranks;                         /* that share it */
    const char *place;                 /* "machine", "GPU" */
} fm_memory_room;

/* Prints the estimate of the largest rank. FM_ERR_JOB, with the arithmetic in it, where the ranks do not fit. Local. */
int fm_memory_check(const size_t bytes[FM_MEMORY_KINDS], const fm_memory_room *room);

#endif
