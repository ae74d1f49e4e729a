#include "ops/cpu.h"
#include "ops/rows.h"

/* Columns and rows that a thread sums at a time: float partial sums over BAND rows, added up in double. */
enum { COLUMNS = 64, BAND = 64 };

int fm_cpu_bias_add(fm_compute *compute, void *y, const void *bias, enum fm_dtype dtype, int64_t N, int64_t n, int64_t ld)
{
    FM_TRY(fm_compute_reserve(compute, 2 * (size_t)n * sizeof(float)));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N; r++) {
        float *const scratch = fm_compute_scratch(compute);
        const float *const row = fm_row_view(scratch, bias, dtype, n);
        fm_row_add(fm_at(y, dtype, r * ld), dtype, row, scratch + n, n);
    }
    return FM_OK;
}

FM_ROW_KERNEL
static void add_band(double *restrict sums, const float *restrict band, int rows, int columns)
{
    float partial[COLUMNS] = { 0 };
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < columns; c++) {
            partial[c] += band[r * COLUMNS + c];
        }
    }
    for (int c = 0; c < columns; c++) {
        sums[c] += (double)partial[c];
    }
}

int fm_cpu_bias_backward(fm_compute *compute, float *db, const void *dy, enum fm_dtype dtype, int64_t N, int64_t n, int64_t ld)
{
    (void)compute;
#pragma omp parallel for schedule(static)
    for (int64_t c0 = 0; c0 < n; c0 += COLUMNS) {
        const int columns = (int)(n - c0 < COLUMNS ? n - c0 : COLUMNS);
        double sums[COLUMNS] = { 0 };
        float band[BAND * COLUMNS];
        for (int64_t r0 = 0; r0 < N; r0 += BAND) {
            const int rows = (int)(N - r0 < BAND ? N - r0 : BAND);
            for (int r = 0; r < rows; r++) {
                fm_row_load(band + r * COLUMNS, fm_at(dy, dtype, (r0 + r) * ld + c0), dtype, columns);
            }
            add_band(sums, band, rows, columns);
        }
        for (int c = 0; c < columns; c++) {
            db[c0 + c] += (float)sums[c];
        }
    }
    return FM_OK;
}

/* Long vectors are worked on in blocks of this many numbers. */
enum { BLOCK = 2048 };

int fm_cpu_add(fm_compute *compute, void *y, const void *x, enum fm_dtype dtype, int64_t n)
{
    (void)compute;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i += BLOCK) {
        float a[BLOCK], b[BLOCK];
        const int64_t part = n - i < BLOCK ? n - i : BLOCK;
        fm_row_add(fm_at(y, dtype, i), dtype, fm_row_view(a, fm_at(x, dtype, i), dtype, part), b, part);
    }
    return FM_OK;
}

int fm_cpu_copy_rows(fm_compute *compute, void *y, int64_t ldy, enum fm_dtype y_dtype, const void *x, int64_t ldx,
                     enum fm_dtype x_dtype, int64_t N, int64_t n)
{
    FM_TRY(fm_compute_reserve(compute, (size_t)n * sizeof(float)));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N; r++) {
        const void *const from = fm_at(x, x_dtype, r * ldx);
        void *const to = fm_at(y, y_dtype, r * ldy);
        if (x_dtype == y_dtype) {
            memcpy(to, from, (size_t)n * fm_dtype_bytes(x_dtype));
        } else {
            fm_row_store(to, y_dtype, fm_row_view(fm_compute_scratch(compute), from, x_dtype, n), n);
        }
    }
    return FM_OK;
}

int fm_cpu_scale(fm_compute *compute, float *x, float factor, int64_t n)
{
    (void)compute;
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) {
        x[i] *= factor;
    }
    return FM_OK;
}

FM_ROW_KERNEL
static double block_squares(const float *x, int64_t n)
{
    double lanes[8] = { 0 };
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (int k = 0; k < 8; k++) {
            lanes[k] += (double)x[i + k] * (double)x[i + k];
        }
    }
    for (; i < n; i++) {
        lanes[0] += (double)x[i] * (double)x[i];
    }
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

static double span_squares(const float *x, int64_t n)
{
    /* one sum a part, parts of a size that does not depend on the threads, added in order */
    enum { PARTS = 64 };
    const int64_t part = (n + PARTS - 1) / PARTS;
    double sums[PARTS] = { 0 }, all = 0.0;
#pragma omp parallel for schedule(static)
    for (int p = 0; p < PARTS; p++) {
        const int64_t start = p * part, end = start + part < n ? start + part : n;
        if (start < end) {
            sums[p] = block_squares(x + start, end - start);
        }
    }
    for (int p = 0; p < PARTS; p++) {
        all += sums[p];
    }
    return all;
}

int fm_cpu_sum_squares(fm_compute *compute, double *out, const fm_span *spans, int n_spans)
{
    (void)compute;
    for (int s = 0; s < n_spans; s++) {
        out[s] = span_squares(spans[s].x, spans[s].n);
    }
    return FM_OK;
}

/* silu(g) = g / (1 + exp(-g)) */
FM_ROW_KERNEL
static void swiglu_row(float *restrict a, const float *restrict g, const float *restrict u, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        a[i] = g[i] / (1.0f + fm_exp(-g[i])) * u[i];
    }
}

int fm_cpu_swiglu(fm_compute *compute, void *a, const void *gu, enum fm_dtype dtype, int64_t N, int64_t F)
{
    FM_TRY(fm_compute_reserve(compute, 3 * (size_t)F * sizeof(float)));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N; r++) {
        float *const scratch = fm_compute_scratch(compute);
        const float *const g = fm_row_view(scratch, fm_at(gu, dtype, r * 2 * F), dtype, F);
        const float *const u = fm_row_view(scratch + F, fm_at(gu, dtype, r * 2 * F + F), dtype, F);
        void *const out = fm_at(a, dtype, r * F);
        float *const target = fm_row_target(scratch + 2 * F, out, dtype);
        swiglu_row(target, g, u, F);
        fm_row_finish(out, dtype, target, F);
    }
    return FM_OK;
}

/* s = 1 / (1 + exp(-g)): dg = da u s (1 + g (1 - s)), du = da g s. In place: gu becomes dgu. */
FM_ROW_KERNEL
static void swiglu_backward_row(float *restrict dg, float *restrict du, const float *restrict da, const float *restrict g,
                                const float *restrict u, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float s = 1.0f / (1.0f + fm_exp(-g[i]));
        const float d = da[i];
        dg[i] = d * u[i] * s * (1.0f + g[i] * (1.0f - s));
        du[i] = d * g[i] * s;
    }
}

int fm_cpu_swiglu_backward(fm_compute *compute, void *dgu, const void *da, const void *gu, enum fm_dtype dtype, int64_t N, int64_t F)
{
    FM_TRY(fm_compute_reserve(compute, 5 * (size_t)F * sizeof(float)));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N; r++) {
        /* results go through scratch rows: dgu may be gu */
        float *const scratch = fm_compute_scratch(compute);
        const float *const g = fm_row_view(scratch, fm_at(gu, dtype, r * 2 * F), dtype, F);
        const float *const u = fm_row_view(scratch + F, fm_at(gu, dtype, r * 2 * F + F), dtype, F);
        const float *const d = fm_row_view(scratch + 2 * F, fm_at(da, dtype, r * F), dtype, F);
        swiglu_backward_row(scratch + 3 * F, scratch + 4 * F, d, g, u, F);
        fm_row_store(fm_at(dgu, dtype, r * 2 * F), dtype, scratch + 3 * F, 2 * F);
    }
    return FM_OK;
}
