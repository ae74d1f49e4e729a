/* Row kernels: arithmetic on a few thousand numbers of one thread, in fp32, whatever the dtype in memory. A row of another dtype is
 * widened into a scratch row in cache first; so every op exists once for all dtypes. All functions are local and not threaded.
 *
 * FM_ROW_KERNEL marks a function of which there is one for each instruction set: no OpenMP regions in it (base/clones.h). */
#ifndef FM_OPS_ROWS_H
#define FM_OPS_ROWS_H

#include <math.h>

#include "base/clones.h"
#include "tensor/dtype.h"

#define FM_ROW_KERNEL FM_CLONES

/* n numbers widened to fp32, and narrowed (nearest even). */
void fm_row_load(float *out, const void *in, enum fm_dtype dtype, int64_t n);
void fm_row_store(void *out, enum fm_dtype dtype, const float *in, int64_t n);

/* out += in, out in dtype. `scratch` [n]. */
void fm_row_add(void *out, enum fm_dtype dtype, const float *in, float *scratch, int64_t n);

/* Sum of products. */
float fm_row_dot(const float *restrict a, const float *restrict b, int64_t n);

/* The largest; NaN is passed over. -inf of none. */
float fm_row_max(const float *x, int64_t n);

/* The row itself where it is fp32, else a widened copy in scratch [n]. */
static inline const float *fm_row_view(float *scratch, const void *in, enum fm_dtype dtype, int64_t n)
{
    if (dtype == FM_F32) {
        return in;
    }
    fm_row_load(scratch, in, dtype, n);
    return scratch;
}

/* Where results of a row go before fm_row_finish: the row itself where it is fp32. */
static inline float *fm_row_target(float *scratch, void *out, enum fm_dtype dtype)
{
    return dtype == FM_F32 ? out : scratch;
}

static inline void fm_row_finish(void *out, enum fm_dtype dtype, const float *row, int64_t n)
{
    if (dtype != FM_F32) {
        fm_row_store(out, dtype, row, n);
    }
}

/* Byte address of element i. */
static inline void *fm_at(const void *base, enum fm_dtype dtype, int64_t i)
{
    return (char *)(uintptr_t)base + i * (int64_t)fm_dtype_bytes(dtype);
}

/* exp(x) to 2 ulp in fp32 for x <= 88; below -87 it is 0. x = n ln 2 + r with |r| <= ln 2 / 2, exp(x) = 2^n exp(r), exp(r) by a
 * minimax polynomial (the coefficients of the Cephes library's expf). Branch-free, so that loops over it become vector code. */
static inline float fm_exp(float x)
{
    const float clamped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float shifted = clamped * 1.44269504088896341f + 12582912.0f;   /* round to nearest by the size of the mantissa */
    const float n = shifted - 12582912.0f;
    const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;                     /* n stands in the low bits of `shifted`; unsigned, so that NaN does no harm */
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return x < -87.0f ? 0.0f : p * scale;
}

#endif
