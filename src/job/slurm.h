/* What Slurm says of the allocation: here the environment is the interface. */
#ifndef FM_JOB_SLURM_H
#define FM_JOB_SLURM_H

#include <stdint.h>

#include "base/error.h"

/* When the allocation ends, in seconds of the system's clock (SLURM_JOB_END_TIME); 0: not known. Local. */
int64_t fm_slurm_end_time(void);

/* FM_ERR_JOB where this process was one of several of a Slurm step and MPI has not noticed: it would run the job alone, beside
 * its copies. The message has the line to use. n_ranks: as MPI says. Local. */
int fm_slurm_check_ranks(int n_ranks);

#endif
