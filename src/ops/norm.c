/* RMSNorm over the whole row or over each head of it. */
#include "ops/cpu.h"
#include "ops/rows.h"

FM_ROW_KERNEL
static void normalize_row(float *restrict y, const float *restrict x, const float *restrict w, float rstd, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = w[i] * (x[i] * rstd);
    }
}

int fm_cpu_rmsnorm(fm_compute *compute, void *y, int64_t ldy, float *rstd, const void *x, int64_t ldx, const void *w,
                   enum fm_dtype dtype, int64_t N, int heads, int64_t n, double eps)
{
    FM_TRY(fm_compute_reserve(compute, 3 * (size_t)n * sizeof(float)));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N; r++) {
        float *const scratch = fm_compute_scratch(compute);
        const float *const weight = fm_row_view(scratch, w, dtype, n);
        for (int h = 0; h < heads; h++) {
            const float *const in = fm_row_view(scratch + n, fm_at(x, dtype, r * ldx + h * n), dtype, n);
            void *const out = fm_at(y, dtype, r * ldy + h * n);
            const float scale = (float)(1.0 / sqrt((double)fm_row_dot(in, in, n) / (double)n + eps));
            rstd[r * heads + h] = scale;
            normalize_row(scratch + 2 * n, in, weight, scale, n);
            fm_row_store(out, dtype, scratch + 2 * n, n);
        }
    }
    return FM_OK;
}

/* With g = w dy and xhat = rstd x: dx = rstd (g - xhat mean(g xhat)). */
FM_ROW_KERNEL
static void backward_row(float *restrict dx, float *restrict g, const float *restrict dy, const float *restrict x,
                         const float *restrict w, float rstd, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        g[i] = w[i] * dy[i];
    }
    const float mean = fm_row_dot(g, x, n) * rstd / (float)n;
    for (int64_t i = 0; i < n; i++) {
        dx[i] = rstd * (g[i] - x[i] * rstd * mean);
    }
}

int fm_cpu_rmsnorm_backward(fm_compute *compute, void *dx, int64_t lddx, bool add, const void *dy, int64_t lddy, const void *x,
                            int64_t ldx, const void *w, const float *rstd, enum fm_dtype dtype, int64_t N, int heads, int64_t n)
{
    FM_TRY(fm_compute_reserve(compute, 6 * (size_t)n * sizeof(float)));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N; r++) {
        float *const scratch = fm_compute_scratch(compute);
        const float *const weight = fm_row_view(scratch, w, dtype, n);
        for (int h = 0; h < heads; h++) {
            const float *const in = fm_row_view(scratch + n, fm_at(x, dtype, r * ldx + h * n), dtype, n);
            const float *const d = fm_row_view(scratch + 2 * n, fm_at(dy, dtype, r * lddy + h * n), dtype, n);
            void *const out = fm_at(dx, dtype, r * lddx + h * n);
            backward_row(scratch + 4 * n, scratch + 3 * n, d, in, weight, rstd[r * heads + h], n);
            if (add) {
                fm_row_add(out, dtype, scratch + 4 * n, scratch + 5 * n, n);
            } else {
                fm_row_store(out, dtype, scratch + 4 * n, n);
            }
        }
    }
    return FM_OK;
}

/* Columns that a thread sums at a time, and rows whose sum is kept in float before it goes to double. */
enum { COLUMNS = 64, BAND = 64 };

FM_ROW_KERNEL
static void weight_row(float *restrict sums, const float *restrict dy, const float *restrict x, float rstd, int columns)
{
    for (int c = 0; c < columns; c++) {
        sums[c] += dy[c] * (x[c] * rstd);
    }
}

int fm_cpu_rmsnorm_backward_weight(fm_compute *compute, float *dw, const void *dy, int64_t lddy, const void *x, int64_t ldx,
                                   const float *rstd, enum fm_dtype dtype, int64_t N, int heads, int64_t n)
{
    (void)compute;
#pragma omp parallel for schedule(static)
    for (int64_t c0 = 0; c0 < n; c0 += COLUMNS) {
        const int columns = (int)(n - c0 < COLUMNS ? n - c0 : COLUMNS);
        double total[COLUMNS] = { 0 };
        float a[COLUMNS], b[COLUMNS];
        for (int64_t r0 = 0; r0 < N * heads; r0 += BAND) {
            float sums[COLUMNS] = { 0 };
            for (int64_t i = r0; i < r0 + BAND && i < N * heads; i++) {
                const int64_t r = i / heads, h = i % heads;
                weight_row(sums, fm_row_view(a, fm_at(dy, dtype, r * lddy + h * n + c0), dtype, columns),
                           fm_row_view(b, fm_at(x, dtype, r * ldx + h * n + c0), dtype, columns), rstd[i], columns);
            }
            for (int c = 0; c < columns; c++) {
                total[c] += (double)sums[c];
            }
        }
        for (int c = 0; c < columns; c++) {
            dw[c0 + c] += (float)total[c];
        }
    }
    return FM_OK;
}
