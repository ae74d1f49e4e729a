/* Rotary position embedding of the "halves" kind: element i of a head pairs with element i + rotary_dim / 2. */
#include "ops/cpu.h"
#include "ops/rows.h"

FM_ROW_KERNEL
static void rotate_head(float *restrict a, float *restrict b, const float *restrict cos, const float *restrict sin, float sign, int half)
{
    for (int i = 0; i < half; i++) {
        const float x = a[i], y = b[i];
        a[i] = x * cos[i] - y * (sign * sin[i]);
        b[i] = y * cos[i] + x * (sign * sin[i]);
    }
}

int fm_cpu_rope(fm_compute *compute, void *x, int64_t ld, const float *cos, const float *sin, const int32_t *position, bool inverse,
                enum fm_dtype dtype, int64_t N, int heads, int D, int rotary_dim)
{
    FM_TRY(fm_compute_reserve(compute, (size_t)rotary_dim * sizeof(float)));
    const int half = rotary_dim / 2;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N; r++) {
        const int64_t at = (int64_t)position[r] * half;
        for (int h = 0; h < heads; h++) {
            void *const head = fm_at(x, dtype, r * ld + (int64_t)h * D);
            float *const row = fm_row_target(fm_compute_scratch(compute), head, dtype);
            if (dtype != FM_F32) {
                fm_row_load(row, head, dtype, rotary_dim);
            }
            rotate_head(row, row + half, cos + at, sin + at, inverse ? -1.0f : 1.0f, half);
            fm_row_finish(head, dtype, row, rotary_dim);
        }
    }
    return FM_OK;
}
