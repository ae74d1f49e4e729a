/* Attention on the GPU: the entries of the operations' table, what every call needs first (which keys each query sees), and delta.
 * The products are in attention_mma_cuda.cu and attention_mma_backward_cuda.cu (tensor cores) and in attention_plain_cuda.cu (all
 * else). All of it is deterministic. */
#include "ops/attention_cuda.h"
#include "ops/cuda_kernel.h"

namespace {

enum { FIND_THREADS = 256, DELTA_THREADS = 256, DELTA_LANES = 8 };

/* ---- which keys a query sees ---- */

/* The keys [x, y) of one document among a batch row's, found by the whole block: they stand together. None: x > y. */
__device__ __forceinline__ int2 find_document(const int32_t *k_document, int64_t Tk, int document)
{
    FM_SHARED(int2, of_warp, FIND_THREADS / 32);
    int first = INT32_MAX, last = -1;
    for (int64_t j = threadIdx.x; j < Tk; j += FIND_THREADS) {
        if (k_document[j] == document) {
            first = min(first, (int)j);
            last = (int)j;
        }
    }
    FM_UNROLL
    for (int bits = 16; bits > 0; bits /= 2) {
        first = min(first, __shfl_xor_sync(0xffffffffu, first, bits));
        last = max(last, __shfl_xor_sync(0xffffffffu, last, bits));
    }
    if (threadIdx.x % 32 == 0) {
        of_warp[threadIdx.x / 32] = int2{ first, last + 1 };
    }
    __syncthreads();
    int2 all = of_warp[0];
    FM_UNROLL
    for (int i = 1; i < FIND_THREADS / 32; i++) {
        all.x = min(all.x, of_warp[i].x);
        all.y = max(all.y, of_warp[i].y);
    }
    __syncthreads();                   /* before the next document's */
    return all;
}

/* What a query sees that has `behind` keys of its document, which has the keys [x, y), before it. */
__device__ __forceinline__ fm_key_range range_of(int2 keys, int64_t behind, int64_t window)
{
    const int64_t last = keys.x + behind, end = min((int64_t)keys.y, last + 1);
    const int64_t first = window > 0 ? max((int64_t)keys.x, last - window + 1) : keys.x;
    return first < end ? fm_key_range{ (int32_t)first, (int32_t)end } : fm_key_range{ 0, 0 };
}

/* The span of the ranges that the first FM_SPAN threads of a block hold; in thread 0. */
__device__ __forceinline__ fm_key_span span_of(fm_key_range mine)
{
    FM_SHARED(fm_key_span, of_warp, FM_SPAN / 32);
    const bool sees = mine.first < mine.end;
    fm_key_span all = { sees ? mine.first : INT32_MAX, mine.end, sees ? mine.first : 0, sees ? mine.end : INT32_MAX };
    FM_UNROLL
    for (int bits = 16; bits > 0; bits /= 2) {
        all.first = min(all.first, __shfl_xor_sync(0xffffffffu, all.first, bits));
        all.end = max(all.end, __shfl_xor_sync(0xffffffffu, all.end, bits));
        all.full_first = max(all.full_first, __shfl_xor_sync(0xffffffffu, all.full_first, bits));
        all.full_end = min(all.full_end, __shfl_xor_sync(0xffffffffu, all.full_end, bits));
    }
    if (threadIdx.x < FM_SPAN && threadIdx.x % 32 == 0) {
        of_warp[threadIdx.x / 32] = all;
    }
    __syncthreads();
    return fm_key_span_union(of_warp, FM_SPAN / 32);
}

/* A block finds the keys of one span of queries: it looks through all keys once for each run of queries of one document. */
__global__ void __launch_bounds__(FIND_THREADS) find_keys(const __grid_constant__ fm_attention_call call)
{
    FM_SHARED(int32_t, documents, FM_SPAN);
    const fm_attention_args &args = call.args;
    const int64_t batch = blockIdx.x / call.spans, query = blockIdx.x % call.spans * FM_SPAN + threadIdx.x;
    const bool is_query = threadIdx.x < FM_SPAN && query < args.Tq;
    const int document = is_query ? args.q_document[batch * args.q_row + query] : -1;
    const int position = is_query ? args.q_position[batch * args.q_row + query] : 0;
    if (threadIdx.x < FM_SPAN) {
        documents[threadIdx.x] = document;
    }
    __syncthreads();
    fm_key_range mine = { 0, 0 };
    for (int i = 0; i < FM_SPAN; i++) {
        if (documents[i] < 0 || (i > 0 && documents[i - 1] == documents[i])) {
            continue;
        }
        const int2 keys = find_document(args.k_document + batch * args.k_row, args.Tk, documents[i]);
        if (document == documents[i] && keys.x < keys.y) {
            mine = range_of(keys, (int64_t)position - args.k_position[batch * args.k_row + keys.x], args.window);
        }
    }
    if (threadIdx.x < FM_SPAN) {
        call.ranges[batch * call.rows + query] = mine;
    }
    const fm_key_span all = span_of(mine);
    if (threadIdx.x == 0) {
        call.span[blockIdx.x] = all;
    }
}

/* lse [B, q_row, H] and delta become stats [B, H, rows]. */
__global__ void __launch_bounds__(FIND_THREADS) gather_stats(const __grid_constant__ fm_attention_call call, const float *lse,
                                                             const float *delta)
{
    const fm_attention_args &args = call.args;
    const int64_t n = args.B * call.rows * args.H;
    for (int64_t i = (int64_t)blockIdx.x * FIND_THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * FIND_THREADS) {
        const int64_t head = i % args.H, query = i / args.H % call.rows, batch = i / args.H / call.rows;
        const fm_key_range range = call.ranges[batch * call.rows + query];
        fm_query_stats stats = { INFINITY, 0.0f };
        if (range.first < range.end) {                      /* so it is no query behind the last */
            const int64_t from = (batch * args.q_row + query) * args.H + head;
            stats = fm_query_stats{ lse[from] * FM_LOG2_E, delta[from] };
        }
        call.stats[(batch * args.H + head) * call.rows + query] = stats;
    }
}

/* lse [B, q_row, H] from stats [B, H, Tq], or stats from lse. */
__global__ void __launch_bounds__(FIND_THREADS) order_lse(float *lse, float *stats, const fm_attention_args args, bool to_tokens)
{
    const int64_t n = args.B * args.Tq * args.H;
    for (int64_t i = (int64_t)blockIdx.x * FIND_THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * FIND_THREADS) {
        const int64_t head = i % args.H, query = i / args.H % args.Tq, batch = i / args.H / args.Tq;
        float *const of_token = lse + (batch * args.q_row + query) * args.H + head;
        float *const of_head = stats + (batch * args.H + head) * args.Tq + query;
        *(to_tokens ? of_token : of_head) = *(to_tokens ? of_head : of_token);
    }
}

/* ---- delta ---- */

/* A group of lanes has one query and head. V: numbers of an access. */
template <class T, int V>
__global__ void __launch_bounds__(DELTA_THREADS) find_delta(float *delta, const T *dout, const T *out, const fm_attention_args args)
{
    const int64_t item = ((int64_t)blockIdx.x * DELTA_THREADS + threadIdx.x) / DELTA_LANES;
    const int64_t head = item % args.H, query = item / args.H % args.Tq, batch = item / args.H / args.Tq;
    const int64_t row = batch * args.q_row + query, at = row * args.ldo + head * args.D;
    float sum = 0.0f;
    for (int d = (int)threadIdx.x % DELTA_LANES * V; batch < args.B && d < args.D; d += DELTA_LANES * V) {
        float x[V], y[V];
        fm_load<T, V>(x, dout + at + d);
        fm_load<T, V>(y, out + at + d);
        FM_UNROLL
        for (int i = 0; i < V; i++) {
            sum += x[i] * y[i];
        }
    }
    sum = fm_warp_sum<DELTA_LANES>(sum);
    if (batch < args.B && threadIdx.x % DELTA_LANES == 0) {
        delta[row * args.H + head] = sum;
    }
}

/* ---- calls ---- */

/* Divides a block of memory among a call's arrays; returns the bytes of it. */
size_t bind_call(fm_attention_call *call, void *block, bool backward)
{
    const fm_attention_args &args = call->args;
    size_t used_bytes = 0;
    call->ranges = (fm_key_range *)fm_carve(block, &used_bytes, args.B * call->rows, sizeof *call->ranges);
    call->span = (fm_key_span *)fm_carve(block, &used_bytes, args.B * call->spans, sizeof *call->span);
    call->stats = (fm_query_stats *)fm_carve(block, &used_bytes, backward ? args.B * args.H * call->rows : 0, sizeof *call->stats);
    return used_bytes;
}

/* Makes a call's arrays in the operations' workspace and finds the keys of its queries. */
int begin_call(fm_attention_call *call, fm_compute *compute, const fm_attention_args *args, bool backward)
{
    if (args->D > FM_ATTENTION_WIDEST || args->Tk > INT32_MAX - FM_SPAN_ROWS) {
        return fm_fail(FM_ERR_UNSUPPORTED, "attention on the GPU takes heads of width up to %d and fewer than 2^31 keys, not width %d and "
                       "%lld keys; run this model with device.type=cpu", FM_ATTENTION_WIDEST, args->D, (long long)args->Tk);
    }
    *call = fm_attention_call{};
    call->args = *args;
    call->rows = fm_ceil_div(args->Tq, FM_SPAN_ROWS) * FM_SPAN_ROWS;
    call->spans = call->rows / FM_SPAN;
    call->scale_log2 = args->scale * FM_LOG2_E;
    FM_TRY(fm_compute_reserve_shared(compute, bind_call(call, NULL, backward)));
    bind_call(call, compute->shared, backward);
    const int64_t blocks = args->B * call->spans;
    return blocks == 0 ? FM_OK : fm_launch("attention's keys", find_keys, dim3((unsigned)blocks), dim3(FIND_THREADS), 0,
                                           fm_cuda_of(compute->device)->stream, *call);
}

/* Rows of 16-bit numbers that copies of 16 bytes and products of 16 x 16 can take. */
bool is_regular(const fm_attention_args *args, const void *const *pointers, int n)
{
    bool regular = (args->dtype == FM_BF16 || args->dtype == FM_F16) && args->D % 8 == 0 && args->ldq % 8 == 0 && args->ldk % 8 == 0 &&
                   args->ldo % 8 == 0;
    for (int i = 0; i < n; i++) {
        regular = regular && (uintptr_t)pointers[i] % 16 == 0;
    }
    return regular;
}

int launch_stats(fm_compute *compute, const fm_attention_call *call, const float *lse, const float *delta)
{
    const int64_t items = call->args.B * call->args.H * call->rows;
    const fm_cuda *const cuda = fm_cuda_of(compute->device);
    const dim3 blocks(fm_blocks(items, FIND_THREADS));
    return items == 0 ? FM_OK : fm_launch("attention's stats", gather_stats, blocks, dim3(FIND_THREADS), 0, cuda->stream, *call, lse,
                                          delta);
}

template <class T, int V>
int launch_delta(fm_compute *compute, float *delta, const void *dout, const void *out, const fm_attention_args *args)
{
    const int64_t blocks = fm_ceil_div(args->B * args->Tq * args->H * DELTA_LANES, DELTA_THREADS);
    return blocks == 0 ? FM_OK : fm_launch("attention's delta", find_delta<T, V>, dim3((unsigned)blocks), dim3(DELTA_THREADS), 0,
                                           fm_cuda_of(compute->device)->stream, delta, (const T *)dout, (const T *)out, *args);
}

}

