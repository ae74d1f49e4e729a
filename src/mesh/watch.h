/* The watchdog of the ranks: who waits for another longer than the limit asks all where they are, names those that do not answer, and
 * ends the run. There is no thread: a rank that waits looks at the clock now and then, and answers. It also learns there who has failed, so
 * that an operation which can no more end (between GPUs) is not waited for. */
#ifndef FM_MESH_WATCH_H
#define FM_MESH_WATCH_H

#include "mesh/comm.h"

typedef struct fm_watch fm_watch;

/* Ends all ranks with fm_error_message(); does not return. */
typedef void fm_watch_end(void *context);

/* A watchdog over mpi_comm (points to an MPI_Comm), for communicators whose members are its ranks. limit_s 0, or end NULL: it ends nothing,
 * whoever waits, and only carries the news of failures. Collective on mpi_comm. Free with fm_watch_destroy (collective). */
int fm_watch_new(fm_watch **out, double limit_s, const void *mpi_comm, fm_watch_end *end, void *context);
void fm_watch_destroy(fm_watch *watch);

/* The step in which the rank is, for the message; 0: none. NULL: nothing. Local. */
void fm_watch_step(fm_watch *watch, int64_t step);

/* The communicator, or all of a mesh, are watched from here on; watch NULL: no more. It is borrowed. Local. */
void fm_comm_set_watch(fm_comm *comm, fm_watch *watch);
void fm_groups_set_watch(fm_groups *groups, fm_watch *watch);

/* This rank has failed where others may wait for it: they are told, unless they have told it before. NULL: nothing. Local. */
void fm_watch_tell_failure(fm_watch *watch);

/* A rank that has told its failure, as far as this one has heard (fm_watch_look listens); -1: none. Local. */
int fm_watch_failed(const fm_watch *watch);

/* Where a rank waits. */
typedef struct {
    char operation[24], group[24];
    int64_t number;                    /* of the operation: the group's n-th */
} fm_watch_place;

/* For backends, called again and again by who waits. *since_s: 0 at first. Beyond the limit it ends the run. Local. */
void fm_watch_look(fm_watch *watch, double *since_s, const fm_watch_place *place);

#endif
