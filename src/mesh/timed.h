/* Transfers between ranks, measured: a communicator's backend is replaced by one that calls it and adds the time up on a stopwatch.
 * Where nobody measures, nothing of this is on the way. */
#ifndef FM_MESH_TIMED_H
#define FM_MESH_TIMED_H

#include "mesh/comm.h"
#include "tensor/stopwatch.h"

/* From now on the time that this rank spends in starting, moving and awaiting the communicator's operations is row `row` of the
 * stopwatch. comm NULL: nothing happens. Local. */
void fm_comm_time_begin(fm_comm *comm, fm_stopwatch *stopwatch, int row);

/* The backend itself again. Local. */
void fm_comm_time_end(fm_comm *comm);

#endif
