/* What Slurm says of the allocation: here the environment is the interface. */
#ifndef FM_JOB_SLURM_H
#define FM_JOB_SLURM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* When the allocation ends, in seconds of the system's clock (SLURM_JOB_END_TIME); 0: not known. Local. */
int64_t fm_slurm_end_time(void);

/* Cores of this node that the job, or its step, was given (SLURM_CPUS_ON_NODE); 0: not known. Local. */
int fm_slurm_cores_of_node(void);

/* FM_ERR_JOB where this process is one of several of a Slurm step and MPI has not noticed: it would do the work alone, beside its
 * copies. The message has the line to use. n_ranks: as MPI says; needs_all: likewise where the program was started in a job of
 * several tasks without any launcher. Local. */
int fm_slurm_check_ranks(int n_ranks, bool needs_all);

#endif
