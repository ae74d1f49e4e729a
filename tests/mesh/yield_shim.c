/* Stands between MPICH and UCX in tests with more ranks than cores: MPICH spins while it waits and keeps the rank that it
 * waits for from its core. When nothing has progressed, sleep a moment instead. Never for production runs, where it would
 * add its sleep to every message. */
#include <dlfcn.h>
#include <stddef.h>
#include <time.h>

unsigned ucp_worker_progress(void *worker);

unsigned ucp_worker_progress(void *worker)
{
    typedef unsigned progress_function(void *);
    static _Thread_local progress_function *next;
    if (!next) {
        *(void **)&next = dlsym(RTLD_NEXT, "ucp_worker_progress");
    }
    const unsigned events = next(worker);
    if (events == 0) {
        const struct timespec pause = {.tv_sec = 0, .tv_nsec = 20000};
        nanosleep(&pause, NULL);
    }
    return events;
}
