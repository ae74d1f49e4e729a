/* From a job's [device] section and distributed.backend to an open device and the groups that carry its arrays. */
#ifndef FM_JOB_DEVICE_H
#define FM_JOB_DEVICE_H

#include "job/assemble.h"

/* Opens a->device and a->compute; with a GPU also the groups between GPUs: over NCCL, or (distributed.backend=mpi, or where there is no
 * NCCL) over MPI through the host's memory. device.type=auto takes a GPU where every rank has one. The groups must be there.
 * Collective on the world. */
int fm_assemble_device(fm_assembly *a);

/* What fm_assemble_device opened. The model must be gone. Collective on the world. */
void fm_assembly_close_device(fm_assembly *a);

/* "CUDA 13.0: built, usable: 1 x NVIDIA H100 ..." and the like, a line for each optional part that a GPU wants. Local. */
void fm_print_gpu_version(void);

#endif
