#include "ops/cpu.h"
#include "ops/rows.h"

int fm_cpu_embedding(fm_compute *compute, void *x, const int32_t *ids, const void *w, int64_t start, int64_t count, bool keep,
                     enum fm_dtype dtype, int64_t N, int64_t C)
{
    (void)compute;
    const size_t row_bytes = (size_t)C * fm_dtype_bytes(dtype);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N; r++) {
        const int64_t id = ids[r] - start;
        void *const out = fm_at(x, dtype, r * C);
        if (id >= 0 && id < count) {
            memcpy(out, fm_at(w, dtype, id * C), row_bytes);
        } else if (!keep) {
            memset(out, 0, row_bytes);
        }
    }
    return FM_OK;
}

/* Threads share the columns, so that every row of dW is summed in the order of the tokens. */
int fm_cpu_embedding_backward(fm_compute *compute, float *dw, const int32_t *ids, const void *dx, int64_t start, int64_t count,
                              int64_t padding, enum fm_dtype dtype, int64_t N, int64_t C)
{
    (void)compute;
    enum { COLUMNS = 128 };
#pragma omp parallel for schedule(static)
    for (int64_t c0 = 0; c0 < C; c0 += COLUMNS) {
        const int64_t columns = C - c0 < COLUMNS ? C - c0 : COLUMNS;
        float a[COLUMNS], b[COLUMNS];
        for (int64_t r = 0; r < N; r++) {
            const int64_t id = ids[r] - start;
            if (id >= 0 && id < count && ids[r] != padding) {
                fm_row_add(dw + id * C + c0, FM_F32, fm_row_view(a, fm_at(dx, dtype, r * C + c0), dtype, columns), b, columns);
            }
        }
    }
    return FM_OK;
}
