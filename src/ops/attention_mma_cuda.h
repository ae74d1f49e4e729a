/* What attention's kernels on tensor cores share, forward and backward. C++ only. */
#ifndef FM_OPS_ATTENTION_MMA_CUDA_H
#define FM_OPS_ATTENTION_MMA_CUDA_H
#ifdef __cplusplus

#include "ops/attention_cuda.h"
#include "ops/cuda_mma.h"

enum { FM_CAPABILITY_MMA = 80 };       /* bf16 products and cp.async */

/* The scores of keys that a query does not see become -inf. `range`: of the warp's first query; `key`: the tile's first. */
template <int MT, int NT>
static __device__ __forceinline__ void fm_hide_keys(float (&s)[MT][NT][4], const fm_key_range *range, int key)
{
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    FM_UNROLL
    for (int i = 0; i < 2 * MT; i++) {
        const fm_key_range mine = range[i * 8 + g];
        FM_UNROLL
        for (int n = 0; n < NT; n++) {
            FM_UNROLL
            for (int j = 0; j < 2; j++) {
                float &score = s[i / 2][n][i % 2 * 2 + j];
                score = fm_key_range_has(mine, key + n * 8 + 2 * t + j) ? score : -INFINITY;
            }
        }
    }
}

/* Two numbers that follow each other, in fp32 (wide) or T: keep * what was there is added, which only fp32 can have. */
template <class T>
static __device__ __forceinline__ void fm_pair_store(void *out, int64_t at, float x, float y, bool wide, float keep)
{
    if (wide) {
        float *const to = (float *)out + at;
        const float2 old = keep != 0.0f ? fm_read<float2>(to) : make_float2(0.0f, 0.0f);
        fm_write<float2>(to, make_float2(old.x * keep + x, old.y * keep + y));
    } else {
        fm_write<unsigned>((uint16_t *)out + at, fm_narrow2<T>(x, y));
    }
}

/* Writes rows of gradients, factor * c, of a warp's 16 MT rows from `row` on, to dq, dk or dv (ld numbers from row to row). Rows
 * from `rows_there` on do not exist. */
template <class T, int MT, int NT>
static __device__ __forceinline__ void fm_gradients_store(void *out, int64_t at, int64_t ld, const float (&c)[MT][NT][4], float factor,
                                                          int row, int64_t rows_there, int D, bool wide, bool add)
{
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    FM_UNROLL
    for (int i = 0; i < 2 * MT; i++) {
        const int r = row + i * 8 + g;
        FM_UNROLL
        for (int n = 0; n < NT; n++) {
            if (r < rows_there && n * 8 < D) {
                fm_pair_store<T>(out, at + r * ld + n * 8 + 2 * t, c[i / 2][n][i % 2 * 2] * factor, c[i / 2][n][i % 2 * 2 + 1] * factor,
                                  wide, add ? 1.0f : 0.0f);
            }
        }
    }
}

#endif
#endif
