/* RMSNorm over the whole row or over each head of it. LANES threads hold a row (of one head) in registers, PACKS packs of V elements
 * each, so that memory is read once: part of a warp for heads, a warp or a block for wider rows. Deterministic. */
#include "ops/cuda_kernel.h"

/* A row of head h in row r is i = r heads + h. */
struct row_shape {
    int64_t rows;                      /* N heads */
    int heads;
    int64_t n;
};

template <int LANES> constexpr int block_threads = LANES > 128 ? LANES : 128;

/* The row of these LANES threads, which may be none (>= rows): they still take part in the sums. */
template <int LANES> static __device__ __forceinline__ int64_t my_row()
{
    constexpr int ROWS = block_threads<LANES> / LANES;
    return static_cast<int64_t>(blockIdx.x) * ROWS + threadIdx.x / LANES;
}

template <int LANES> static __device__ __forceinline__ float row_sum(float value)
{
    if constexpr (LANES <= 32) {
        return fm_warp_sum<LANES>(value);
    } else {
        return fm_block_sum<LANES>(value);
    }
}

/* Divides in 32 bits (see few_rows). */
static __device__ __forceinline__ int64_t row_start(int64_t i, const row_shape &s, int64_t ld)
{
    const int64_t r = s.heads == 1 ? i : static_cast<unsigned>(i) / static_cast<unsigned>(s.heads);
    return r * ld + (i - r * s.heads) * s.n;
}

template <class T> struct forward_args {
    T *y;
    int64_t ldy;
    float *rstd;
    const T *x;
    int64_t ldx;
    const T *w;
    float eps;
};

template <class T, int V, int LANES, int PACKS>
static __global__ void __launch_bounds__(block_threads<LANES>) forward_kernel(const forward_args<T> a, const row_shape s)
{
    const int64_t i = my_row<LANES>();
    const int lane = threadIdx.x % LANES;
    const bool there = i < s.rows;
    const T *const in = a.x + (there ? row_start(i, s, a.ldx) : 0);
    fm_pack<T, V> x[PACKS];
    float squares = 0.0f;
    FM_UNROLL
    for (int p = 0; p < PACKS; p++) {
        x[p].clear();
        if (there && (p * LANES + lane) * V < s.n) {
            x[p].load(in + (p * LANES + lane) * V);
        }
    }
    FM_UNROLL
    for (int p = 0; p < PACKS; p++) {
        FM_UNROLL
        for (int k = 0; k < V; k++) {
            squares += x[p].get(k) * x[p].get(k);
        }
    }
    const float rstd = rsqrtf(row_sum<LANES>(squares) / static_cast<float>(s.n) + a.eps);
    if (!there) {
        return;
    }
    if (lane == 0) {
        a.rstd[i] = rstd;
    }
    T *const out = a.y + row_start(i, s, a.ldy);
    FM_UNROLL
    for (int p = 0; p < PACKS; p++) {
        const int c = (p * LANES + lane) * V;
        if (c < s.n) {
            float w[V];
            fm_load(w, a.w + c);
            FM_UNROLL
            for (int k = 0; k < V; k++) {
                w[k] *= x[p].get(k) * rstd;
            }
            fm_store(out + c, w);
        }
    }
}

template <class T> struct backward_args {
    T *dx;
    int64_t lddx;
    bool add;                          /* dx += */
    const T *dy;
    int64_t lddy;
    const T *x;
    int64_t ldx;
    const T *w;
    const float *rstd;
};

/* With g = w dy and xhat = rstd x: dx = rstd (g - xhat mean(g xhat)). */
template <class T, int V, int LANES, int PACKS>
static __global__ void __launch_bounds__(block_threads<LANES>) backward_kernel(const backward_args<T> a, const row_shape s)
{
    const int64_t i = my_row<LANES>();
    const int lane = threadIdx.x % LANES;
    const bool there = i < s.rows;
    const T *const x_row = a.x + (there ? row_start(i, s, a.ldx) : 0), *const dy_row = a.dy + (there ? row_start(i, s, a.lddy) : 0);
    fm_pack<T, V> x[PACKS], dy[PACKS];
    FM_UNROLL
    for (int p = 0; p < PACKS; p++) {
        const int c = (p * LANES + lane) * V;
        x[p].clear(), dy[p].clear();
        if (there && c < s.n) {
            x[p].load(x_row + c);
            dy[p].load(dy_row + c);
        }
    }
    float dot = 0.0f;
    FM_UNROLL
    for (int p = 0; p < PACKS; p++) {
        const int c = (p * LANES + lane) * V;
        if (c < s.n) {
            float w[V];
            fm_load(w, a.w + c);
            FM_UNROLL
            for (int k = 0; k < V; k++) {
                dot += w[k] * dy[p].get(k) * x[p].get(k);
            }
        }
    }
    const float rstd = there ? a.rstd[i] : 0.0f, mean = row_sum<LANES>(dot) * rstd / static_cast<float>(s.n);
    if (!there) {
        return;
    }
    T *const out = a.dx + row_start(i, s, a.lddx);
    FM_UNROLL
    for (int p = 0; p < PACKS; p++) {
        const int c = (p * LANES + lane) * V;
        if (c < s.n) {
            float w[V], old[V] = { 0.0f };
            fm_load(w, a.w + c);
            if (a.add) {
                fm_load(old, out + c);
            }
            FM_UNROLL
            for (int k = 0; k < V; k++) {
                const float slope = rstd * (w[k] * dy[p].get(k) - x[p].get(k) * rstd * mean);
                w[k] = old[k] + slope;
            }
            fm_store(out + c, w);
        }
    }
}

