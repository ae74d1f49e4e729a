/* Cross entropy over a vocabulary that comes in chunks: one pass over the logits for the statistics, one for the gradient.
 * Deterministic. */
#include "ops/cuda_kernel.h"

static __global__ void __launch_bounds__(256) begin_kernel(float *max, float *sums, int64_t N)
{
    const int64_t r = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
    if (r < N) {
        max[r] = -INFINITY;
        sums[r] = sums[N + r] = 0.0f;
    }
}

int fm_cuda_cross_entropy_begin(fm_compute *compute, float *max, float *sums, int64_t N)
{
    return N == 0 ? FM_OK : fm_launch("start of the loss", begin_kernel, fm_blocks(N, 256), 256, 0, fm_stream(compute), max, sums, N);
}

/* ---- statistics ---- */

enum { ROW_THREADS = 512, AT_A_TIME = 4 };   /* packs that a thread reads before it uses the first */

/* The largest of some numbers, and the sum of exp(x - largest). */
struct online {
    float max, sum;
};

/* exp(from - to), where `from` may be -inf: of no numbers, or of words that are masked. */
static __device__ __forceinline__ float factor(float from, float to)
{
    return from == to ? 1.0f : expf(from - to);
}

template <int V> static __device__ __forceinline__ void take(online &o, const float (&x)[V])
{
    float larger = o.max;
    FM_UNROLL
    for (int k = 0; k < V; k++) {
        larger = fmaxf(larger, x[k]);
    }
    const float base = larger == -INFINITY ? 0.0f : larger;
    float sum = o.sum * factor(o.max, larger);
    FM_UNROLL
    for (int k = 0; k < V; k++) {
        sum += expf(x[k] - base);
    }
    o.max = larger;
    o.sum = sum;
}

/* What this thread reads of a row: single words up to the first 16-byte boundary and behind the last, packs of four between. */
static __device__ __forceinline__ online take_row(const float *x, int64_t n)
{
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t ahead = static_cast<int64_t>((16 - reinterpret_cast<uintptr_t>(x) % 16) % 16 / sizeof(float));
    const int64_t head = min(ahead, n), packs = (n - head) / 4, tail = head + packs * 4;
    const float *const body = x + head;
    online o = { -INFINITY, 0.0f };
    int64_t p = thread;
    for (; p + (AT_A_TIME - 1) * ROW_THREADS < packs; p += AT_A_TIME * ROW_THREADS) {
        fm_pack<float, 4> part[AT_A_TIME];
        float values[AT_A_TIME * 4];
        FM_UNROLL
        for (int k = 0; k < AT_A_TIME; k++) {
            part[k].load(body + (p + k * ROW_THREADS) * 4);
        }
        FM_UNROLL
        for (int k = 0; k < AT_A_TIME * 4; k++) {
            values[k] = part[k / 4].get(k % 4);
        }
        take(o, values);
    }
    for (; p < packs; p += ROW_THREADS) {
        float values[4];
        fm_load(values, body + p * 4);
        take(o, values);
    }
    if (thread < head) {
        take(o, { x[thread] });
    }
    if (tail + thread < n) {
        take(o, { x[tail + thread] });
    }
    return o;
}

static __global__ void __launch_bounds__(ROW_THREADS) chunk_kernel(float *max, float *sum, float *label_logit, const float *logits,
                                                                   const int32_t *labels, int64_t start, int64_t n)
{
    const int64_t r = blockIdx.x;
    const float *const row = logits + r * n;
    const online mine = take_row(row, n);
    const float chunk_max = fm_block_max<ROW_THREADS>(mine.max);
    const float chunk_sum = fm_block_sum<ROW_THREADS>(mine.sum * factor(mine.max, chunk_max));
    if (threadIdx.x == 0) {
        const float larger = fmaxf(max[r], chunk_max);
        sum[r] = sum[r] * factor(max[r], larger) + chunk_sum * factor(chunk_max, larger);
        max[r] = larger;
        const int64_t label = labels[r] - start;
        if (label >= 0 && label < n) {
            label_logit[r] = row[label];
        }
    }
}

