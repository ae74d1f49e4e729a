/* The operations of a model, on a device. A device provides them as one const table (cpu.c holds the reference's); the model calls
 * compute->ops->NAME(compute, ...) and knows no device. All operations are local: none communicates.
 *
 * Conventions. Every array that is read or written lies in the device's memory; numbers, and the lists of parts and spans, are the host's.
 * Nothing waits: an operation is done in the order in which it was asked for, and its results come to the host by
 * fm_device_copy_out. Outputs first. N rows (tokens); matrices are row-major with a leading dimension ld in elements. `dtype` is that of
 * weights, activations and their gradients (F32, BF16 or F16); arithmetic, statistics and gradients of parameters are fp32.
 * Every output says whether it is written (=) or added to (+=). */
#ifndef FM_OPS_COMPUTE_H
#define FM_OPS_COMPUTE_H

#include <stdbool.h>

#include "tensor/device.h"

typedef struct fm_compute fm_compute;

/* C[m, n] = or += alpha * op(A)[m, k] op(B)[k, n] + addend + bias. A and B have one dtype; C, the addend and the bias are in it or fp32.
 * A device may add them before it rounds. */
typedef struct {
    enum fm_dtype in, out;
    bool trans_a, trans_b;             /* A is stored [k, m]; B is stored [n, k] */
    bool accumulate;                   /* +=; needs out == F32 or in == out */
    int64_t m, n, k;
    const void *a;
    int64_t lda;
    const void *b;
    int64_t ldb;
    void *c;
    int64_t ldc;
    float alpha;                       /* 0 counts as 1 */
    const void *addend;                /* [m, n] with C's ld, not C itself; NULL: none. Not where it accumulates */
    const void *bias;                  /* [n], added to every row; NULL: none. Not where it accumulates */
} fm_gemm_args;

/* One call of attention: queries against one contiguous piece of keys. A key is visible to a query where both have the same
 * document, its position is not greater, and (window > 0) less than `window` smaller. Documents below 0 are padding: such queries
 * give 0, such keys are never seen. Within a batch row, the keys of a document stand together with positions that rise by 1; queries
 * may be two such runs with a gap between (the two chunks of a rank in parallel/context.h). */
typedef struct {
    enum fm_dtype dtype;
    int B;                             /* batch rows */
    int64_t Tq, Tk;                    /* queries and keys of a batch row in this call */
    int64_t q_row, k_row;              /* tokens between batch rows in q/out/lse and in k/v */
    int H, K, D;                       /* local query heads, key/value heads (H a multiple of K), head width */
    int64_t ldq, ldk, ldo;             /* elements between tokens of q and dq, of k, v, dk and dv, of out and dout */
    float scale;
    int64_t window;                    /* 0: none */
    const int32_t *q_position, *q_document;   /* [B, q_row] */
    const int32_t *k_position, *k_document;   /* [B, k_row] */
    bool plain;                        /* known before: every batch row is one document, its Tq = Tk queries are its keys, and query t
                                        * stands at key t. The arrays above say the same */
    const void *out;                   /* backward: the result whose gradient dout is, strides as dout; NULL: not at hand */
} fm_attention_args;

typedef struct {
    double lr, beta1, beta2, eps;      /* double: 1 - beta2 of a rounded beta2 is off by 1e-5 */
    double gradient_scale;             /* clipping, loss scale */
    double correction1, correction2;   /* 1 - beta^t */
} fm_adamw_args;

/* One tensor's part in an update. `master` is updated; `weight` (NULL where it is the master) is it, rounded. */
typedef struct {
    void *master, *weight, *m, *v;
    const float *gradient;
    int64_t n;
    double weight_decay;
} fm_adamw_part;

/* A run of fp32 numbers. */
typedef struct {
    const float *x;
    int64_t n;
} fm_span;

/* What the largest of a model's calls are made of. */
typedef struct {
    enum fm_dtype dtype;
    int64_t N;                         /* tokens */
    int64_t C, F;                      /* widths */
    int64_t chunk_rows, words;         /* logits at once */
    int H, K, D;                       /* local heads */
} fm_compute_sizes;