int fm_cuda_attention(fm_compute *compute, void *out, enum fm_dtype out_dtype, float *lse, const void *q, const void *k, const void *v,
                      const fm_attention_args *args, bool merge)
{
    FM_ASSERT(!merge || out_dtype == FM_F32);
    fm_attention_call call;
    FM_TRY(begin_call(&call, compute, args, false));
    const fm_attention_out to = { out, lse, out_dtype == FM_F32, merge };
    const void *const pointers[] = { out, q, k, v };
    return is_regular(args, pointers, 4) && fm_attention_mma_forward_takes(compute, args)
               ? fm_attention_mma_forward(compute, &call, &to, q, k, v)
               : fm_attention_plain_forward(compute, &call, &to, q, k, v);
}

int fm_cuda_attention_delta(fm_compute *compute, float *delta, const void *dout, const void *out, const fm_attention_args *args)
{
    return fm_with_dtype(args->dtype, [&](auto zero) {
        using T = decltype(zero);
        constexpr int V = fm_wide<T>;
        return args->D % V == 0 && fm_is_wide<T>(dout, args->ldo) && fm_is_wide<T>(out, args->ldo)
                   ? launch_delta<T, V>(compute, delta, dout, out, args)
                   : launch_delta<T, 1>(compute, delta, dout, out, args);
    });
}

