/* Element by element: one pass over memory, a pack of 16 bytes a thread where addresses allow it. What happens to an element is an
 * operation's at<V>, for V neighbours; two kernels apply it, to a vector or to rows with strides. */
#include "ops/cuda_kernel.h"

template <int V, class Op> static __global__ void __launch_bounds__(FM_TILE_THREADS) vector_kernel(const Op op, int64_t n)
{
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * FM_TILE_THREADS + threadIdx.x) * V;
    if (i + V <= n) {
        op.template at<V>(i);
    } else {
        for (int64_t k = i; k < n; k++) {
            op.template at<1>(k);
        }
    }
}

/* n elements, V at a time where they lie on 16 bytes. */
template <int V, class Op> static int run_vector(const char *what, cudaStream_t stream, const Op &op, int64_t n, bool wide)
{
    const int width = wide ? V : 1;
    if (n == 0) {
        return FM_OK;
    }
    return fm_launch(what, wide ? vector_kernel<V, Op> : vector_kernel<1, Op>,
                     fm_blocks(n, static_cast<int64_t>(width) * FM_TILE_THREADS), FM_TILE_THREADS, 0, stream, op, n);
}

template <int V, class Op> static __global__ void __launch_bounds__(FM_TILE_THREADS) rows_kernel(const Op op, int64_t N, int64_t packs)
{
    const fm_place here = fm_tile_place(packs);
    if (here.row < N && here.pack < packs) {
        op.template at<V>(here.row, here.pack * V);
    }
}

/* N rows of n elements. */
template <int V, class Op> static int run_rows(const char *what, cudaStream_t stream, const Op &op, int64_t N, int64_t n, bool wide)
{
    wide = wide && n % V == 0;
    const int64_t packs = wide ? n / V : n;
    if (N == 0 || n == 0) {
        return FM_OK;
    }
    return fm_launch(what, wide ? rows_kernel<V, Op> : rows_kernel<1, Op>, fm_tile_grid(N, packs), fm_tile_block(packs), 0, stream, op,
                     N, packs);
}

/* ---- sums ---- */

/* y += x */
template <class Y, class X> struct add_op {
    Y *y;
    const X *x;

    template <int V> __device__ __forceinline__ void at(int64_t i) const
    {
        float a[V], b[V];
        fm_load(a, y + i);
        fm_load(b, x + i);
        FM_UNROLL
        for (int k = 0; k < V; k++) {
            a[k] += b[k];
        }
        fm_store(y + i, a);
    }
};

template <class T> static int add_vector(cudaStream_t stream, T *y, const T *x, int64_t n)
{
    return run_vector<fm_wide<T>>("add", stream, add_op<T, T>{ y, x }, n, fm_is_wide<T>(y, 0) && fm_is_wide<T>(x, 0));
}

int fm_cuda_add(fm_compute *compute, void *y, const void *x, enum fm_dtype dtype, int64_t n)
{
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        return add_vector(fm_stream(compute), static_cast<T *>(y), static_cast<const T *>(x), n);
    });
}

int fm_cuda_add_f32(fm_device *device, float *to, const float *from, int64_t n)
{
    return add_vector(fm_cuda_of(device)->stream, to, from, n);
}

/* y += bias in every row */
template <class T> struct bias_op {
    T *y;
    const T *bias;
    int64_t ld;

    template <int V> __device__ __forceinline__ void at(int64_t row, int64_t column) const
    {
        float a[V], b[V];
        fm_load(a, y + row * ld + column);
        fm_load(b, bias + column);
        FM_UNROLL
        for (int k = 0; k < V; k++) {
            a[k] += b[k];
        }
        fm_store(y + row * ld + column, a);
    }
};

int fm_cuda_bias_add(fm_compute *compute, void *y, const void *bias, enum fm_dtype dtype, int64_t N, int64_t n, int64_t ld)
{
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const bias_op<T> op = { static_cast<T *>(y), static_cast<const T *>(bias), ld };
        return run_rows<fm_wide<T>>("bias", fm_stream(compute), op, N, n, fm_is_wide<T>(y, ld) && fm_is_wide<T>(bias, 0));
    });
}

