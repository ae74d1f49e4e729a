/* Sums of columns over many rows: gradients of biases and of the weights of norms. Two stages in a fixed order, so the same bits every
 * time on the same GPU: blocks sum chunks of rows into a workspace, then every column's chunks are added up in double. */
#include "ops/cuda_kernel.h"

enum { THREADS = 256, MOST_ACROSS = 32, MERGERS = 8 };
static const int64_t LONGEST = 64;     /* rows that one thread sums in fp32 */

/* What is summed of row i, V columns from c on. */
template <class T> struct plain_term {
    const T *dy;
    int64_t ld;

    template <int V> __device__ __forceinline__ void add(float (&sums)[V], int64_t i, int64_t c) const
    {
        float d[V];
        fm_load(d, dy + i * ld + c);
        FM_UNROLL
        for (int k = 0; k < V; k++) {
            sums[k] += d[k];
        }
    }
};

/* dy xhat; row i is head i % heads of row i / heads. */
template <class T> struct norm_term {
    const T *dy;
    int64_t lddy;
    const T *x;
    int64_t ldx;
    const float *rstd;
    int heads;
    int64_t n;

    template <int V> __device__ __forceinline__ void add(float (&sums)[V], int64_t i, int64_t c) const
    {
        const int64_t r = heads == 1 ? i : static_cast<unsigned>(i) / static_cast<unsigned>(heads), at = c + (i - r * heads) * n;
        float d[V], in[V];
        fm_load(d, dy + r * lddy + at);
        fm_load(in, x + r * ldx + at);
        const float scale = rstd[i];
        FM_UNROLL
        for (int k = 0; k < V; k++) {
            sums[k] += d[k] * (in[k] * scale);
        }
    }
};

/* partial [gridDim.y, n] = sums of chunks of `chunk` rows. A block is (packs of columns, rows in turn). */
template <int V, class Term>
static __global__ void __launch_bounds__(THREADS) chunk_kernel(float *partial, const Term term, int64_t rows, int64_t chunk, int64_t n)
{
    constexpr int PITCH = THREADS + 32 / V;   /* neighbouring columns lie in different banks */
    FM_SHARED(float, slots, PITCH * V);
    const int64_t c = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
    const int64_t start = blockIdx.y * chunk, end = min(start + chunk, rows);
    float sums[V] = { 0.0f };
    if (c < n) {
        FM_UNROLL4
        for (int64_t i = start + threadIdx.y; i < end; i += blockDim.y) {
            term.template add<V>(sums, i, c);
        }
    }
    FM_UNROLL
    for (int k = 0; k < V; k++) {
        slots[k * PITCH + threadIdx.y * blockDim.x + threadIdx.x] = sums[k];
    }
    __syncthreads();
    /* column by column, so that all threads have something to add */
    const int across = static_cast<int>(blockDim.x) * V;
    for (int t = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); t < across; t += THREADS) {
        const int pack = t / V, k = t % V;
        const int64_t column = static_cast<int64_t>(blockIdx.x) * across + t;
        float sum = 0.0f;
        for (unsigned y = 0; y < blockDim.y; y++) {
            sum += slots[k * PITCH + y * blockDim.x + pack];
        }
        if (column < n) {
            partial[blockIdx.y * n + column] = sum;
        }
    }
}

/* out [n] += the chunks' sums. A block is (32 columns, MERGERS chunks in turn). */
static __global__ void __launch_bounds__(32 * MERGERS) merge_kernel(float *out, const float *partial, int64_t chunks, int64_t n)
{
    FM_SHARED(double, slots, 32 * MERGERS);
    const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
    double sum = 0.0;
    if (column < n) {
        for (int64_t c = threadIdx.y; c < chunks; c += MERGERS) {
            sum += static_cast<double>(partial[c * n + column]);
        }
    }
    slots[threadIdx.y * 32 + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < n) {
        for (int y = 1; y < MERGERS; y++) {
            sum += slots[y * 32 + threadIdx.x];
        }
        out[column] += static_cast<float>(sum);
    }
}

template <int V, class Term>
static int sum_columns(fm_compute *compute, const char *what, float *out, const Term &term, int64_t rows, int64_t n)
{
    FM_ASSERT(rows <= UINT32_MAX);
    const int64_t packs = n / V;
    const int across = fm_power_of_2(packs, MOST_ACROSS), down = THREADS / across;
    const int64_t columns = fm_ceil_div(packs, across);
    /* some eight blocks for every multiprocessor, but no thread with too many rows, and no more blocks than the grid takes */
    const int64_t wanted = fm_ceil_div(8 * fm_cuda_of(compute->device)->multiprocessors, columns);
    const int64_t turns = fm_ceil_div(rows, wanted * down), least = fm_ceil_div(rows, static_cast<int64_t>(down) * 65535);
    const int64_t each = turns > LONGEST ? LONGEST : turns;
    const int64_t chunk = down * (each > least ? each : least), chunks = fm_ceil_div(rows, chunk);
    FM_TRY(fm_compute_reserve_shared(compute, static_cast<size_t>(chunks * n) * sizeof(float)));
    float *const partial = static_cast<float *>(compute->shared);
    const dim3 grid(static_cast<unsigned>(columns), static_cast<unsigned>(chunks));
    const dim3 block(static_cast<unsigned>(across), static_cast<unsigned>(down));
    FM_TRY(fm_launch(what, chunk_kernel<V, Term>, grid, block, 0, fm_stream(compute), partial, term, rows, chunk, n));
    return fm_launch(what, merge_kernel, fm_blocks(n, 32), dim3(32, MERGERS), 0, fm_stream(compute), out, partial, chunks, n);
}

template <class T, class Term>
static int sum_some(fm_compute *compute, const char *what, float *out, const Term &term, int64_t rows, int64_t n, bool wide)
{
    if (rows == 0 || n == 0) {
        return FM_OK;
    }
    return wide && n % fm_wide<T> == 0 ? sum_columns<fm_wide<T>>(compute, what, out, term, rows, n)
                                         : sum_columns<1>(compute, what, out, term, rows, n);
}

int fm_cuda_bias_backward(fm_compute *compute, float *db, const void *dy, enum fm_dtype dtype, int64_t N, int64_t n, int64_t ld)
{
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const plain_term<T> term = { static_cast<const T *>(dy), ld };
        return sum_some<T>(compute, "gradient of a bias", db, term, N, n, fm_is_wide<T>(dy, ld));
    });
}

int fm_cuda_rmsnorm_backward_weight(fm_compute *compute, float *dw, const void *dy, int64_t lddy, const void *x, int64_t ldx,
                                    const float *rstd, enum fm_dtype dtype, int64_t N, int heads, int64_t n)
{
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const norm_term<T> term = { static_cast<const T *>(dy), lddy, static_cast<const T *>(x), ldx, rstd, heads, n };
        return sum_some<T>(compute, "gradient of rmsnorm's weight", dw, term, N * heads, n,
                           fm_is_wide<T>(dy, lddy) && fm_is_wide<T>(x, ldx));
    });
}
