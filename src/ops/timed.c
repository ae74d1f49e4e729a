#include "ops/timed.h"

#include <string.h>

#define SIZE(dtype) ((double)fm_dtype_bytes(dtype))

/* Bytes of an AdamW update: master and moments are read and written, the gradient read, rounded weights written. */
static double adamw_bytes(const fm_adamw_part *parts, int n_parts, enum fm_dtype master, enum fm_dtype dtype, enum fm_dtype state)
{
    double sum = 0.0;
    for (int i = 0; i < n_parts; i++) {
        sum += (double)parts[i].n
             * (2.0 * SIZE(master) + 4.0 * SIZE(state) + (parts[i].weight != NULL ? SIZE(dtype) : 0.0) + sizeof(float));
    }
    return sum;
}

static double span_bytes(const fm_span *spans, int n_spans)
{
    double sum = 0.0;
    for (int i = 0; i < n_spans; i++) {
        sum += (double)spans[i].n * sizeof(float);
    }
    return sum;
}

/* X(entry, part, bytes, parameters, arguments): every entry of fm_ops but gemm, which is counted by kind. Attention's bytes are no
 * measure of it; the statistics' few are left out. */
#define FM_TIMED_LIST(X) \
    X(bias_add, KERNELS, 2.0 * (double)(N * n) * SIZE(dtype), \
      (fm_compute *compute, void *y, const void *bias, enum fm_dtype dtype, int64_t N, int64_t n, int64_t ld), \
      (compute, y, bias, dtype, N, n, ld)) \
    X(bias_backward, KERNELS, (double)(N * n) * SIZE(dtype), \
      (fm_compute *compute, float *db, const void *dy, enum fm_dtype dtype, int64_t N, int64_t n, int64_t ld), \
      (compute, db, dy, dtype, N, n, ld)) \
    X(add, KERNELS, 3.0 * (double)n * SIZE(dtype), \
      (fm_compute *compute, void *y, const void *x, enum fm_dtype dtype, int64_t n), (compute, y, x, dtype, n)) \
    X(copy_rows, KERNELS, (double)(N * n) * (SIZE(y_dtype) + SIZE(x_dtype)), \
      (fm_compute *compute, void *y, int64_t ldy, enum fm_dtype y_dtype, const void *x, int64_t ldx, enum fm_dtype x_dtype, int64_t N, \
       int64_t n), (compute, y, ldy, y_dtype, x, ldx, x_dtype, N, n)) \
    X(scale, OPTIMIZER, 2.0 * (double)n * sizeof(float), \
      (fm_compute *compute, float *x, float factor, int64_t n), (compute, x, factor, n)) \
    X(rmsnorm, KERNELS, 2.0 * (double)(N * heads * n) * SIZE(dtype), \
      (fm_compute *compute, void *y, int64_t ldy, float *rstd, const void *x, int64_t ldx, const void *w, enum fm_dtype dtype, \
       int64_t N, int heads, int64_t n, double eps), (compute, y, ldy, rstd, x, ldx, w, dtype, N, heads, n, eps)) \
    X(rmsnorm_backward, KERNELS, (add ? 4.0 : 3.0) * (double)(N * heads * n) * SIZE(dtype), \
      (fm_compute *compute, void *dx, int64_t lddx, bool add, const void *dy, int64_t lddy, const void *x, int64_t ldx, const void *w, \
       const float *rstd, enum fm_dtype dtype, int64_t N, int heads, int64_t n), \
      (compute, dx, lddx, add, dy, lddy, x, ldx, w, rstd, dtype, N, heads, n)) \
    X(rmsnorm_backward_weight, KERNELS, 2.0 * (double)(N * heads * n) * SIZE(dtype), \
      (fm_compute *compute, float *dw, const void *dy, int64_t lddy, const void *x, int64_t ldx, const float *rstd, \
       enum fm_dtype dtype, int64_t N, int heads, int64_t n), (compute, dw, dy, lddy, x, ldx, rstd, dtype, N, heads, n)) \
    X(rope, KERNELS, 2.0 * (double)(N * heads * rotary_dim) * SIZE(dtype), \
      (fm_compute *compute, void *x, int64_t ld, const float *cos, const float *sin, const int32_t *position, bool inverse, \
       enum fm_dtype dtype, int64_t N, int heads, int D, int rotary_dim), \
      (compute, x, ld, cos, sin, position, inverse, dtype, N, heads, D, rotary_dim)) \
    X(attention, ATTENTION, 0.0, \
      (fm_compute *compute, void *out, enum fm_dtype out_dtype, float *lse, const void *q, const void *k, const void *v, \
       const fm_attention_args *args, bool merge), (compute, out, out_dtype, lse, q, k, v, args, merge)) \
    X(attention_delta, ATTENTION, 0.0, \
      (fm_compute *compute, float *delta, const void *dout, const void *out, const fm_attention_args *args), \
      (compute, delta, dout, out, args)) \
    X(attention_backward, ATTENTION, 0.0, \
      (fm_compute *compute, void *dq, void *dk, void *dv, enum fm_dtype grad_dtype, const void *dout, const float *lse, \
       const float *delta, const void *q, const void *k, const void *v, const fm_attention_args *args, bool add), \
      (compute, dq, dk, dv, grad_dtype, dout, lse, delta, q, k, v, args, add)) \
    X(swiglu, KERNELS, 3.0 * (double)(N * F) * SIZE(dtype), \
      (fm_compute *compute, void *a, const void *gu, enum fm_dtype dtype, int64_t N, int64_t F), (compute, a, gu, dtype, N, F)) \
    X(swiglu_backward, KERNELS, 5.0 * (double)(N * F) * SIZE(dtype), \
      (fm_compute *compute, void *dgu, const void *da, const void *gu, enum fm_dtype dtype, int64_t N, int64_t F), \
      (compute, dgu, da, gu, dtype, N, F)) \
    X(embedding, KERNELS, 2.0 * (double)(N * C) * SIZE(dtype), \
      (fm_compute *compute, void *x, const int32_t *ids, const void *w, int64_t start, int64_t count, bool keep, enum fm_dtype dtype, \
       int64_t N, int64_t C), (compute, x, ids, w, start, count, keep, dtype, N, C)) \
    X(embedding_backward, KERNELS, (double)(N * C) * (SIZE(dtype) + 2.0 * sizeof(float)), \
      (fm_compute *compute, float *dw, const int32_t *ids, const void *dx, int64_t start, int64_t count, int64_t padding, \
       enum fm_dtype dtype, int64_t N, int64_t C), (compute, dw, ids, dx, start, count, padding, dtype, N, C)) \
    X(cross_entropy_begin, KERNELS, 0.0, (fm_compute *compute, float *max, float *sums, int64_t N), (compute, max, sums, N)) \
    X(cross_entropy_chunk, KERNELS, (double)(N * n) * sizeof(float), \
      (fm_compute *compute, float *max, float *sum, float *label_logit, const float *logits, const int32_t *labels, int64_t start, \
       int64_t N, int64_t n), (compute, max, sum, label_logit, logits, labels, start, N, n)) \
    X(cross_entropy_rescale, KERNELS, 0.0, \
      (fm_compute *compute, float *sum, const float *old_max, const float *new_max, int64_t N), (compute, sum, old_max, new_max, N)) \
    X(cross_entropy_finish, KERNELS, 0.0, \
      (fm_compute *compute, double *loss, const float *max, const float *sum, const float *label_logit, int64_t N), \
      (compute, loss, max, sum, label_logit, N)) \
    X(cross_entropy_backward, KERNELS, (double)(N * n) * (sizeof(float) + SIZE(dtype)), \
      (fm_compute *compute, void *dlogits, enum fm_dtype dtype, const float *logits, const float *max, const float *sum, \
       const int32_t *labels, int64_t start, float scale, int64_t N, int64_t n), \
      (compute, dlogits, dtype, logits, max, sum, labels, start, scale, N, n)) \
    X(adamw, OPTIMIZER, adamw_bytes(parts, n_parts, master_dtype, dtype, state_dtype), \
      (fm_compute *compute, const fm_adamw_part *parts, int n_parts, enum fm_dtype master_dtype, enum fm_dtype dtype, \
       enum fm_dtype state_dtype, const fm_adamw_args *args), (compute, parts, n_parts, master_dtype, dtype, state_dtype, args)) \
    X(sum_squares, OPTIMIZER, span_bytes(spans, n_spans), \
      (fm_compute *compute, double *out, const fm_span *spans, int n_spans), (compute, out, spans, n_spans))

