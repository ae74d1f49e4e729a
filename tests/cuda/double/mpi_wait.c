/* A GPU goes on while its host waits for other ranks; the double's queues run only when the host waits for them. So the host's wait in
 * MPI, when it takes long, runs what is queued: another rank may be waiting for that. Stands before MPI where this library is linked or
 * preloaded. */
#include <mpi.h>
#include <time.h>

#include "queue.h"

static const double patience_s = 0.003;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int MPI_Waitall(int n, MPI_Request requests[], MPI_Status statuses[])
{
    const double begin_s = now_s();
    int done = 0, rc = MPI_SUCCESS;
    while (rc == MPI_SUCCESS && !done) {
        rc = PMPI_Testall(n, requests, &done, statuses);
        if (!done && now_s() - begin_s > patience_s) {
            queue_progress();
            nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
        }
    }
    return rc;
}

/* Who waits with a watchdog asks again and again: about the same requests for as long as they are not done. */
int MPI_Testall(int n, MPI_Request requests[], int *done, MPI_Status statuses[])
{
    static const MPI_Request *asked;
    static double begin_s;
    const int rc = PMPI_Testall(n, requests, done, statuses);
    if (rc != MPI_SUCCESS || *done) {
        asked = NULL;
    } else if (asked != requests) {
        asked = requests;
        begin_s = now_s();
    } else if (now_s() - begin_s > patience_s) {
        queue_progress();
        nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
    }
    return rc;
}
