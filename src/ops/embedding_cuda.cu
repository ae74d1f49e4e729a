/* Rows of a table, and their gradients. The sum of a table's row is made by the block of the first token that has it, over the tokens
 * in their order and from what was there: the bits are the CPU's. Atomics are on whole numbers only, whose result has no order. */
#include <limits.h>

#include "ops/cuda_kernel.h"

template <class T> struct lookup_args {
    T *x;
    const int32_t *ids;
    const T *w;
    int64_t start, count;
    bool keep;
    int64_t N, C;
};

template <class T, int V> static __global__ void __launch_bounds__(FM_TILE_THREADS) lookup_kernel(const lookup_args<T> a, int64_t packs)
{
    const fm_place here = fm_tile_place(packs);
    if (here.row >= a.N || here.pack >= packs) {
        return;
    }
    const int64_t id = a.ids[here.row] - a.start;
    const bool inside = id >= 0 && id < a.count;
    fm_pack<T, V> pack;
    pack.clear();
    if (inside) {
        pack.load(a.w + id * a.C + here.pack * V);
    }
    if (inside || !a.keep) {
        pack.store(a.x + here.row * a.C + here.pack * V);
    }
}

template <class T, int V> static int look_up(fm_compute *compute, const lookup_args<T> &a)
{
    const int64_t packs = a.C / V;
    return fm_launch("embedding", lookup_kernel<T, V>, fm_tile_grid(a.N, packs), fm_tile_block(packs), 0, fm_stream(compute), a, packs);
}

int fm_cuda_embedding(fm_compute *compute, void *x, const int32_t *ids, const void *w, int64_t start, int64_t count, bool keep,
                      enum fm_dtype dtype, int64_t N, int64_t C)
{
    if (N == 0 || C == 0) {
        return FM_OK;
    }
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const lookup_args<T> a = { static_cast<T *>(x), ids, static_cast<const T *>(w), start, count, keep, N, C };
        return fm_is_wide<T>(x, C) && fm_is_wide<T>(w, C) ? look_up<T, fm_wide<T>>(compute, a) : look_up<T, 1>(compute, a);
    });
}

/* ---- the gradient ---- */

/* Where each row of the table first occurs among the tokens, and how often. */
struct occurrences {
    int *first, *times;
};

struct sum_args {
    float *dw;
    const int32_t *ids;
    int64_t start, count, padding;
    int64_t N, C;
    occurrences of;
};

/* The row of the table that a token adds to; -1: none. */
static __device__ __forceinline__ int64_t row_of(const sum_args &a, int64_t token)
{
    const int32_t word = a.ids[token];
    const int64_t id = word - a.start;
    return id >= 0 && id < a.count && word != a.padding ? id : -1;
}

static __global__ void __launch_bounds__(256) forget_kernel(const occurrences of, int64_t count)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
    if (i < count) {
        of.first[i] = INT_MAX;
        of.times[i] = 0;
    }
}

static __global__ void __launch_bounds__(256) occur_kernel(const sum_args a)
{
    const int64_t token = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
    const int64_t id = token < a.N ? row_of(a, token) : -1;
    if (id >= 0) {
        atomicMin(&a.of.first[id], static_cast<int>(token));
        atomicAdd(&a.of.times[id], 1);
    }
}

enum { SUMMERS = 128, WARPS = SUMMERS / 32 };

/* list = those of the SUMMERS tokens from `from` on that add to row id, in order; how many there are. Between barriers. */
static __device__ __forceinline__ int list_tokens(int *list, int *of_warp, const sum_args &a, int64_t from, int64_t id)
{
    const int64_t token = from + threadIdx.x;
    const bool mine = token < a.N && row_of(a, token) == id;
    const unsigned votes = __ballot_sync(0xffffffffu, mine), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) {
        of_warp[warp] = __popc(votes);
    }
    __syncthreads();
    int before = __popc(votes & ((1u << lane) - 1u)), all = 0;
    FM_UNROLL
    for (unsigned k = 0; k < WARPS; k++) {
        before += k < warp ? of_warp[k] : 0;
        all += of_warp[k];
    }
    if (mine) {
        list[before] = static_cast<int>(threadIdx.x);
    }
    __syncthreads();
    return all;
}

/* A block: one token and SUMMERS packs of columns. */
template <class T, int V>
static __global__ void __launch_bounds__(SUMMERS) sum_kernel(const sum_args a, const T *dx, unsigned column_blocks)
{
    FM_SHARED(int, list, SUMMERS);
    FM_SHARED(int, of_warp, WARPS);
    const int64_t token = blockIdx.x / column_blocks, id = row_of(a, token);
    if (id < 0 || a.of.first[id] != token) {
        return;                        /* the whole block */
    }
    const int64_t c = (static_cast<int64_t>(blockIdx.x % column_blocks) * SUMMERS + threadIdx.x) * V;
    const bool there = c < a.C;
    float sum[V] = { 0.0f }, d[V];
    if (there) {
        fm_load(sum, a.dw + id * a.C + c);
        fm_load(d, dx + token * a.C + c);
        FM_UNROLL
        for (int k = 0; k < V; k++) {
            sum[k] += d[k];
        }
    }
    int left = a.of.times[id] - 1;
    for (int64_t from = token + 1; left > 0; from += SUMMERS) {
        const int listed = list_tokens(list, of_warp, a, from, id);
        if (there) {
            FM_UNROLL4
            for (int j = 0; j < listed; j++) {
                fm_load(d, dx + (from + list[j]) * a.C + c);
                FM_UNROLL
                for (int k = 0; k < V; k++) {
                    sum[k] += d[k];
                }
            }
        }
        left -= listed;
        __syncthreads();               /* before the next list */
    }
    if (there) {
        fm_store(a.dw + id * a.C + c, sum);
    }
}

template <class T, int V> static int add_rows(fm_compute *compute, const sum_args &a, const T *dx)
{
    const unsigned column_blocks = fm_blocks(a.C / V, SUMMERS);
    return fm_launch("gradient of an embedding", sum_kernel<T, V>, static_cast<unsigned>(a.N * column_blocks), SUMMERS, 0,
                     fm_stream(compute), a, dx, column_blocks);
}

int fm_cuda_embedding_backward(fm_compute *compute, float *dw, const int32_t *ids, const void *dx, int64_t start, int64_t count,
                               int64_t padding, enum fm_dtype dtype, int64_t N, int64_t C)
{
    if (N == 0 || C == 0 || count == 0) {
        return FM_OK;
    }
    FM_TRY(fm_compute_reserve_shared(compute, 2 * static_cast<size_t>(count) * sizeof(int)));
    int *const first = static_cast<int *>(compute->shared);
    const sum_args a = { dw, ids, start, count, padding, N, C, { first, first + count } };
    const cudaStream_t stream = fm_stream(compute);
    FM_TRY(fm_launch("words' first tokens", forget_kernel, fm_blocks(count, 256), 256, 0, stream, a.of, count));
    FM_TRY(fm_launch("words' first tokens", occur_kernel, fm_blocks(N, 256), 256, 0, stream, a));
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const T *const rows = static_cast<const T *>(dx);
        const bool wide = fm_is_wide<T>(dx, C) && fm_is_wide<float>(dw, C);
        return wide ? add_rows<T, fm_wide<T>>(compute, a, rows) : add_rows<T, 1>(compute, a, rows);
    });
}
