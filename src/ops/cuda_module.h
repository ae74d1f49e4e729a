/* The CUDA module: finemesh_cuda.so, opened when a job wants a GPU. The program and this library know CUDA only by this table. */
#ifndef FM_OPS_CUDA_MODULE_H
#define FM_OPS_CUDA_MODULE_H

#include "mesh/comm_backend.h"
#include "mesh/comm_nccl.h"
#include "ops/compute.h"
#include "tensor/device_cuda.h"

typedef struct {
    int toolkit;                       /* CUDART_VERSION that it was built with, 13000 for 13.0 */
    /* device_cuda.h */
    int (*count)(int *out);
    int (*describe)(char *out, size_t out_bytes, int ordinal);
    int (*open)(fm_device **out, const fm_cuda_options *options);
    const fm_ops *ops;
    int (*ranks_of_gpu)(int *out, fm_comm *world, int ordinal);   /* mesh/own_gpu.h */
    int (*cudnn_version)(int *built, int *found);   /* of fm_fused_library; NULL: built without cuDNN */
    /* comm_nccl.h; nccl_open NULL: built without NCCL */
    int (*nccl_version)(int *built, int *found);
    int (*nccl_open)(fm_nccl **out, fm_comm *world, fm_device *device);
    fm_comm_make_fn *nccl_make;        /* context: the fm_nccl */
    void (*nccl_close)(fm_nccl *nccl);
} fm_cuda_module;

/* X(type): what the module and the library share */
#define FM_CUDA_SHARED_LIST(X) \
    X(fm_cuda_module) X(fm_cuda_options) X(fm_device) X(fm_device_table) X(fm_ops) X(fm_compute) X(fm_compute_sizes) X(fm_gemm_args) \
    X(fm_attention_args) X(fm_adamw_args) X(fm_adamw_part) X(fm_span) X(fm_comm) X(fm_comm_backend) X(fm_comm_traffic) X(fm_request) \
    X(fm_watch_place)

/* A build, as its two halves compare it: bytes. `number` changes by hand where what is shared changes and no size tells it (the
 * parameters of a function, the order of members). */
typedef struct {
    uint32_t number;
#define FM_CUDA_MEMBER(type) uint32_t type##_bytes;
    FM_CUDA_SHARED_LIST(FM_CUDA_MEMBER)
#undef FM_CUDA_MEMBER
} fm_cuda_build;

#define FM_CUDA_SIZE(type) .type##_bytes = (uint32_t)sizeof(type),
#define FM_CUDA_BUILD { .number = 5, FM_CUDA_SHARED_LIST(FM_CUDA_SIZE) }

/* What the module exports, under the name FM_CUDA_ENTRY. NULL where it is of another build than the asker's. */
typedef const fm_cuda_module *fm_cuda_entry_fn(const fm_cuda_build *asker);
#define FM_CUDA_ENTRY "fm_cuda_entry"

/* Opens the module: beside the program (in .libs of a build tree too), in ../lib/finemesh of it, or where `make install` put it. It
 * stays open. Errors say what is missing: the driver (asked for first: without one, CUDA's libraries are not even read), the module
 * (a build without CUDA), a library that the module needs, or a module of another build. Local. */
int fm_cuda_module_open(const fm_cuda_module **out);

/* Whether the driver's library is on this machine. Local. */
bool fm_cuda_module_has_driver(void);

/* Whether this build has a module; its file in *path [FM_PATH_BYTES] where path is not NULL. Local. */
bool fm_cuda_module_is_built(char *path);

#endif
