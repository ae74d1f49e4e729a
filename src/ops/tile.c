#include "ops/tile.h"

#include <string.h>

#include "ops/rows.h"

#if defined(FM_TARGET_CLONES) && defined(__x86_64__)
#include <immintrin.h>
#define PAIR_KERNEL __attribute__((target("arch=x86-64-v4,avx512bf16")))
#endif

/* A block of the result stays in registers: ROWS rows of one or four vectors. */
enum { ROWS = 6, LANES = 16, WIDE = 4 };

typedef float vector __attribute__((vector_size(64), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE float float_of(uint32_t unit)
{
    float value;
    memcpy(&value, &unit, sizeof value);
    return value;
}

/* rows and vectors are constants where this is inlined. What is added to comes last: sums of sums lose fewer bits than one long sum. */
INLINE void block_f32(float *c, int64_t ldc, const uint32_t *a, int64_t row_stride, int64_t column_stride, const uint32_t *b, int64_t ldb,
                      int64_t k, bool add, const int rows, const int vectors)
{
    vector sum[ROWS][WIDE];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            sum[i][j] = (vector){ 0 };
        }
    }
    for (int64_t p = 0; p < k; p++) {
        vector row[WIDE];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            row[j] = *(const vector *)(const void *)(b + p * ldb + j * LANES);
        }
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            const float x = float_of(a[i * row_stride + p * column_stride]);
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) {
                sum[i][j] += x * row[j];
            }
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            vector *const to = (vector *)(c + i * ldc + j * LANES);
            if (add) {
                sum[i][j] += *to;
            }
            *to = sum[i][j];
        }
    }
}

/* All rows of one block of columns: rows by ROWS, then what is left. */
#define BLOCK_OF_COLUMNS(name, attribute, block, vectors) \
    attribute static void name(float *c, int64_t ldc, const uint32_t *a, int64_t row_stride, int64_t column_stride, const uint32_t *b, \
                               int64_t ldb, int64_t m, int64_t k, bool add) \
    { \
        for (; m >= ROWS; m -= ROWS, c += ROWS * ldc, a += ROWS * row_stride) { \
            block(c, ldc, a, row_stride, column_stride, b, ldb, k, add, ROWS, vectors); \
        } \
        switch (m) { \
        case 5: block(c, ldc, a, row_stride, column_stride, b, ldb, k, add, 5, vectors); break; \
        case 4: block(c, ldc, a, row_stride, column_stride, b, ldb, k, add, 4, vectors); break; \
        case 3: block(c, ldc, a, row_stride, column_stride, b, ldb, k, add, 3, vectors); break; \
        case 2: block(c, ldc, a, row_stride, column_stride, b, ldb, k, add, 2, vectors); break; \
        case 1: block(c, ldc, a, row_stride, column_stride, b, ldb, k, add, 1, vectors); break; \
        default: break; \
        } \
    }

BLOCK_OF_COLUMNS(wide_f32, FM_ROW_KERNEL, block_f32, WIDE)
BLOCK_OF_COLUMNS(narrow_f32, FM_ROW_KERNEL, block_f32, 1)

typedef void (*columns_fn)(float *c, int64_t ldc, const uint32_t *a, int64_t row_stride, int64_t column_stride, const uint32_t *b,
                           int64_t ldb, int64_t m, int64_t k, bool add);

#if defined(PAIR_KERNEL)

PAIR_KERNEL INLINE void block_bf16(float *c, int64_t ldc, const uint32_t *a, int64_t row_stride, int64_t column_stride, const uint32_t *b,
                                   int64_t ldb, int64_t k, bool add, const int rows, const int vectors)
{
    __m512 sum[ROWS][WIDE];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            sum[i][j] = _mm512_setzero_ps();
        }
    }
    for (int64_t p = 0; p < k; p++) {
        __m512bh row[WIDE];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            row[j] = (__m512bh)_mm512_loadu_si512(b + p * ldb + j * LANES);
        }
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[i * row_stride + p * column_stride]);
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) {
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], x, row[j]);
            }
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            float *const to = c + i * ldc + j * LANES;
            _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sum[i][j]) : sum[i][j]);
        }
    }
}