typedef struct {
    const char *name;

    /* Makes and releases compute->state, what the operations keep between calls. */
    int (*open)(fm_compute *compute);
    void (*close)(fm_compute *compute);

    /* See fm_compute_workspace_bytes. */
    size_t (*workspace_bytes)(const fm_compute *compute, const fm_compute_sizes *sizes);

    int (*gemm)(fm_compute *compute, const fm_gemm_args *args);

    /* y += bias, rows of width n; db [n] += column sums of dy. */
    int (*bias_add)(fm_compute *compute, void *y, const void *bias, enum fm_dtype dtype, int64_t N, int64_t n, int64_t ld);
    int (*bias_backward)(fm_compute *compute, float *db, const void *dy, enum fm_dtype dtype, int64_t N, int64_t n, int64_t ld);

    /* y += x and y = x, n elements (or N rows of n with strides). */
    int (*add)(fm_compute *compute, void *y, const void *x, enum fm_dtype dtype, int64_t n);
    int (*copy_rows)(fm_compute *compute, void *y, int64_t ldy, enum fm_dtype y_dtype, const void *x, int64_t ldx, enum fm_dtype x_dtype,
                     int64_t N, int64_t n);
    /* x *= factor, fp32. */
    int (*scale)(fm_compute *compute, float *x, float factor, int64_t n);

    /* RMSNorm over `heads` groups of width n in each of N rows (heads = 1: the whole row). y = w x / sqrt(mean x^2 + eps);
     * rstd [N, heads] =. Source: LlamaRMSNorm. */
    int (*rmsnorm)(fm_compute *compute, void *y, int64_t ldy, float *rstd, const void *x, int64_t ldx, const void *w,
                   enum fm_dtype dtype, int64_t N, int heads, int64_t n, double eps);
    /* dx = (or += where add) rstd (w dy - xhat mean(w dy xhat)), xhat = x rstd. */
    int (*rmsnorm_backward)(fm_compute *compute, void *dx, int64_t lddx, bool add, const void *dy, int64_t lddy, const void *x, int64_t ldx,
                            const void *w, const float *rstd, enum fm_dtype dtype, int64_t N, int heads, int64_t n);
    /* dw [n] += */
    int (*rmsnorm_backward_weight)(fm_compute *compute, float *dw, const void *dy, int64_t lddy, const void *x, int64_t ldx,
                                   const float *rstd, enum fm_dtype dtype, int64_t N, int heads, int64_t n);

    /* Rotates the first rotary_dim elements of each head in place; cos and sin [n_positions, rotary_dim / 2];
     * inverse: the transposed rotation (backward). Source: apply_rotary_pos_emb (halves, not pairs). */
    int (*rope)(fm_compute *compute, void *x, int64_t ld, const float *cos, const float *sin, const int32_t *position, bool inverse,
                enum fm_dtype dtype, int64_t N, int heads, int D, int rotary_dim);

    /* out = attention, lse [B, q_row, H] = log of the sum of exponentials (-inf where nothing is seen).
     * merge: out (fp32 in out_dtype F32) and lse already hold the result over other keys; both are combined. */
    int (*attention)(fm_compute *compute, void *out, enum fm_dtype out_dtype, float *lse, const void *q, const void *k, const void *v,
                     const fm_attention_args *args, bool merge);
    /* delta [B, q_row, H] = sum over D of dout * out. */
    int (*attention_delta)(fm_compute *compute, float *delta, const void *dout, const void *out, const fm_attention_args *args);
    /* Gradients over one piece of keys, with the lse and delta of all. grad_dtype is that of dq, dk, dv; add: += (F32 only), else =. */
    int (*attention_backward)(fm_compute *compute, void *dq, void *dk, void *dv, enum fm_dtype grad_dtype, const void *dout,
                              const float *lse, const float *delta, const void *q, const void *k, const void *v,
                              const fm_attention_args *args, bool add);

    /* a [N, F] = silu(gate) * up; gu [N, 2 F] holds gate then up in each row. Source: LlamaMLP. */
    int (*swiglu)(fm_compute *compute, void *a, const void *gu, enum fm_dtype dtype, int64_t N, int64_t F);
    /* dgu [N, 2 F] =; may be in place of gu. */
    int (*swiglu_backward)(fm_compute *compute, void *dgu, const void *da, const void *gu, enum fm_dtype dtype, int64_t N, int64_t F);

    /* x [N, C] = rows of W [count, C] for ids in [start, start + count); other rows are left (keep) or zeroed (not keep). */
    int (*embedding)(fm_compute *compute, void *x, const int32_t *ids, const void *w, int64_t start, int64_t count, bool keep,
                     enum fm_dtype dtype, int64_t N, int64_t C);
    /* dW [count, C] += rows of dx, but for the id `padding` (-1: none). */
    int (*embedding_backward)(fm_compute *compute, float *dw, const int32_t *ids, const void *dx, int64_t start, int64_t count,
                              int64_t padding, enum fm_dtype dtype, int64_t N, int64_t C);

    /* max [N] = -inf, sums [2 N] = 0: what the statistics below start from (sum, then label_logit). */
    int (*cross_entropy_begin)(fm_compute *compute, float *max, float *sums, int64_t N);
    /* Online statistics of cross entropy over one vocabulary chunk: logits [N, n] fp32 of words [start, start + n);
     * max, sum (of exp(l - max)) and label_logit [N] are updated. */
    int (*cross_entropy_chunk)(fm_compute *compute, float *max, float *sum, float *label_logit, const float *logits,
                               const int32_t *labels, int64_t start, int64_t N, int64_t n);
    /* sum *= exp(old_max - new_max): statistics of one rank brought to the maximum of all. */
    int (*cross_entropy_rescale)(fm_compute *compute, float *sum, const float *old_max, const float *new_max, int64_t N);
    /* *loss += sum over N of max + log(sum) - label_logit, in double, in order. */
    int (*cross_entropy_finish)(fm_compute *compute, double *loss, const float *max, const float *sum, const float *label_logit,
                                int64_t N);
    /* dlogits [N, n] (in place of logits only where dtype is F32) = scale * (exp(logits - max) / sum - onehot); 0 in rows whose label is
     * negative. max and sum of the whole vocabulary: their logarithm, rounded, would be off by more than a product. */
    int (*cross_entropy_backward)(fm_compute *compute, void *dlogits, enum fm_dtype dtype, const float *logits, const float *max,
                                  const float *sum, const int32_t *labels, int64_t start, float scale, int64_t N, int64_t n);

    /* torch.optim.AdamW on n_parts tensors: masters of master_dtype, weights of dtype, moments of state_dtype. */
    int (*adamw)(fm_compute *compute, const fm_adamw_part *parts, int n_parts, enum fm_dtype master_dtype, enum fm_dtype dtype,
                 enum fm_dtype state_dtype, const fm_adamw_args *args);

    /* out [n_spans] = each one's sum of squares in double, summed in a fixed order. */
    int (*sum_squares)(fm_compute *compute, double *out, const fm_span *spans, int n_spans);
} fm_ops;

