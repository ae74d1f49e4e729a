/* The state of a CUDA device: for the files of the CUDA module only (X_cuda.c, X_cuda.cu, comm_nccl.c). Everything that is queued by
 * one rank is queued on `stream`, in order; other streams meet it by events. */
#ifndef FM_TENSOR_CUDA_H
#define FM_TENSOR_CUDA_H

#ifdef FM_CUDA_ON_HOST
#include "cuda_on_host.h"
#else
#include <cuda_runtime_api.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#include "tensor/device.h"

typedef struct fm_cuda_pool fm_cuda_pool;

/* Called while the host waits for the device: something that may have gone wrong elsewhere (a collective's peer). FM_OK or an error. */
typedef int fm_cuda_health_fn(void *context);

typedef struct {
    int ordinal;                       /* of the device */
    int multiprocessors;
    int capability;                    /* compute capability, 90 for 9.0 */
    size_t shared_bytes;               /* dynamic shared memory that a block may ask for */
    bool deterministic;                /* job.deterministic: no algorithm whose sums change order */
    bool own_attention;                /* attention by the module's kernels alone */
    void (*tell)(const char *line);    /* fm_cuda_options.tell */
    cudaStream_t stream;
    fm_cuda_pool *pool;
    void *staging;                     /* pinned: copies between host and device pass through it */
    cudaEvent_t *marks;                /* [n_marks] moments for who measures */
    int n_marks;
    fm_cuda_health_fn *health;         /* NULL: nothing to ask */
    void *health_context;
    char name[256];
} fm_cuda;

static inline fm_cuda *fm_cuda_of(const fm_device *device)
{
    return (fm_cuda *)device->state;
}

/* FM_OK, or an error that says what failed and why. Local. */
int fm_cuda_check(cudaError_t error, const char *what);

/* Waits for an event, asking meanwhile whether something else has failed (`health`), so that a lost peer cannot hold this rank for ever:
 * what is queued before the event may wait for one. `what` is what the host waits for, in errors. Local. */
int fm_cuda_wait_event(const fm_cuda *cuda, cudaEvent_t event, const char *what);

#ifdef __cplusplus
}
#endif
#endif