BLOCK_OF_COLUMNS(wide_bf16, PAIR_KERNEL, block_bf16, WIDE)
BLOCK_OF_COLUMNS(narrow_bf16, PAIR_KERNEL, block_bf16, 1)

enum fm_dtype fm_tile_kind(enum fm_dtype dtype)
{
    return dtype == FM_BF16 && __builtin_cpu_supports("avx512bf16") ? FM_BF16 : FM_F32;
}

/* Four vectors a row need AVX-512's 32 registers. */
static bool has_wide(void)
{
    return __builtin_cpu_supports("avx512f");
}

PAIR_KERNEL void fm_tile_interleave_wide(uint32_t *out, const float *even, const float *odd, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        const __mmask16 mask = n - i >= LANES ? 0xffff : (__mmask16)((1u << (n - i)) - 1);
        const __m256i low = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, even + i));
        const __m256i high = odd == NULL ? _mm256_setzero_si256() : (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, odd + i));
        const __m512i pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
        _mm512_mask_storeu_epi32(out + i, mask, pairs);
    }
}

PAIR_KERNEL void fm_tile_narrow(uint16_t *out, const float *in, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        const __mmask16 mask = n - i >= LANES ? 0xffff : (__mmask16)((1u << (n - i)) - 1);
        _mm256_mask_storeu_epi16(out + i, mask, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, in + i)));
    }
}

#else

#define wide_bf16 wide_f32
#define narrow_bf16 narrow_f32

enum fm_dtype fm_tile_kind(enum fm_dtype dtype)
{
    (void)dtype;
    return FM_F32;
}

static bool has_wide(void)
{
    return false;
}

void fm_tile_interleave_wide(uint32_t *out, const float *even, const float *odd, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = fm_f32_to_bf16(even[i]) | (odd == NULL ? 0u : (uint32_t)fm_f32_to_bf16(odd[i]) << 16);
    }
}

void fm_tile_narrow(uint16_t *out, const float *in, int64_t n)
{
    fm_row_store(out, FM_BF16, in, n);
}

#endif

void fm_tile_multiply(enum fm_dtype kind, float *c, int64_t ldc, const uint32_t *a, int64_t row_stride, int64_t column_stride,
                      const uint32_t *b, int64_t ldb, int64_t m, int64_t n, int64_t k, bool add)
{
    const columns_fn wide = kind == FM_BF16 ? wide_bf16 : wide_f32, narrow = kind == FM_BF16 ? narrow_bf16 : narrow_f32;
    int64_t j = 0;
    for (; has_wide() && j + WIDE * LANES <= n; j += WIDE * LANES) {
        wide(c + j, ldc, a, row_stride, column_stride, b + j, ldb, m, k, add);
    }
    for (; j < n; j += LANES) {
        narrow(c + j, ldc, a, row_stride, column_stride, b + j, ldb, m, k, add);
    }
}

FM_ROW_KERNEL
static void interleave(uint32_t *restrict out, const uint16_t *restrict even, const uint16_t *restrict odd, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = even[i] | (uint32_t)odd[i] << 16;
    }
}

void fm_tile_interleave(uint32_t *out, const uint16_t *even, const uint16_t *odd, int64_t n, int64_t n_padded)
{
    if (odd != NULL) {
        interleave(out, even, odd, n);
    } else {
        for (int64_t i = 0; i < n; i++) {
            out[i] = even[i];
        }
    }
    memset(out + n, 0, (size_t)(n_padded - n) * sizeof *out);
}

void fm_tile_transpose(uint32_t *panel, const uint32_t *in, int64_t ld, int64_t rows, int64_t k)
{
    for (int64_t p = 0; p < k; p++) {
        for (int64_t r = 0; r < rows; r++) {
            panel[p * FM_TILE_PANEL + r] = in[r * ld + p];
        }
        memset(panel + p * FM_TILE_PANEL + rows, 0, (size_t)(FM_TILE_PANEL - rows) * sizeof *panel);
    }
}