struct fm_compute {
    const fm_ops *ops;
    fm_device *device;
    void *state;                       /* the table's own */
    void *scratch;                     /* threads x scratch_bytes of the host, grown on demand */
    size_t scratch_bytes;
    void *shared;                      /* of the device, grown on demand */
    size_t shared_bytes;
    struct fm_ops_timing *timing;      /* ops/timed.h; NULL: nobody measures */
};

/* The operations of a device; `ops` NULL: the CPU's. Local. Free with fm_compute_destroy. */
int fm_compute_new(fm_compute **out, fm_device *device, const fm_ops *ops);
void fm_compute_destroy(fm_compute *compute);

/* Makes every thread's scratch at least this large. Outside parallel regions only. */
int fm_compute_reserve(fm_compute *compute, size_t bytes_per_thread);

/* Bytes that the operations of a model will take for themselves: scratch, sums of attention's backward pass, and an estimate of what
 * the libraries take. Local. */
size_t fm_compute_workspace_bytes(const fm_compute *compute, const fm_compute_sizes *sizes);

/* Makes the shared workspace at least this large; what was in it is lost. Outside parallel regions only. */
int fm_compute_reserve_shared(fm_compute *compute, size_t bytes);

/* This thread's scratch. Inside parallel regions. */
void *fm_compute_scratch(const fm_compute *compute);

#endif
