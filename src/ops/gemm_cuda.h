/* Matrix products on the GPU through cuBLASLt: fp32 sums, no TF32. Each shape's algorithm is chosen when it first comes: timed among the
 * library's best, or (deterministic) its first without sums whose order changes. All functions are local. */
#ifndef FM_OPS_GEMM_CUDA_H
#define FM_OPS_GEMM_CUDA_H

#include "ops/compute.h"

typedef struct fm_cuda_gemm fm_cuda_gemm;

int fm_cuda_gemm_open(fm_cuda_gemm **out, fm_device *device);
void fm_cuda_gemm_close(fm_cuda_gemm *gemm);

/* Queues a product. out == in, or F32. `*has_bias`: the library added the bias itself; false where it takes none of this alignment or type,
 * or where there is no bias. */
int fm_cuda_gemm_run(bool *has_bias, fm_cuda_gemm *gemm, const fm_gemm_args *args);

#endif
