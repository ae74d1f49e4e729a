#include "job/slurm.h"

#include <stdlib.h>

static int64_t number_of(const char *name)
{
    const char *const text = getenv(name);
    return text == NULL ? 0 : strtoll(text, NULL, 10);
}

int64_t fm_slurm_end_time(void)
{
    return number_of("SLURM_JOB_END_TIME");
}

int fm_slurm_check_ranks(int n_ranks)
{
    const long long tasks = number_of("SLURM_NTASKS");
    const bool launched_by_pmi = getenv("PMI_SIZE") != NULL;       /* mpiexec -n 1, or srun -n 1, on purpose */
    if (n_ranks > 1 || tasks <= 1 || launched_by_pmi) {
        return FM_OK;
    }
    return fm_fail(FM_ERR_JOB, "Slurm has %lld tasks for this job, but MPI was not told of them: each would run the whole job "
                   "alone. Start the program with `srun --mpi=pmi2 finemesh ...` (`srun --mpi=list` shows what this site has) or with "
                   "`mpiexec -n %lld finemesh ...`; for one rank on purpose, with `mpiexec -n 1 finemesh ...`.", tasks, tasks);
}
