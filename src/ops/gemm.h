/* Matrix multiplication through a library: the registry of those that finemesh knows. */
#ifndef FM_OPS_GEMM_H
#define FM_OPS_GEMM_H

#include "ops/compute.h"

/* Opens the library that configure chose. Free with fm_gemm_close. Local. */
int fm_gemm_open(fm_gemm **out);
void fm_gemm_close(fm_gemm *gemm);
/* "oneDNN 2.6.3": the library and its version. Local; static storage. */
const char *fm_gemm_name(void);

/* All threads of the rank work on one product. Errors: the library's, or memory. Local. */
int fm_gemm_run(fm_gemm *gemm, const fm_gemm_args *args);

/* fp32 by the calling thread alone, inside a parallel region: C[m, n] = beta C + op(A) op(B). */
void fm_gemm_small(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                   int64_t ldb, float beta, float *c, int64_t ldc);

#endif
