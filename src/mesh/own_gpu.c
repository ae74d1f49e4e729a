#include "mesh/own_gpu.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/cuda.h"

/* A GPU, as all ranks can compare it: the machine's boot (its name, where the boot cannot be read) and the place on its bus. */
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

/* Containers of one machine may have names of their own: the boot says more, where it is known. */
static bool is_same(const gpu_name *a, const gpu_name *b)
{
    const bool known = a->boot[0] != '\0' && b->boot[0] != '\0';
    return (known ? strcmp(a->boot, b->boot) == 0 : strcmp(a->host, b->host) == 0) && strcmp(a->bus, b->bus) == 0;
}

/* The names of all ranks' GPUs; NULL on failure. Collective on world. */
static int gather_names(gpu_name **out, fm_comm *world, int ordinal)
{
    gpu_name mine;
    *out = fm_alloc_array(fm_comm_size(world), sizeof **out, FM_MEMORY_HOST);
    int rc = fm_comm_agree(world, *out == NULL ? FM_ERR_MEMORY : name_gpu(&mine, ordinal));
    if (rc == FM_OK) {
        rc = fm_comm_all_gather(world, *out, &mine, sizeof mine, FM_U8);
    }
    if (rc < 0) {
        fm_free(*out);
        *out = NULL;
    }
    return rc;
}

int fm_own_gpu_ranks(int *out, fm_comm *world, int ordinal)
{
    gpu_name *all;
    *out = 0;
    FM_TRY(gather_names(&all, world, ordinal));
    for (int r = 0; r < fm_comm_size(world); r++) {
        *out += is_same(&all[r], &all[fm_comm_rank(world)]);
    }
    fm_free(all);
    return FM_OK;
}

int fm_own_gpu_check(fm_comm *world, int ordinal)
{
    const int size = fm_comm_size(world);
    gpu_name *all;
    FM_TRY(gather_names(&all, world, ordinal));
    int rc = FM_OK;
    for (int b = 1; b < size && rc == FM_OK; b++) {
        for (int a = 0; a < b && rc == FM_OK; a++) {
            if (is_same(&all[a], &all[b])) {
                rc = fm_fail(FM_ERR_JOB, "ranks %d and %d have the same GPU, %s of %s, and NCCL takes one rank a GPU: start as many "
                             "ranks as there are GPUs, or set distributed.backend = mpi, which lets ranks share a GPU and is slower",
                             a, b, all[b].bus, all[b].host);
            }
        }
    }
    fm_free(all);
    return fm_comm_agree(world, rc);
}
