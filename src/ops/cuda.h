/* The GPU's operations. Each is described in compute.h under its name in the table; all of them queue on the device's stream and
 * return before it is done. Those of elements and rows are deterministic. */
#ifndef FM_OPS_CUDA_H
#define FM_OPS_CUDA_H

#ifdef __cplusplus
extern "C" {
#endif

#include "ops/compute.h"
#include "tensor/device_cuda.h"

/* The table of all below, and of the products in gemm_cuda.c. */
extern const fm_ops fm_cuda_ops;

/* elementwise_cuda.cu, beside the device's fm_cuda_add_f32 and fm_cuda_convert */
int fm_cuda_bias_add(fm_compute *compute, void *y, const void *bias, enum fm_dtype dtype, int64_t N, int64_t n, int64_t ld);
int fm_cuda_add(fm_compute *compute, void *y, const void *x, enum fm_dtype dtype, int64_t n);
int fm_cuda_copy_rows(fm_compute *compute, void *y, int64_t ldy, enum fm_dtype y_dtype, const void *x, int64_t ldx,
                      enum fm_dtype x_dtype, int64_t N, int64_t n);
int fm_cuda_scale(fm_compute *compute, float *x, float factor, int64_t n);
int fm_cuda_swiglu(fm_compute *compute, void *a, const void *gu, enum fm_dtype dtype, int64_t N, int64_t F);
int fm_cuda_swiglu_backward(fm_compute *compute, void *dgu, const void *da, const void *gu, enum fm_dtype dtype, int64_t N, int64_t F);

/* columns_cuda.cu: sums over rows */
int fm_cuda_bias_backward(fm_compute *compute, float *db, const void *dy, enum fm_dtype dtype, int64_t N, int64_t n, int64_t ld);
int fm_cuda_rmsnorm_backward_weight(fm_compute *compute, float *dw, const void *dy, int64_t lddy, const void *x, int64_t ldx,
                                    const float *rstd, enum fm_dtype dtype, int64_t N, int heads, int64_t n);

/* norm_cuda.cu */
int fm_cuda_rmsnorm(fm_compute *compute, void *y, int64_t ldy, float *rstd, const void *x, int64_t ldx, const void *w,
                    enum fm_dtype dtype, int64_t N, int heads, int64_t n, double eps);
int fm_cuda_rmsnorm_backward(fm_compute *compute, void *dx, int64_t lddx, bool add, const void *dy, int64_t lddy, const void *x,
                             int64_t ldx, const void *w, const float *rstd, enum fm_dtype dtype, int64_t N, int heads, int64_t n);

/* rope_cuda.cu */
int fm_cuda_rope(fm_compute *compute, void *x, int64_t ld, const float *cos, const float *sin, const int32_t *position, bool inverse,
                 enum fm_dtype dtype, int64_t N, int heads, int D, int rotary_dim);

/* attention_cuda.cu */
int fm_cuda_attention(fm_compute *compute, void *out, enum fm_dtype out_dtype, float *lse, const void *q, const void *k, const void *v,
                      const fm_attention_args *args, bool merge);
int fm_cuda_attention_delta(fm_compute *compute, float *delta, const void *dout, const void *out, const fm_attention_args *args);
int fm_cuda_attention_backward(fm_compute *compute, void *dq, void *dk, void *dv, enum fm_dtype grad_dtype, const void *dout,
                               const float *lse, const float *delta, const void *q, const void *k, const void *v,
                               const fm_attention_args *args, bool add);
/* lse [B, q_row, H] = stats [B, H, Tq] in the order of tokens (to_tokens), or stats = lse in the order of heads. */
int fm_cuda_attention_order_lse(fm_compute *compute, float *lse, float *stats, const fm_attention_args *args, bool to_tokens);

/* embedding_cuda.cu */
int fm_cuda_embedding(fm_compute *compute, void *x, const int32_t *ids, const void *w, int64_t start, int64_t count, bool keep,
                      enum fm_dtype dtype, int64_t N, int64_t C);
int fm_cuda_embedding_backward(fm_compute *compute, float *dw, const int32_t *ids, const void *dx, int64_t start, int64_t count,
                               int64_t padding, enum fm_dtype dtype, int64_t N, int64_t C);

/* loss_cuda.cu */
int fm_cuda_cross_entropy_begin(fm_compute *compute, float *max, float *sum_label, int64_t N);
int fm_cuda_cross_entropy_chunk(fm_compute *compute, float *max, float *sum, float *label_logit, const float *logits,
                                const int32_t *labels, int64_t start, int64_t N, int64_t n);
int fm_cuda_cross_entropy_rescale(fm_compute *compute, float *sum, const float *old_max, const float *new_max, int64_t N);
int fm_cuda_cross_entropy_finish(fm_compute *compute, double *loss, const float *max, const float *sum, const float *label_logit,
                                 int64_t N);
int fm_cuda_cross_entropy_backward(fm_compute *compute, void *dlogits, enum fm_dtype dtype, const float *logits, const float *max,
                                   const float *sum, const int32_t *labels, int64_t start, float scale, int64_t N, int64_t n);

/* optimizer_cuda.cu */
int fm_cuda_adamw(fm_compute *compute, const fm_adamw_part *parts, int n_parts, enum fm_dtype master_dtype, enum fm_dtype dtype,
                  enum fm_dtype state_dtype, const fm_adamw_args *args);
int fm_cuda_sum_squares(fm_compute *compute, double *out, const fm_span *spans, int n_spans);

#ifdef __cplusplus
}
#endif
#endif
