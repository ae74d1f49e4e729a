/* The one function that the CUDA module exports. */
#include <stdio.h>
#include <string.h>

#include "mesh/own_gpu.h"
#include "ops/attention_cudnn.h"
#include "ops/cuda.h"
#include "ops/cuda_module.h"
#include "tensor/cuda.h"

static int describe(char *out, size_t out_bytes, int ordinal)
{
    struct cudaDeviceProp p;
    FM_TRY(fm_cuda_check(cudaGetDeviceProperties(&p, ordinal), "reading the device's properties"));
    snprintf(out, out_bytes, "%s, %.0f GiB", p.name, (double)p.totalGlobalMem / (1 << 30));
    return FM_OK;
}

#ifdef FM_WITH_CUDNN
static int cudnn_version(int *built, int *found)
{
    return fm_cudnn.version(built, found);
}
#endif

static const fm_cuda_module module = {
    .toolkit = CUDART_VERSION,
    .count = fm_cuda_count,
    .describe = describe,
    .open = fm_cuda_open,
    .ops = &fm_cuda_ops,
    .ranks_of_gpu = fm_own_gpu_ranks,
#ifdef FM_WITH_CUDNN
    .cudnn_version = cudnn_version,
#endif
#ifdef FM_WITH_NCCL
    .nccl_version = fm_nccl_version,
    .nccl_open = fm_nccl_open,
    .nccl_make = fm_nccl_make,
    .nccl_close = fm_nccl_close,
#endif
};

__attribute__((visibility("default"))) const fm_cuda_module *fm_cuda_entry(const fm_cuda_build *asker);

const fm_cuda_module *fm_cuda_entry(const fm_cuda_build *asker)
{
    static const fm_cuda_build build = FM_CUDA_BUILD;
    return memcmp(asker, &build, sizeof build) == 0 ? &module : NULL;
}
