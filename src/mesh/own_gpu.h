/* NCCL wants a GPU a rank: whether each has one of its own. In the CUDA module. */
#ifndef FM_MESH_OWN_GPU_H
#define FM_MESH_OWN_GPU_H

#include "mesh/comm.h"

/* FM_ERR_JOB, which says what to do, where two ranks of world have the same device; `ordinal` is this rank's. Collective on world. */
int fm_own_gpu_check(fm_comm *world, int ordinal);

#endif
