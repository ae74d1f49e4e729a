/* Between the files of attention on the GPU: what the kernels know of a call, and the functions that launch them. C++ only. */
#ifndef FM_OPS_ATTENTION_CUDA_H
#define FM_OPS_ATTENTION_CUDA_H
#ifdef __cplusplus

#include "ops/cuda_kernel.h"

enum {
    FM_SPAN = 64,                      /* queries whose keys are found together */
    FM_SPAN_ROWS = 128,                /* the queries of a batch row are counted as a multiple of this: no kernel's tile is taller */
    FM_ATTENTION_WIDEST = 256          /* D of any kernel */
};

/* The keys [first, end) that a query sees; none: first = end = 0. */
typedef struct {
    int32_t first, end;
} fm_key_range;

/* The keys that the queries of a span see: some query sees each of [first, end) (or a gap between two runs), every query that sees any
 * sees all of [full_first, full_end). None: first = INT32_MAX, end = 0. */
typedef struct {
    int32_t first, end, full_first, full_end;
} fm_key_span;

/* What the backward pass must know of a query and head: lse log2(e) (infinite where it sees none of the keys), and delta. */
typedef struct {
    float lse2, delta;
} fm_query_stats;

/* A call as kernels know it. */
typedef struct {
    fm_attention_args args;
    int64_t rows;                      /* Tq rounded up to FM_SPAN_ROWS */
    int64_t spans;                     /* of a batch row: rows / FM_SPAN */
    float scale_log2;                  /* scale log2(e): the kernels take powers of 2 */
    fm_key_range *ranges;              /* [B, rows] */
    fm_key_span *span;                 /* [B, spans] */
    fm_query_stats *stats;             /* backward: [B, H, rows] */
} fm_attention_call;

/* Where the results of a forward call go. */
typedef struct {
    void *out;
    float *lse;
    bool wide, merge;                  /* out is fp32; see fm_ops */
} fm_attention_out;

/* Operands and results of a backward call. */
typedef struct {
    void *dq, *dk, *dv;
    const void *dout;
    bool wide, add;                    /* gradients are fp32; += */
} fm_attention_gradients;

/* ---- in kernels ---- */

#define FM_LOG2_E 1.4426950408889634f

/* The union of what n spans see. */
static __device__ __forceinline__ fm_key_span fm_key_span_union(const fm_key_span *span, int n)
{
    fm_key_span all = span[0];
    for (int i = 1; i < n; i++) {
        const fm_key_span one = span[i];
        all.first = min(all.first, one.first);
        all.end = max(all.end, one.end);
        all.full_first = max(all.full_first, one.full_first);
        all.full_end = min(all.full_end, one.full_end);
    }
    return all;
}

static __device__ __forceinline__ bool fm_key_range_has(fm_key_range range, int key)
{
    return (unsigned)(key - range.first) < (unsigned)(range.end - range.first);
}

/* The place of a block: heads first, so that those of one group read the same keys at the same time; then tiles from the last on, as
 * the longest must not start last. */
struct fm_query_place {
    int head, batch;
    int64_t query;                     /* first of the tile */
};

static __device__ __forceinline__ fm_query_place fm_query_place_of(unsigned block, const fm_attention_args &args, int queries)
{
    const unsigned tiles = (unsigned)((args.Tq + queries - 1) / queries), rest = block / (unsigned)args.H;
    return fm_query_place{ (int)(block % (unsigned)args.H), (int)(rest / tiles), (int64_t)(tiles - 1 - rest % tiles) * queries };
}

/* ---- the kernels of other files ---- */

/* Any dtype, D and alignment, in fp32 arithmetic without tensor cores. */
int fm_attention_plain_forward(fm_compute *compute, const fm_attention_call *call, const fm_attention_out *to, const void *q,
                               const void *k, const void *v);
int fm_attention_plain_backward(fm_compute *compute, const fm_attention_call *call, const fm_attention_gradients *to, const void *q,
                                const void *k, const void *v);

/* BF16 and F16, D a multiple of 8, rows and pointers aligned to 16 bytes, on tensor cores. The _takes functions say whether the device
 * has what they need. */
bool fm_attention_mma_forward_takes(const fm_compute *compute, const fm_attention_args *args);
int fm_attention_mma_forward(fm_compute *compute, const fm_attention_call *call, const fm_attention_out *to, const void *q, const void *k,
                             const void *v);
bool fm_attention_mma_backward_takes(const fm_compute *compute, const fm_attention_args *args);
int fm_attention_mma_backward(fm_compute *compute, const fm_attention_call *call, const fm_attention_gradients *to, const void *q,
                              const void *k, const void *v);

#endif
#endif
