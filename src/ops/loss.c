/* Cross entropy over a vocabulary that comes in chunks. */
#include "ops/cpu.h"
#include "ops/rows.h"

FM_ROW_KERNEL
static float row_sum_exp(const float *x, float max, int64_t n)
{
    float lanes[16] = { 0 };
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int k = 0; k < 16; k++) {
            lanes[k] += fm_exp(x[i + k] - max);
        }
    }
    double sum = 0.0;
    for (int k = 0; k < 16; k++) {
        sum += (double)lanes[k];
    }
    for (; i < n; i++) {
        sum += (double)fm_exp(x[i] - max);
    }
    return (float)sum;
}

int fm_cpu_cross_entropy_begin(fm_compute *compute, float *max, float *sums, int64_t N)
{
    (void)compute;
    for (int64_t r = 0; r < N; r++) {
        max[r] = -INFINITY;
        sums[r] = sums[N + r] = 0.0f;
    }
    return FM_OK;
}

int fm_cpu_cross_entropy_chunk(fm_compute *compute, float *max, float *sum, float *label_logit, const float *logits,
                               const int32_t *labels, int64_t start, int64_t N, int64_t n)
{
    (void)compute;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N; r++) {
        const float *const row = logits + r * n;
        const float chunk_max = fm_row_max(row, n);
        const float larger = chunk_max > max[r] ? chunk_max : max[r];
        sum[r] = sum[r] * fm_exp(max[r] - larger) + row_sum_exp(row, larger, n);
        max[r] = larger;
        const int64_t label = labels[r] - start;
        if (label >= 0 && label < n) {
            label_logit[r] = row[label];
        }
    }
    return FM_OK;
}

int fm_cpu_cross_entropy_rescale(fm_compute *compute, float *sum, const float *old_max, const float *new_max, int64_t N)
{
    (void)compute;
    for (int64_t r = 0; r < N; r++) {
        sum[r] *= expf(old_max[r] - new_max[r]);
    }
    return FM_OK;
}

int fm_cpu_cross_entropy_finish(fm_compute *compute, double *loss, const float *max, const float *sum, const float *label_logit,
                                int64_t N)
{
    (void)compute;
    for (int64_t r = 0; r < N; r++) {
        *loss += (double)max[r] + log((double)sum[r]) - (double)label_logit[r];
    }
    return FM_OK;
}

FM_ROW_KERNEL
static void softmax_row(float *out, const float *x, float max, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = factor * fm_exp(x[i] - max);
    }
}

int fm_cpu_cross_entropy_backward(fm_compute *compute, void *dlogits, enum fm_dtype dtype, const float *logits, const float *max,
                                  const float *sum, const int32_t *labels, int64_t start, float scale, int64_t N, int64_t n)
{
    FM_TRY(fm_compute_reserve(compute, (size_t)n * sizeof(float)));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N; r++) {
        void *const out = fm_at(dlogits, dtype, r * n);
        if (labels[r] < 0) {
            memset(out, 0, (size_t)n * fm_dtype_bytes(dtype));
            continue;
        }
        float *const row = fm_row_target(fm_compute_scratch(compute), out, dtype);
        softmax_row(row, logits + r * n, max[r], scale / sum[r], n);
        const int64_t label = labels[r] - start;
        if (label >= 0 && label < n) {
            row[label] -= scale;
        }
        fm_row_finish(out, dtype, row, n);
    }
    return FM_OK;
}