/* Rows of the stopwatch: the operations, gemm being those products that have no kind of their own; then the kinds. */
enum {
#define FM_TIMED(entry, part, bytes, parameters, arguments) ROW_##entry,
    FM_TIMED_LIST(FM_TIMED)
#undef FM_TIMED
    ROW_gemm,
    ROWS,
    FIRST_KIND = FM_OPS_TIMED_ROWS - FM_GEMM_SHAPES
};

_Static_assert(ROWS <= FIRST_KIND, "the operations need more rows than there are");
_Static_assert(sizeof(fm_ops) == (ROWS + 4) * sizeof(void *), "an operation of fm_ops is missing in FM_TIMED_LIST");

struct fm_ops_timing {
    fm_compute *compute;
    const fm_ops *plain;
    fm_stopwatch *stopwatch;
    double bytes[ROWS];
    fm_gemm_args kinds[FM_GEMM_SHAPES];
    int n_kinds;
};

static int finish(fm_ops_timing *timing, int row, double bytes, int rc)
{
    const int timed = fm_stopwatch_end(timing->stopwatch, row);
    if (row < ROWS) {
        timing->bytes[row] += bytes;
    }
    return rc < 0 ? rc : timed;
}

#define FM_TIMED(entry, part, bytes, parameters, arguments) \
static int timed_##entry parameters \
{ \
    fm_ops_timing *const timing = compute->timing; \
    fm_stopwatch_begin(timing->stopwatch); \
    return finish(timing, ROW_##entry, bytes, timing->plain->entry arguments); \
}
FM_TIMED_LIST(FM_TIMED)
#undef FM_TIMED

/* A bias or a residual makes no other kind: they are little beside the product. */
static bool is_kind(const fm_gemm_args *a, const fm_gemm_args *b)
{
    return a->in == b->in && a->out == b->out && a->trans_a == b->trans_a && a->trans_b == b->trans_b && a->accumulate == b->accumulate
        && a->m == b->m && a->n == b->n && a->k == b->k && a->lda == b->lda && a->ldb == b->ldb && a->ldc == b->ldc;
}

static int row_of(fm_ops_timing *timing, const fm_gemm_args *args)
{
    for (int i = 0; i < timing->n_kinds; i++) {
        if (is_kind(&timing->kinds[i], args)) {
            return FIRST_KIND + i;
        }
    }
    if (timing->n_kinds == FM_GEMM_SHAPES) {
        return ROW_gemm;
    }
    timing->kinds[timing->n_kinds] = *args;
    return FIRST_KIND + timing->n_kinds++;
}

static int timed_gemm(fm_compute *compute, const fm_gemm_args *args)
{
    fm_ops_timing *const timing = compute->timing;
    const int row = row_of(timing, args);
    fm_stopwatch_begin(timing->stopwatch);
    return finish(timing, row, 0.0, timing->plain->gemm(compute, args));
}

/* What is no work passes through. */
static int open_plain(fm_compute *compute)
{
    return compute->timing->plain->open(compute);
}

static void close_plain(fm_compute *compute)
{
    compute->timing->plain->close(compute);
}

static size_t plain_workspace_bytes(const fm_compute *compute, const fm_compute_sizes *sizes)
{
    return compute->timing->plain->workspace_bytes(compute, sizes);
}

static const fm_ops timed_ops = {
    .name = "timed",
    .open = open_plain,
    .close = close_plain,
    .workspace_bytes = plain_workspace_bytes,
    .gemm = timed_gemm,
#define FM_TIMED(entry, part, bytes, parameters, arguments) .entry = timed_##entry,
    FM_TIMED_LIST(FM_TIMED)
#undef FM_TIMED
};

int fm_ops_timing_begin(fm_ops_timing **out, fm_compute *compute, fm_stopwatch *stopwatch)
{
    FM_ASSERT(compute->timing == NULL);
    fm_ops_timing *const timing = fm_alloc(sizeof *timing, FM_MEMORY_HOST);
    *out = timing;
    if (timing == NULL) {
        return FM_ERR_MEMORY;
    }
    timing->compute = compute;
    timing->stopwatch = stopwatch;
    timing->plain = compute->ops;
    compute->ops = &timed_ops;
    compute->timing = timing;
    return FM_OK;
}

void fm_ops_timing_end(fm_ops_timing *timing)
{
    if (timing != NULL) {
        timing->compute->ops = timing->plain;
        timing->compute->timing = NULL;
        fm_free(timing);
    }
}

void fm_ops_timing_clear(fm_ops_timing *timing)
{
    memset(timing->bytes, 0, sizeof timing->bytes);
    timing->n_kinds = 0;
}

int fm_ops_timing_count(void)
{
    return ROWS;
}

fm_op_cost fm_ops_timing_get(const fm_ops_timing *timing, int op)
{
    static const struct {
        const char *name;
        enum fm_part part;
    } table[ROWS] = {
#define FM_TIMED(entry, part, bytes, parameters, arguments) [ROW_##entry] = { #entry, FM_PART_##part },
        FM_TIMED_LIST(FM_TIMED)
#undef FM_TIMED
        [ROW_gemm] = { "gemm", FM_PART_GEMM },
    };
    fm_lap lap = fm_stopwatch_get(timing->stopwatch, op);
    for (int i = 0; op == ROW_gemm && i < timing->n_kinds; i++) {
        const fm_lap kind = fm_stopwatch_get(timing->stopwatch, FIRST_KIND + i);
        lap.calls += kind.calls;
        lap.seconds += kind.seconds;
    }
    return (fm_op_cost){ table[op].name, table[op].part, lap.calls, lap.seconds, timing->bytes[op] };
}

int fm_ops_timing_gemms(const fm_ops_timing *timing)
{
    return timing->n_kinds;
}

fm_gemm_cost fm_ops_timing_gemm(const fm_ops_timing *timing, int kind)
{
    const fm_lap lap = fm_stopwatch_get(timing->stopwatch, FIRST_KIND + kind);
    fm_gemm_cost cost = { timing->kinds[kind], lap.calls, lap.seconds };
    cost.args.a = cost.args.b = NULL;
    cost.args.addend = cost.args.bias = NULL;
    cost.args.c = NULL;
    return cost;
}

double fm_gemm_flops(const fm_gemm_args *args)
{
    return 2.0 * (double)args->m * (double)args->n * (double)args->k;
}
