/* Products of small matrices in cache, by the calling thread alone, for attention.
 *
 * All operands but the result are arrays of units: 32-bit words that hold one fp32 number or a pair of bf16 numbers that follow each
 * other in the direction of the sum. So the shapes below, with k counted in units, are the same for both kinds. */
#ifndef FM_OPS_TILE_H
#define FM_OPS_TILE_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"

enum { FM_TILE_PANEL = 64 };           /* columns of a panel */

/* FM_BF16 where this machine multiplies pairs of bf16 (AVX512_BF16) and the numbers are bf16, else FM_F32. Local. */
enum fm_dtype fm_tile_kind(enum fm_dtype dtype);

/* C[m, n] fp32 = or += A B. A(i, p) = a[i * row_stride + p * column_stride]; B[k, n] row-major; n a multiple of 16. Local. */
void fm_tile_multiply(enum fm_dtype kind, float *c, int64_t ldc, const uint32_t *a, int64_t row_stride, int64_t column_stride,
                      const uint32_t *b, int64_t ldb, int64_t m, int64_t n, int64_t k, bool add);

/* Units of `rows` (1 or 2: a pair) rows of n numbers, summed over the rows: unit i holds number i of each; up to n_padded with zeros.
 * `odd` NULL: zeros. Only for kind BF16 are there pairs. Local. */
void fm_tile_interleave(uint32_t *out, const uint16_t *even, const uint16_t *odd, int64_t n, int64_t n_padded);

/* The same from fp32 rows, rounded to nearest even; and one row rounded. Kind BF16 only. Local. */
void fm_tile_interleave_wide(uint32_t *out, const float *even, const float *odd, int64_t n);
void fm_tile_narrow(uint16_t *out, const float *in, int64_t n);

/* Panel [k, FM_TILE_PANEL] = transpose of `rows` (at most FM_TILE_PANEL) rows of k units with ld units; other columns 0. Local. */
void fm_tile_transpose(uint32_t *panel, const uint32_t *in, int64_t ld, int64_t rows, int64_t k);

#endif
