/* Collectives over NCCL between the GPUs of a mesh; in the CUDA module. The library itself is opened when it is wanted.
 *
 * An operation begins behind what the rank has queued on its device and runs on a stream of its communicator; waiting for it makes
 * the device's later work wait, not the host. Errors of a peer are found while the host waits for the device, or at the next wait. */
#ifndef FM_MESH_COMM_NCCL_H
#define FM_MESH_COMM_NCCL_H

#include "mesh/comm.h"
#include "tensor/device.h"

typedef struct fm_nccl fm_nccl;

/* NCCL's version that this was built with and the one that is found here (21801 for 2.18.1). FM_ERR_COMM, which says why, and *found = 0
 * where none can be used. Local. */
int fm_nccl_version(int *built, int *found);

/* Connects the GPUs of all ranks of `world` (the host's communicator). Two ranks on one GPU are an error that says which. A rank whose NCCL
 * fails, now or in a later operation, is at once an error on all others (FM_ERR_COMM; its own is FM_ERR_DEVICE); one that is late is a
 * matter of world's watchdog (watch.h), which must have been set before. Collective on world. Close with fm_nccl_close when the
 * communicators made from it are destroyed. */
int fm_nccl_open(fm_nccl **out, fm_comm *world, fm_device *device);
void fm_nccl_close(fm_nccl *nccl);

/* fm_comm_make_fn with an fm_nccl as its context. A pipeline's communicator has a lane of its own for each neighbour, direction and kind of
 * message. */
int fm_nccl_make(fm_comm **out, void *context, fm_comm *host, enum fm_group which, int color, int key);

#endif
