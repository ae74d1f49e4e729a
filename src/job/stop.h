/* Requests to stop: signals, and the time that a job has. All functions are local; the ranks agree elsewhere. */
#ifndef FM_JOB_STOP_H
#define FM_JOB_STOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Seconds of "90", "05:00" or "01:30:00"; FM_ERR_JOB: something else. Pure. */
int fm_time_parse(int64_t *seconds, const char *text);

/* Begins as zeros. */
typedef struct {
    void *stack;                       /* the handler's own */
} fm_stop;

/* SIGTERM and SIGUSR1 wait from now on, also for threads that are made meanwhile (by MPI), until fm_stop_begin hears them or
 * fm_stop_release lets them act. Main thread. */
void fm_stop_hold(void);
void fm_stop_release(void);

/* From now on SIGTERM and SIGUSR1 are requests that fm_stop_signal tells of; a second one, two seconds later or more, acts as it
 * always does: the process ends. Main thread. */
int fm_stop_begin(fm_stop *stop);

/* OpenMP's threads leave the signals to the main thread, whose handler has a stack: the system chooses any thread where the process
 * was stopped when a signal came. After the number of threads was set. Main thread. */
void fm_stop_spare_threads(void);

/* The signals act as usual again; a request is forgotten. Where there was one they are ignored: what was asked for is done, and the
 * exit status says so. Main thread. */
void fm_stop_end(fm_stop *stop);

/* The signal that asked, 0: none. */
int fm_stop_signal(void);

/* When a run must be gone, in seconds of the system's clock: max_time ("" for none) after begin_s, and end_s (0: none) if that
 * is earlier. 0: there is no limit. */
double fm_stop_deadline(const char *max_time, double begin_s, int64_t end_s);

/* Whether after one more step there would not be time for a checkpoint, by what both have taken so far at most. */
bool fm_stop_is_near(double deadline_s, double now_s, double step_s, double checkpoint_s);

#endif
