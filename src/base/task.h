/* A piece of work in a thread of its own, behind the back of the main one: plain file writes and arithmetic, no MPI and no HDF5.
 * All functions are local; the main thread calls them. */
#ifndef FM_BASE_TASK_H
#define FM_BASE_TASK_H

#include <stdbool.h>

#include "base/error.h"

typedef struct fm_task fm_task;

/* Begins work(user). Where no thread can be had the work is done on return. Error: out of memory, and nothing was begun. */
int fm_task_begin(fm_task **out, int (*work)(void *user), void *user);

/* Whether fm_task_end would not wait; NULL is allowed: it would not. */
bool fm_task_is_done(const fm_task *task);

/* Waits, frees, and gives the work's code and message. NULL is allowed: FM_OK. */
int fm_task_end(fm_task *task);

/* Waits and frees; the kept error message stays what it was. NULL is allowed. */
void fm_task_abandon(fm_task *task);

#endif
