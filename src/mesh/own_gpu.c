#include "mesh/own_gpu.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/cuda.h"

/* A GPU, as all ranks can compare it: the machine's boot and the place on its bus. */
typedef struct {
    char boot[48], host[64], bus[32];
} gpu_name;

static int name_gpu(gpu_name *out, int ordinal)
{
    memset(out, 0, sizeof *out);
    FILE *const boot = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (boot != NULL) {
        if (fgets(out->boot, sizeof out->boot, boot) == NULL) {
            out->boot[0] = '\0';
        }
        fclose(boot);
    }
    FILE *const host = fopen("/proc/sys/kernel/hostname", "r");
    if (host != NULL) {
        if (fgets(out->host, sizeof out->host, host) != NULL) {
            out->host[strcspn(out->host, "\n")] = '\0';
        }
        fclose(host);
    }
    return fm_cuda_check(cudaDeviceGetPCIBusId(out->bus, sizeof out->bus, ordinal), "the GPU's place on the bus could not be asked for");
}

int fm_own_gpu_check(fm_comm *world, int ordinal)
{
    const int size = fm_comm_size(world);
    gpu_name *const all = fm_alloc_array(size, sizeof *all, FM_MEMORY_HOST);
    int rc = fm_comm_agree(world, all == NULL ? FM_ERR_MEMORY : FM_OK);
    gpu_name mine;
    if (rc == FM_OK) {
        rc = fm_comm_agree(world, name_gpu(&mine, ordinal));
    }
    if (rc == FM_OK) {
        rc = fm_comm_all_gather(world, all, &mine, sizeof mine, FM_U8);
    }
    for (int b = 1; b < size && rc == FM_OK; b++) {
        for (int a = 0; a < b && rc == FM_OK; a++) {
            if (strcmp(all[a].boot, all[b].boot) == 0 && strcmp(all[a].bus, all[b].bus) == 0) {
                rc = fm_fail(FM_ERR_JOB, "ranks %d and %d have the same GPU, %s of %s, and NCCL takes one rank a GPU: start as many "
                             "ranks as there are GPUs, or set distributed.backend = mpi, which lets ranks share a GPU and is slower",
                             a, b, all[b].bus, all[b].host);
            }
        }
    }
    fm_free(all);
    return fm_comm_agree(world, rc);
}