/* Calls run(V, LANES, PACKS), as types, for the narrowest threads that hold a row of n. */
template <int VALUE> struct number {
    static constexpr int value = VALUE;
};

template <class T, class F> static int with_threads(int64_t n, bool wide, const F &run)
{
    constexpr int V = fm_wide<T>;
    const int64_t packs = fm_ceil_div(n, V);
    if (!wide) {
        return n <= 256    ? run(number<1>(), number<32>(), number<8>())
               : n <= 8192 ? run(number<1>(), number<256>(), number<32>())
                           : fm_fail(FM_ERR_UNSUPPORTED, "RMSNorm of rows of %lld: on a GPU rows wider than 8192 must be a multiple of %d",
                                     static_cast<long long>(n), V);
    }
    return packs <= 8      ? run(number<V>(), number<8>(), number<1>())
           : packs <= 16   ? run(number<V>(), number<16>(), number<1>())
           : packs <= 32   ? run(number<V>(), number<32>(), number<1>())
           : packs <= 128  ? run(number<V>(), number<32>(), number<4>())
           : packs <= 256  ? run(number<V>(), number<128>(), number<2>())
           : packs <= 512  ? run(number<V>(), number<128>(), number<4>())
           : packs <= 1024 ? run(number<V>(), number<256>(), number<4>())
           : packs <= 4096 ? run(number<V>(), number<512>(), number<8>())
                           : fm_fail(FM_ERR_UNSUPPORTED, "RMSNorm of rows of %lld: on a GPU they hold at most %d elements",
                                     static_cast<long long>(n), 4096 * V);
}

template <int LANES> static unsigned row_blocks(int64_t rows)
{
    return fm_blocks(rows, block_threads<LANES> / LANES);
}

/* Whether all rows of an array lie on 16 bytes: those of heads too. */
template <class T> static bool rows_wide(const void *at, int64_t ld, const row_shape &s)
{
    return fm_is_wide<T>(at, ld) && s.n % fm_wide<T> == 0;
}

/* Rows are tokens times heads. */
static bool few_rows(const row_shape &s)
{
    return s.rows <= UINT32_MAX;
}

int fm_cuda_rmsnorm(fm_compute *compute, void *y, int64_t ldy, float *rstd, const void *x, int64_t ldx, const void *w,
                    enum fm_dtype dtype, int64_t N, int heads, int64_t n, double eps)
{
    const row_shape s = { N * heads, heads, n };
    if (s.rows == 0 || n == 0) {
        return FM_OK;
    }
    FM_ASSERT(few_rows(s));
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const forward_args<T> a = { static_cast<T *>(y), ldy, rstd, static_cast<const T *>(x), ldx, static_cast<const T *>(w),
                                    static_cast<float>(eps) };
        const bool wide = rows_wide<T>(y, ldy, s) && rows_wide<T>(x, ldx, s) && fm_is_wide<T>(w, 0);
        return with_threads<T>(n, wide, [&](auto V, auto LANES, auto PACKS) {
            constexpr int v = decltype(V)::value, lanes = decltype(LANES)::value, packs = decltype(PACKS)::value;
            return fm_launch("rmsnorm", forward_kernel<T, v, lanes, packs>, row_blocks<lanes>(s.rows), block_threads<lanes>, 0,
                             fm_stream(compute), a, s);
        });
    });
}

int fm_cuda_rmsnorm_backward(fm_compute *compute, void *dx, int64_t lddx, bool add, const void *dy, int64_t lddy, const void *x,
                             int64_t ldx, const void *w, const float *rstd, enum fm_dtype dtype, int64_t N, int heads, int64_t n)
{
    const row_shape s = { N * heads, heads, n };
    if (s.rows == 0 || n == 0) {
        return FM_OK;
    }
    FM_ASSERT(few_rows(s));
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const backward_args<T> a = { static_cast<T *>(dx), lddx, add, static_cast<const T *>(dy), lddy, static_cast<const T *>(x), ldx,
                                     static_cast<const T *>(w), rstd };
        const bool wide = rows_wide<T>(dx, lddx, s) && rows_wide<T>(dy, lddy, s) && rows_wide<T>(x, ldx, s) && fm_is_wide<T>(w, 0);
        return with_threads<T>(n, wide, [&](auto V, auto LANES, auto PACKS) {
            constexpr int v = decltype(V)::value, lanes = decltype(LANES)::value, packs = decltype(PACKS)::value;
            return fm_launch("rmsnorm backward", backward_kernel<T, v, lanes, packs>, row_blocks<lanes>(s.rows), block_threads<lanes>, 0,
                             fm_stream(compute), a, s);
        });
    });
}
