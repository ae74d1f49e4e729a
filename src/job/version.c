#include "config.h"

#include "job/version.h"

#include "base/log.h"
#include "job/device.h"
#include "mesh/comm.h"
#include "ops/gemm.h"

void fm_print_version(void)
{
    fm_log_print("finemesh %s\n", PACKAGE_VERSION);
    fm_log_print("GEMM: %s: built, usable\n", fm_gemm_name());
    fm_log_print("MPI: %s: built, usable\n", fm_comm_mpi_version());
    fm_print_gpu_version();
}
