/* Trials of a backend of collectives on a device's memory: every group of a mesh against the same group over MPI, bit for bit. What is
 * wrong ends all ranks. */
#ifndef TESTS_MESH_COMM_TRIALS_H
#define TESTS_MESH_COMM_TRIALS_H

#include "mesh/comm.h"
#include "tensor/device.h"

/* The groups of a mesh over all ranks, from words for its sizes [FM_DIMS]; tp ranks stand in pairs for one key/value head. */
fm_groups *trials_groups(char **sizes);

/* Every group that fm_groups_open_device has made: collectives of all kinds, types, sizes, roots and places; several at once; rings; a
 * pipeline by every schedule. Collective on the world. */
void trials_run(const fm_groups *groups, fm_device *device);

/* Ends all ranks where rc is an error, or where something does not hold. */
void check(int rc, const char *what);
void expect(bool holds, const char *what);

#endif
