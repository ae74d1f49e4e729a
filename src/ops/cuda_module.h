/* The CUDA module: finemesh_cuda.so, opened when a job wants a GPU. The program and this library know CUDA only by this table. */
#ifndef FM_OPS_CUDA_MODULE_H
#define FM_OPS_CUDA_MODULE_H

#include "mesh/comm_nccl.h"
#include "ops/compute.h"
#include "tensor/device_cuda.h"

/* Changes with every change of a struct or table that the module shares with the library. */
enum { FM_CUDA_ABI = 3 };

typedef struct {
    int abi;                           /* FM_CUDA_ABI of the module */
    int toolkit;                       /* CUDART_VERSION that it was built with, 13000 for 13.0 */
    /* device_cuda.h */
    int (*count)(int *out);
    int (*describe)(char *out, size_t out_bytes, int ordinal);
    int (*open)(fm_device **out, const fm_cuda_options *options);
    const fm_ops *ops;
    int (*cudnn_version)(int *built, int *found);   /* of fm_fused_library; NULL: built without cuDNN */
    /* comm_nccl.h; nccl_open NULL: built without NCCL */
    int (*nccl_version)(int *built, int *found);
    int (*nccl_open)(fm_nccl **out, fm_comm *world, fm_device *device);
    fm_comm_make_fn *nccl_make;        /* context: the fm_nccl */
    void (*nccl_close)(fm_nccl *nccl);
} fm_cuda_module;

/* What the module exports, under the name FM_CUDA_ENTRY. NULL where it was built for another abi. */
typedef const fm_cuda_module *fm_cuda_entry_fn(int abi);
#define FM_CUDA_ENTRY "fm_cuda_entry"

/* Opens the module: beside the program (in .libs of a build tree too), in ../lib/finemesh of it, or where `make install` put it. It
 * stays open. Errors say what is missing: the driver (asked for first: without one, CUDA's libraries are not even read), the module
 * (a build without CUDA), a library that the module needs, or a module of another build. Local. */
int fm_cuda_module_open(const fm_cuda_module **out);

/* Whether this build has a module; its file in *path [FM_PATH_BYTES] where path is not NULL. Local. */
bool fm_cuda_module_is_built(char *path);

#endif
