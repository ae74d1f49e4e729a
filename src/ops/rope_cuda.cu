/* Rotary position embedding of the "halves" kind: element i of a head pairs with element i + rotary_dim / 2. A thread turns the same
 * pairs of up to HEADS heads, so that it reads their angles once. */
#include "ops/cuda_kernel.h"

enum { THREADS = 256, HEADS = 4 };

template <class T> struct rope_args {
    T *x;
    int64_t ld;
    const float *cos, *sin;            /* [positions, half] */
    const int32_t *position;
    float sign;                        /* -1: the inverse */
    int64_t N;
    int heads, D, half;
};

/* Threads of a row: (half / V) packs x groups of HEADS heads. */
template <class T, int V> static __global__ void __launch_bounds__(THREADS) rope_kernel(const rope_args<T> a, int64_t row_threads)
{
    const fm_place here = fm_tile_place(row_threads);
    if (here.row >= a.N || here.pack >= row_threads) {
        return;
    }
    const int packs = a.half / V, i = static_cast<int>(here.pack) % packs * V, first = static_cast<int>(here.pack) / packs * HEADS;
    float cos[V], sin[V];
    const int64_t angles = static_cast<int64_t>(a.position[here.row]) * a.half + i;
    T *const row = a.x + here.row * a.ld + i;
    fm_pack<T, V> low[HEADS], high[HEADS];
    FM_UNROLL
    for (int h = 0; h < HEADS; h++) {
        if (first + h < a.heads) {
            low[h].load(row + static_cast<int64_t>(first + h) * a.D);
            high[h].load(row + static_cast<int64_t>(first + h) * a.D + a.half);
        }
    }
    fm_load(cos, a.cos + angles);
    fm_load(sin, a.sin + angles);
    FM_UNROLL
    for (int h = 0; h < HEADS; h++) {
        if (first + h < a.heads) {
            float x[V], y[V];
            FM_UNROLL
            for (int k = 0; k < V; k++) {
                const float s = a.sign * sin[k];
                x[k] = low[h].get(k) * cos[k] - high[h].get(k) * s;
                y[k] = high[h].get(k) * cos[k] + low[h].get(k) * s;
            }
            fm_store(row + static_cast<int64_t>(first + h) * a.D, x);
            fm_store(row + static_cast<int64_t>(first + h) * a.D + a.half, y);
        }
    }
}

template <class T, int V> static int run(fm_compute *compute, const rope_args<T> &a)
{
    const int64_t threads = a.half / V * fm_ceil_div(a.heads, HEADS);
    return fm_launch("rope", rope_kernel<T, V>, fm_tile_grid(a.N, threads), fm_tile_block(threads), 0, fm_stream(compute), a, threads);
}

int fm_cuda_rope(fm_compute *compute, void *x, int64_t ld, const float *cos, const float *sin, const int32_t *position, bool inverse,
                 enum fm_dtype dtype, int64_t N, int heads, int D, int rotary_dim)
{
    const int half = rotary_dim / 2;
    if (N == 0 || heads == 0 || half == 0) {
        return FM_OK;
    }
    return fm_with_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        constexpr int V = fm_wide<T>;
        const rope_args<T> a = { static_cast<T *>(x), ld, cos, sin, position, inverse ? -1.0f : 1.0f, N, heads, D, half };
        const bool wide = fm_is_wide<T>(x, ld) && D % V == 0 && half % V == 0 && fm_is_wide<float>(cos, 0) && fm_is_wide<float>(sin, 0);
        return wide ? run<T, V>(compute, a) : run<T, 1>(compute, a);
    });
}