int fm_cuda_attention_backward(fm_compute *compute, void *dq, void *dk, void *dv, enum fm_dtype grad_dtype, const void *dout,
                               const float *lse, const float *delta, const void *q, const void *k, const void *v,
                               const fm_attention_args *args, bool add)
{
    FM_ASSERT(!add || grad_dtype == FM_F32);
    fm_attention_call call;
    FM_TRY(begin_call(&call, compute, args, true));
    FM_TRY(launch_stats(compute, &call, lse, delta));
    const fm_attention_gradients to = { dq, dk, dv, dout, grad_dtype == FM_F32, add };
    const void *const pointers[] = { dq, dk, dv, dout, q, k, v };
    return is_regular(args, pointers, 7) && fm_attention_mma_backward_takes(compute, args)
               ? fm_attention_mma_backward(compute, &call, &to, q, k, v)
               : fm_attention_plain_backward(compute, &call, &to, q, k, v);
}

int fm_cuda_attention_order_lse(fm_compute *compute, float *lse, float *stats, const fm_attention_args *args, bool to_tokens)
{
    const int64_t items = args->B * args->Tq * args->H;
    return items == 0 ? FM_OK : fm_launch("attention's lse", order_lse, dim3(fm_blocks(items, FIND_THREADS)), dim3(FIND_THREADS), 0,
                                          fm_cuda_of(compute->device)->stream, lse, stats, *args, to_tokens);
}
