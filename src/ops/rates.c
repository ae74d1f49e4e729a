#include "ops/rates.h"

#include "base/clock.h"
#include "base/random.h"
#include "ops/timed.h"

/* Work that can be queued again and again. */
typedef int work_fn(fm_compute *compute, void *context);

/* Least seconds of one piece of work. Pieces are queued in rows that are long against a clock's grain and a device's latency. */
static int least_seconds(double *least, fm_compute *compute, work_fn *work, void *context, double seconds)
{
    enum { LEAST_ROWS = 3 };
    const double row_s = 0.01;
    fm_device *const device = compute->device;
    int64_t n = 1;
    FM_TRY(work(compute, context));
    FM_TRY(device->table->synchronize(device));
    *least = 0.0;
    const double begin_s = fm_clock_s();
    for (int row = 0; row < LEAST_ROWS || fm_clock_s() - begin_s < seconds; row++) {
        const double row_begin_s = fm_clock_s();
        for (int64_t i = 0; i < n; i++) {
            FM_TRY(work(compute, context));
        }
        FM_TRY(device->table->synchronize(device));
        const double own = (fm_clock_s() - row_begin_s) / (double)n;
        *least = *least == 0.0 || own < *least ? own : *least;
        n = own * (double)n < row_s ? (int64_t)(row_s / own) + 1 : n;
    }
    return FM_OK;
}

/* Numbers between -1 and 1: a device that multiplies zeros takes less power and runs faster than it does in earnest. */
static int fill(fm_device *device, void *to, enum fm_dtype dtype, int64_t n)
{
    enum { BLOCK = 1 << 16 };
    float *const numbers = fm_alloc_array(BLOCK, sizeof *numbers, FM_MEMORY_HOST);
    void *const block = fm_alloc_array(BLOCK, fm_dtype_bytes(dtype), FM_MEMORY_HOST);
    int rc = numbers == NULL || block == NULL ? FM_ERR_MEMORY : FM_OK;
    if (rc == FM_OK) {
        for (int64_t i = 0; i < BLOCK; i++) {
            numbers[i] = (float)(2.0 * fm_random_uniform(1, 1, (uint64_t)i) - 1.0);
        }
        fm_dtype_convert(block, dtype, numbers, FM_F32, BLOCK);
    }
    for (int64_t at = 0; at < n && rc == FM_OK; at += BLOCK) {
        const int64_t part = n - at < BLOCK ? n - at : BLOCK;
        rc = fm_device_copy_in(device, (char *)to + (size_t)at * fm_dtype_bytes(dtype), block, (size_t)part * fm_dtype_bytes(dtype));
    }
    fm_free(numbers);
    fm_free(block);
    return rc;
}

static int make_operand(void **out, fm_device *device, enum fm_dtype dtype, int64_t n)
{
    *out = fm_device_alloc(device, (size_t)n * fm_dtype_bytes(dtype), FM_MEMORY_WORKSPACE);
    return *out == NULL ? FM_ERR_MEMORY : fill(device, *out, dtype, n);
}

static int multiply(fm_compute *compute, void *context)
{
    return compute->ops->gemm(compute, context);
}

int fm_rate_gemm(double *flops_per_s, fm_compute *compute, const fm_gemm_args *kind, double seconds)
{
    fm_device *const device = compute->device;
    fm_gemm_args g = *kind;
    void *a = NULL, *b = NULL, *c = NULL;
    double least = 0.0;
    int rc;
    *flops_per_s = 0.0;
    FM_TRY_TO(done, rc, make_operand(&a, device, g.in, (g.trans_a ? g.k : g.m) * g.lda));
    FM_TRY_TO(done, rc, make_operand(&b, device, g.in, (g.trans_b ? g.n : g.k) * g.ldb));
    FM_TRY_TO(done, rc, make_operand(&c, device, g.out, g.m * g.ldc));
    g.addend = g.bias = NULL;
    g.a = a;
    g.b = b;
    g.c = c;
    FM_TRY_TO(done, rc, least_seconds(&least, compute, multiply, &g, seconds));
    *flops_per_s = fm_gemm_flops(&g) / least;
done:
    fm_device_free(device, a);
    fm_device_free(device, b);
    fm_device_free(device, c);
    return rc;
}

int fm_rate_square(double *flops_per_s, int64_t *side, fm_compute *compute, enum fm_dtype dtype, double seconds)
{
    enum { LEAST_SIDE = 256, MOST_SIDE = 8192 };
    *flops_per_s = 0.0;
    for (int64_t n = LEAST_SIDE; n <= MOST_SIDE; n *= 2) {
        const fm_gemm_args kind = { .in = dtype, .out = dtype, .trans_b = true, .m = n, .n = n, .k = n, .lda = n, .ldb = n, .ldc = n };
        double rate;
        if (*flops_per_s > 0.0 && fm_gemm_flops(&kind) / *flops_per_s > seconds / 4) {
            break;
        }
        FM_TRY(fm_rate_gemm(&rate, compute, &kind, seconds / 4));
        if (rate > *flops_per_s) {
            *flops_per_s = rate;
            *side = n;
        }
    }
    return FM_OK;
}

enum { COPIED_ROWS = 8192, COPIED_WIDTH = 4096 };
static const size_t copied_bytes = (size_t)COPIED_ROWS * COPIED_WIDTH * sizeof(float);

static int copy_by_device(fm_compute *compute, void *context)
{
    void *const *const pair = context;
    return fm_device_copy(compute->device, pair[0], pair[1], copied_bytes);
}

static int copy_by_operation(fm_compute *compute, void *context)
{
    void *const *const pair = context;
    return compute->ops->copy_rows(compute, pair[0], COPIED_WIDTH, FM_F32, pair[1], COPIED_WIDTH, FM_F32, COPIED_ROWS, COPIED_WIDTH);
}

int fm_rate_copy(double *bytes_per_s, fm_compute *compute, double seconds)
{
    void *pair[2] = { NULL, NULL };
    double by_device, by_operation;
    int rc;
    *bytes_per_s = 0.0;
    FM_TRY_TO(done, rc, make_operand(&pair[0], compute->device, FM_F32, (int64_t)COPIED_ROWS * COPIED_WIDTH));
    FM_TRY_TO(done, rc, make_operand(&pair[1], compute->device, FM_F32, (int64_t)COPIED_ROWS * COPIED_WIDTH));
    FM_TRY_TO(done, rc, least_seconds(&by_device, compute, copy_by_device, pair, seconds / 2));
    FM_TRY_TO(done, rc, least_seconds(&by_operation, compute, copy_by_operation, pair, seconds / 2));
    *bytes_per_s = 2.0 * (double)copied_bytes / (by_device < by_operation ? by_device : by_operation);
done:
    fm_device_free(compute->device, pair[0]);
    fm_device_free(compute->device, pair[1]);
    return rc;
}
