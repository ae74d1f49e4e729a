/* Which ranks have the same GPU: they share its memory, and NCCL wants a GPU a rank. In the CUDA module. */
#ifndef FM_MESH_OWN_GPU_H
#define FM_MESH_OWN_GPU_H

#include "mesh/comm.h"

/* FM_ERR_JOB, which says what to do, where two ranks of world have the same device; `ordinal` is this rank's. Collective on world. */
int fm_own_gpu_check(fm_comm *world, int ordinal);

/* *out: how many ranks of world have this rank's device, itself counted. Collective on world. */
int fm_own_gpu_ranks(int *out, fm_comm *world, int ordinal);

#endif