struct scale_op {
    float *x, factor;

    template <int V> __device__ __forceinline__ void at(int64_t i) const
    {
        float a[V];
        fm_load(a, x + i);
        FM_UNROLL
        for (int k = 0; k < V; k++) {
            a[k] *= factor;
        }
        fm_store(x + i, a);
    }
};

int fm_cuda_scale(fm_compute *compute, float *x, float factor, int64_t n)
{
    return run_vector<4>("scale", fm_stream(compute), scale_op{ x, factor }, n, fm_is_wide<float>(x, 0));
}

/* ---- copies ---- */

/* y = x rounded to y's type */
template <class Y, class X> struct copy_op {
    Y *y;
    const X *x;
    int64_t ldy, ldx;

    template <int V> __device__ __forceinline__ void at(int64_t row, int64_t column) const
    {
        float a[V];
        fm_load(a, x + row * ldx + column);
        fm_store(y + row * ldy + column, a);
    }
    template <int V> __device__ __forceinline__ void at(int64_t i) const { at<V>(0, i); }
};

/* the same bits where the types are one */
template <class T> struct copy_op<T, T> {
    T *y;
    const T *x;
    int64_t ldy, ldx;

    template <int V> __device__ __forceinline__ void at(int64_t row, int64_t column) const
    {
        fm_pack<T, V> in;
        in.load(x + row * ldx + column);
        in.store(y + row * ldy + column);
    }
    template <int V> __device__ __forceinline__ void at(int64_t i) const { at<V>(0, i); }
};

/* Elements a thread copies: 16 bytes of the narrower type. */
template <class Y, class X> constexpr int copy_width = sizeof(Y) < sizeof(X) ? fm_wide<Y> : fm_wide<X>;

int fm_cuda_copy_rows(fm_compute *compute, void *y, int64_t ldy, enum fm_dtype y_dtype, const void *x, int64_t ldx,
                      enum fm_dtype x_dtype, int64_t N, int64_t n)
{
    return fm_with_dtype(y_dtype, [&](auto y_zero) {
        using Y = decltype(y_zero);
        return fm_with_dtype(x_dtype, [&](auto x_zero) {
            using X = decltype(x_zero);
            const copy_op<Y, X> op = { static_cast<Y *>(y), static_cast<const X *>(x), ldy, ldx };
            return run_rows<copy_width<Y, X>>("copy of rows", fm_stream(compute), op, N, n,
                                                fm_is_wide<Y>(y, ldy) && fm_is_wide<X>(x, ldx));
        });
    });
}

/* To and from double, one at a time: for checkpoints of other programs, not for a step. fp64 -> fp32 is rounded to odd on the way to a
 * short type, so that the second rounding gives what a single one would. */
template <class X> struct to_double_op {
    double *y;
    const X *x;

    template <int V> __device__ __forceinline__ void at(int64_t i) const { y[i] = static_cast<double>(fm_widen(x[i])); }
};

template <class Y> struct from_double_op {
    Y *y;
    const double *x;

    template <int V> __device__ __forceinline__ void at(int64_t i) const
    {
        float near = static_cast<float>(x[i]);
        if (sizeof(Y) == 2 && static_cast<double>(near) != x[i] && x[i] == x[i]) {
            const unsigned beyond = fabs(static_cast<double>(near)) > fabs(x[i]) ? 1u : 0u;
            near = __uint_as_float((__float_as_uint(near) - beyond) | 1u);
        }
        y[i] = fm_narrow<Y>(near);
    }
};

