#include "ops/rows.h"

FM_ROW_KERNEL
static void load_bf16(float *restrict out, const uint16_t *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = fm_bf16_to_f32(in[i]);
    }
}

FM_ROW_KERNEL
static void store_bf16(uint16_t *restrict out, const float *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = fm_f32_to_bf16(in[i]);
    }
}

/* _Float16 is IEEE half with the hardware's rounding (nearest even). */
FM_ROW_KERNEL
static void load_f16(float *restrict out, const _Float16 *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = (float)in[i];
    }
}

FM_ROW_KERNEL
static void store_f16(_Float16 *restrict out, const float *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = (_Float16)in[i];
    }
}

void fm_row_load(float *out, const void *in, enum fm_dtype dtype, int64_t n)
{
    switch (dtype) {
    case FM_F32: memcpy(out, in, (size_t)n * sizeof *out); break;
    case FM_BF16: load_bf16(out, in, n); break;
    case FM_F16: load_f16(out, in, n); break;
    default: FM_ASSERT(!"a row kernel got a dtype that it does not know");
    }
}

void fm_row_store(void *out, enum fm_dtype dtype, const float *in, int64_t n)
{
    switch (dtype) {
    case FM_F32: memcpy(out, in, (size_t)n * sizeof *in); break;
    case FM_BF16: store_bf16(out, in, n); break;
    case FM_F16: store_f16(out, in, n); break;
    default: FM_ASSERT(!"a row kernel got a dtype that it does not know");
    }
}

FM_ROW_KERNEL
static void add_f32(float *restrict out, const float *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] += in[i];
    }
}

void fm_row_add(void *out, enum fm_dtype dtype, const float *in, float *scratch, int64_t n)
{
    float *const row = fm_row_target(scratch, out, dtype);
    if (dtype != FM_F32) {
        fm_row_load(scratch, out, dtype, n);
    }
    add_f32(row, in, n);
    fm_row_finish(out, dtype, row, n);
}

FM_ROW_KERNEL
float fm_row_dot(const float *restrict a, const float *restrict b, int64_t n)
{
    float lanes[16] = { 0 };
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int k = 0; k < 16; k++) {
            lanes[k] += a[i + k] * b[i + k];
        }
    }
    float sum = 0.0f;
    for (; i < n; i++) {
        sum += a[i] * b[i];
    }
    for (int k = 0; k < 16; k++) {
        sum += lanes[k];
    }
    return sum;
}

FM_ROW_KERNEL
float fm_row_max(const float *x, int64_t n)
{
    float lanes[32];
    for (int k = 0; k < 32; k++) {
        lanes[k] = -INFINITY;
    }
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        for (int k = 0; k < 32; k++) {
            lanes[k] = x[i + k] > lanes[k] ? x[i + k] : lanes[k];
        }
    }
    for (; i < n; i++) {
        lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    }
    for (int k = 1; k < 32; k++) {
        lanes[0] = lanes[k] > lanes[0] ? lanes[k] : lanes[0];
    }
    return lanes[0];
}
