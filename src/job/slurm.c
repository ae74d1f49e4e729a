#include "job/slurm.h"

#include <limits.h>
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

int fm_slurm_cores_of_node(void)
{
    const int64_t cores = number_of("SLURM_CPUS_ON_NODE");
    return cores > 0 && cores <= INT_MAX ? (int)cores : 0;
}

int fm_slurm_check_ranks(int n_ranks, bool needs_all)
{
    const long long of_step = number_of("SLURM_STEP_NUM_TASKS");
    const long long tasks = needs_all && of_step == 0 ? number_of("SLURM_NTASKS") : of_step;
    const bool launched_by_pmi = getenv("PMI_SIZE") != NULL;       /* mpiexec -n 1, or srun -n 1, on purpose */
    if (n_ranks > 1 || tasks <= 1 || launched_by_pmi) {
        return FM_OK;
    }
    return fm_fail(FM_ERR_JOB, "Slurm has %lld tasks for this job, but MPI was not told of them: each would do all of the work alone. "
                   "Start the program with `srun --mpi=pmi2 finemesh ...` (`srun --mpi=list` shows what this site has) or with "
                   "`mpiexec -n %lld finemesh ...`; for one rank on purpose, with `mpiexec -n 1 finemesh ...`.", tasks, tasks);
}
