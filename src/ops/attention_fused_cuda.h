/* Who computes attention on the GPU: a library's fused kernels (attention_cudnn.h) for the calls that they take, or the kernels of
 * attention_cuda.cu for all. The library is opened when the first call comes that is for it, and plans are kept by shape. What the
 * library cannot do, is missing for or has no memory for is told once (fm_cuda_options.tell) and left to the kernels: it is no error. All
 * functions are local. */
#ifndef FM_OPS_ATTENTION_FUSED_CUDA_H
#define FM_OPS_ATTENTION_FUSED_CUDA_H

#include "ops/attention_cudnn.h"
#include "ops/compute.h"

typedef struct fm_cuda_fused fm_cuda_fused;

/* Makes the choice for a device; *out is NULL, which chooses the kernels for every call, where the library is NULL (not built) or not
 * found, or the device is deterministic, which a fused backward pass is not, or is to use the kernels alone. Free with
 * fm_cuda_fused_destroy. */
int fm_cuda_fused_new(fm_cuda_fused **out, fm_device *device, const fm_fused_library *library);
void fm_cuda_fused_destroy(fm_cuda_fused *fused);

/* The entries of fm_ops. *done: queued by the library; else nothing was, and the kernels must. */
int fm_cuda_fused_attention(bool *done, fm_cuda_fused *fused, fm_compute *compute, void *out, enum fm_dtype out_dtype, float *lse,
                            const void *q, const void *k, const void *v, const fm_attention_args *args, bool merge);
int fm_cuda_fused_attention_backward(bool *done, fm_cuda_fused *fused, fm_compute *compute, void *dq, void *dk, void *dv,
                                     enum fm_dtype grad_dtype, const void *dout, const float *lse, const void *q, const void *k,
                                     const void *v, const fm_attention_args *args, bool add);

/* An estimate of what the library's calls take. */
size_t fm_cuda_fused_workspace_bytes(const fm_cuda_fused *fused, const fm_compute_sizes *sizes);

#endif