int fm_cuda_convert(fm_device *device, void *to, enum fm_dtype to_dtype, const void *from, enum fm_dtype from_dtype, int64_t n)
{
    const cudaStream_t stream = fm_cuda_of(device)->stream;
    if (to_dtype == from_dtype) {
        return fm_device_copy(device, to, from, static_cast<size_t>(n) * fm_dtype_bytes(to_dtype));
    }
    if (to_dtype == FM_F64) {
        return fm_with_dtype(from_dtype, [&](auto zero) {
            using X = decltype(zero);
            const to_double_op<X> op = { static_cast<double *>(to), static_cast<const X *>(from) };
            return run_vector<1>("conversion", stream, op, n, false);
        });
    }
    return fm_with_dtype(to_dtype, [&](auto y_zero) {
        using Y = decltype(y_zero);
        if (from_dtype == FM_F64) {
            const from_double_op<Y> op = { static_cast<Y *>(to), static_cast<const double *>(from) };
            return run_vector<1>("conversion", stream, op, n, false);
        }
        return fm_with_dtype(from_dtype, [&](auto x_zero) {
            using X = decltype(x_zero);
            const copy_op<Y, X> op = { static_cast<Y *>(to), static_cast<const X *>(from), 0, 0 };
            return run_vector<copy_width<Y, X>>("conversion", stream, op, n, fm_is_wide<Y>(to, 0) && fm_is_wide<X>(from, 0));
        });
    });
}

/* ---- SwiGLU ---- */

/* silu(g) = g / (1 + exp(-g)). __fdividef is good to 2 ulp and gives 0 for divisors above 2^126, where silu is below 2^-119. */
template <class T> struct swiglu_op {
    T *a;
    const T *gu;
    int64_t F;

    template <int V> __device__ __forceinline__ void at(int64_t row, int64_t column) const
    {
        float g[V], u[V];
        fm_load(g, gu + row * 2 * F + column);
        fm_load(u, gu + row * 2 * F + F + column);
        FM_UNROLL
        for (int k = 0; k < V; k++) {
            u[k] *= __fdividef(g[k], 1.0f + expf(-g[k]));
        }
        fm_store(a + row * F + column, u);
    }
};

int fm_cuda_swiglu(fm_compute *compute, void *a, const void *gu, enum fm_dtype dtype, int64_t N, int64_t F)
{
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const swiglu_op<T> op = { static_cast<T *>(a), static_cast<const T *>(gu), F };
        return run_rows<fm_wide<T>>("swiglu", fm_stream(compute), op, N, F, fm_is_wide<T>(a, F) && fm_is_wide<T>(gu, F));
    });
}

/* s = 1 / (1 + exp(-g)): dg = da u s (1 + g (1 - s)), du = da g s. Each thread reads what it overwrites: dgu may be gu. */
template <class T> struct swiglu_backward_op {
    T *dgu;
    const T *da, *gu;
    int64_t F;

    template <int V> __device__ __forceinline__ void at(int64_t row, int64_t column) const
    {
        float d[V], g[V], u[V];
        const int64_t gate = row * 2 * F + column;
        fm_load(d, da + row * F + column);
        fm_load(g, gu + gate);
        fm_load(u, gu + gate + F);
        FM_UNROLL
        for (int k = 0; k < V; k++) {
            const float s = __fdividef(1.0f, 1.0f + expf(-g[k]));
            const float dg = d[k] * u[k] * s * (1.0f + g[k] * (1.0f - s));
            u[k] = d[k] * g[k] * s;
            g[k] = dg;
        }
        fm_store(dgu + gate, g);
        fm_store(dgu + gate + F, u);
    }
};

int fm_cuda_swiglu_backward(fm_compute *compute, void *dgu, const void *da, const void *gu, enum fm_dtype dtype, int64_t N, int64_t F)
{
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const swiglu_backward_op<T> op = { static_cast<T *>(dgu), static_cast<const T *>(da), static_cast<const T *>(gu), F };
        return run_rows<fm_wide<T>>("swiglu backward", fm_stream(compute), op, N, F,
                                      fm_is_wide<T>(dgu, F) && fm_is_wide<T>(da, F) && fm_is_wide<T>(gu, F));
    });
}