int fm_cuda_cross_entropy_chunk(fm_compute *compute, float *max, float *sum, float *label_logit, const float *logits,
                                const int32_t *labels, int64_t start, int64_t N, int64_t n)
{
    return N == 0 || n == 0 ? FM_OK
                            : fm_launch("cross entropy", chunk_kernel, static_cast<unsigned>(N), ROW_THREADS, 0, fm_stream(compute), max,
                                        sum, label_logit, logits, labels, start, n);
}

static __global__ void __launch_bounds__(256) rescale_kernel(float *sum, const float *old_max, const float *new_max, int64_t N)
{
    const int64_t r = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
    if (r < N) {
        sum[r] *= expf(old_max[r] - new_max[r]);
    }
}

int fm_cuda_cross_entropy_rescale(fm_compute *compute, float *sum, const float *old_max, const float *new_max, int64_t N)
{
    return N == 0 ? FM_OK
                  : fm_launch("rescaling of sums", rescale_kernel, fm_blocks(N, 256), 256, 0, fm_stream(compute), sum, old_max, new_max, N);
}

/* One block: the rows are few beside their words. */
enum { FINISHERS = 1024 };

static __global__ void __launch_bounds__(FINISHERS) finish_kernel(double *loss, const float *max, const float *sum,
                                                                  const float *label_logit, int64_t N)
{
    double all = 0.0;
    for (int64_t r = threadIdx.x; r < N; r += FINISHERS) {
        all += static_cast<double>(max[r]) + log(static_cast<double>(sum[r])) - static_cast<double>(label_logit[r]);
    }
    all = fm_block_sum<FINISHERS>(all);
    if (threadIdx.x == 0) {
        *loss += all;
    }
}

int fm_cuda_cross_entropy_finish(fm_compute *compute, double *loss, const float *max, const float *sum, const float *label_logit,
                                 int64_t N)
{
    return N == 0 ? FM_OK
                  : fm_launch("sum of the loss", finish_kernel, 1, FINISHERS, 0, fm_stream(compute), loss, max, sum, label_logit, N);
}

/* ---- the gradient ---- */

template <class T> struct backward_args {
    T *dlogits;
    const float *logits, *max, *sum;
    const int32_t *labels;
    int64_t start;
    float scale;
    int64_t N, n;
};

template <class T, int V>
static __global__ void __launch_bounds__(FM_TILE_THREADS) backward_kernel(const backward_args<T> a, int64_t packs)
{
    const fm_place here = fm_tile_place(packs);
    if (here.row >= a.N || here.pack >= packs) {
        return;
    }
    const int64_t at = here.row * a.n + here.pack * V, label = a.labels[here.row] - a.start - here.pack * V;
    float x[V] = { 0.0f };
    if (a.labels[here.row] >= 0) {
        const float max = a.max[here.row], over_sum = a.scale / a.sum[here.row];
        fm_load(x, a.logits + at);
        FM_UNROLL
        for (int k = 0; k < V; k++) {
            x[k] = over_sum * expf(x[k] - max) - (k == label ? a.scale : 0.0f);
        }
    }
    fm_store(a.dlogits + at, x);
}

template <class T, int V> static int run_backward(fm_compute *compute, const backward_args<T> &a)
{
    const int64_t packs = a.n / V;
    const dim3 grid = fm_tile_grid(a.N, packs), block = fm_tile_block(packs);
    return fm_launch("cross entropy backward", backward_kernel<T, V>, grid, block, 0, fm_stream(compute), a, packs);
}

int fm_cuda_cross_entropy_backward(fm_compute *compute, void *dlogits, enum fm_dtype dtype, const float *logits, const float *max,
                                   const float *sum, const int32_t *labels, int64_t start, float scale, int64_t N, int64_t n)
{
    if (N == 0 || n == 0) {
        return FM_OK;
    }
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const backward_args<T> a = { static_cast<T *>(dlogits), logits, max, sum, labels, start, scale, N, n };
        return fm_is_wide<T>(dlogits, n) && fm_is_wide<float>(logits, n) ? run_backward<T, fm_wide<T>>(compute, a)
                                                                         : run_backward<T, 1>(compute, a);
    });
}
