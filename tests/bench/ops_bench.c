/* What each operation costs at the shapes of SmolLM2-135M:  ops_bench THREADS [ROWS [NAME]]   (ROWS: default 512; NAME: only such)
 * Products are set against the best product of the same type in this run; the others against a copy that moves as many bytes. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ops/compute.h"

enum { C = 576, H = 9, K = 3, D = 64, F = 1536, CHUNK = 8192, SEQUENCE = 512, BUFFERS = 6 };

/* Everything that the operations work on. */
typedef struct {
    fm_compute *compute;
    int64_t N;                         /* rows */
    enum fm_dtype dtype;
    void *buffer[BUFFERS];             /* each of buffer_elements fp32 numbers, all about 0.01 */
    int64_t buffer_elements;
    float *statistics[3];              /* [N, H] */
    int32_t *ids, *positions, *documents;
    double best_product[FM_DTYPES];
    const char *only;
} bench;

typedef int (*bench_fn)(bench *b, int64_t variant);

/* One thread is timed by its own clock, which stands still while others have the core. */
static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(omp_get_max_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best time of a call: at least 5 calls and a tenth of a second. Negative: an error. */
static double best_seconds(bench *b, bench_fn fn, int64_t variant)
{
    double best = 1e30;
    const double start = now_seconds();
    for (int i = 0; i < 5 || (i < 2000 && now_seconds() - start < 0.4); i++) {
        const double begin = now_seconds();
        if (fn(b, variant) < 0) {
            return -1.0;
        }
        const double taken = now_seconds() - begin;
        best = taken < best ? taken : best;
    }
    return best;
}

/* ---- products ---- */

/* y = x W^T, dx = dy W, dW += dy^T x of one weight [out, in]. */
static const struct {
    const char *name;
    int64_t in, out;
} weights[] = { { "qkv", C, (H + 2 * K) * D }, { "o", C, C }, { "gate_up", C, 2 * F }, { "down", F, C }, { "head chunk", C, CHUNK } };

enum { WEIGHTS = sizeof weights / sizeof weights[0] };

static int run_product(bench *b, int64_t variant)
{
    const int64_t in = weights[variant / 3].in, out = weights[variant / 3].out, N = b->N;
    void *const x = b->buffer[0], *const w = b->buffer[1], *const y = b->buffer[2], *const dw = b->buffer[3];
    fm_gemm_args g = { .in = b->dtype, .out = b->dtype };
    switch (variant % 3) {
    case 0: g.m = N, g.n = out, g.k = in, g.a = x, g.lda = in, g.b = w, g.ldb = in, g.trans_b = true, g.c = y, g.ldc = out; break;
    case 1: g.m = N, g.n = in, g.k = out, g.a = y, g.lda = out, g.b = w, g.ldb = in, g.c = x, g.ldc = in; break;
    default: g.m = out, g.n = in, g.k = N, g.a = y, g.lda = out, g.trans_a = true, g.b = x, g.ldb = in, g.c = dw, g.ldc = in;
        g.out = FM_F32, g.accumulate = true;
    }
    if (variant % 3 == 0 && weights[variant / 3].out == CHUNK) {
        g.out = FM_F32;                /* logits */
    }
    return b->compute->ops->gemm(b->compute, &g);
}

static int bench_products(bench *b)
{
    static const char *const forms[] = { "y = x W^T", "dx = dy W", "dW += dy^T x" };
    double seconds[3 * WEIGHTS];
    double *const best = &b->best_product[b->dtype];
    for (int64_t v = 0; v < 3 * WEIGHTS; v++) {
        seconds[v] = best_seconds(b, run_product, v);
        if (seconds[v] < 0) {
            return -1;
        }
        const double rate = 2e-9 * (double)(b->N * weights[v / 3].in * weights[v / 3].out) / seconds[v];
        *best = rate > *best ? rate : *best;
    }
    for (int v = 0; v < 3 * WEIGHTS; v++) {
        const double rate = 2e-9 * (double)(b->N * weights[v / 3].in * weights[v / 3].out) / seconds[v];
        printf("%-12s %-14s %-9s %9.3f ms %8.1f GFLOP/s %5.0f %%\n", weights[v / 3].name, forms[v % 3], fm_dtype_name(b->dtype),
               1e3 * seconds[v], rate, 100.0 * rate / *best);
    }
    return 0;
}

/* ---- attention ---- */

static fm_attention_args attention_args(const bench *b)
{
    const int64_t T = b->N;
    return (fm_attention_args){ .dtype = b->dtype, .B = 1, .Tq = T, .Tk = T, .q_row = T, .k_row = T, .H = H, .K = K, .D = D,
                                .ldq = (H + 2 * K) * D, .ldk = (H + 2 * K) * D, .ldo = H * D, .scale = 0.125f,
                                .q_position = b->positions, .q_document = b->documents, .k_position = b->positions,
                                .k_document = b->documents };
}

static void *part(const bench *b, int buffer, int64_t elements)
{
    return (char *)b->buffer[buffer] + elements * (int64_t)fm_dtype_bytes(b->dtype);
}

static int run_attention(bench *b, int64_t backward)
{
    const fm_attention_args args = attention_args(b);
    const fm_ops *const ops = b->compute->ops;
    const void *const q = part(b, 0, 0), *const k = part(b, 0, H * D), *const v = part(b, 0, (H + K) * D);
    if (!backward) {
        return ops->attention(b->compute, b->buffer[1], b->dtype, b->statistics[0], q, k, v, &args, false);
    }
    return ops->attention_backward(b->compute, part(b, 2, 0), part(b, 2, H * D), part(b, 2, (H + K) * D), b->dtype, b->buffer[1],
                                   b->statistics[0], b->statistics[1], q, k, v, &args, false);
}

/* Arithmetic of the visible pairs only: two products forward, five backward. */
static int bench_attention(bench *b)
{
    const double pairs = (double)b->N * (double)(b->N + 1) / 2.0;
    for (int backward = 0; backward < 2; backward++) {
        const double seconds = best_seconds(b, run_attention, backward);
        if (seconds < 0) {
            return -1;
        }
        const double rate = 2e-9 * pairs * H * D * (backward ? 5.0 : 2.0) / seconds;
        printf("%-12s %-14s %-9s %9.3f ms %8.1f GFLOP/s %5.0f %%\n", "attention", backward ? "backward" : "forward",
               fm_dtype_name(b->dtype), 1e3 * seconds, rate, 100.0 * rate / b->best_product[b->dtype]);
    }
    return 0;
}

/* ---- what moves bytes ---- */

static int run_copy(bench *b, int64_t bytes)
{
    const int64_t half = bytes / 2;
#pragma omp parallel
    {
        const int64_t each = half / omp_get_num_threads(), at = each * omp_get_thread_num();
        memcpy((char *)b->buffer[0] + at, (char *)b->buffer[1] + at, (size_t)each);
    }
    return 0;
}

static int run_rmsnorm(bench *b, int64_t variant)
{
    const fm_ops *const ops = b->compute->ops;
    return ops->rmsnorm(b->compute, b->buffer[0], C, b->statistics[2], b->buffer[1], C, b->buffer[2], b->dtype, b->N, 1, C, 1e-5);
}

static int run_rmsnorm_backward(bench *b, int64_t variant)
{
    const fm_ops *const ops = b->compute->ops;
    return ops->rmsnorm_backward(b->compute, b->buffer[0], C, true, b->buffer[1], C, b->buffer[3], C, b->buffer[2], b->statistics[2],
                                 b->dtype, b->N, 1, C);
}

static int run_rmsnorm_weight(bench *b, int64_t variant)
{
    const fm_ops *const ops = b->compute->ops;
    return ops->rmsnorm_backward_weight(b->compute, b->buffer[4], b->buffer[1], C, b->buffer[3], C, b->statistics[2], b->dtype, b->N, 1,
                                        C);
}

static int run_rope(bench *b, int64_t variant)
{
    return b->compute->ops->rope(b->compute, b->buffer[0], (H + 2 * K) * D, b->buffer[4], b->buffer[4], b->positions, false, b->dtype, b->N,
                                 H + K, D, D);
}

static int run_swiglu(bench *b, int64_t variant)
{
    return b->compute->ops->swiglu(b->compute, b->buffer[0], b->buffer[1], b->dtype, b->N, F);
}

static int run_swiglu_backward(bench *b, int64_t variant)
{
    return b->compute->ops->swiglu_backward(b->compute, b->buffer[2], b->buffer[0], b->buffer[1], b->dtype, b->N, F);
}

static int run_add(bench *b, int64_t variant)
{
    return b->compute->ops->add(b->compute, b->buffer[0], b->buffer[1], b->dtype, b->N * C);
}

static int run_embedding(bench *b, int64_t variant)
{
    return b->compute->ops->embedding(b->compute, b->buffer[0], b->ids, b->buffer[1], 0, CHUNK, true, b->dtype, b->N, C);
}

static int run_embedding_backward(bench *b, int64_t variant)
{
    return b->compute->ops->embedding_backward(b->compute, b->buffer[0], b->ids, b->buffer[1], 0, CHUNK, -1, b->dtype, b->N, C);
}

static int run_loss(bench *b, int64_t variant)
{
    return b->compute->ops->cross_entropy_chunk(b->compute, b->statistics[0], b->statistics[1], b->statistics[2], b->buffer[1], b->ids, 0,
                                                b->N, CHUNK);
}

static int run_loss_backward(bench *b, int64_t variant)
{
    return b->compute->ops->cross_entropy_backward(b->compute, b->dtype == FM_F32 ? b->buffer[1] : b->buffer[0], b->dtype, b->buffer[1],
                                                   b->statistics[0], b->statistics[1], b->ids, 0, 1e-3f, b->N, CHUNK);
}

/* Masters, states and weight: fp32; the same and a bf16 weight; all bf16. */
static int run_adamw(bench *b, int64_t variant)
{
    const fm_adamw_args args = { .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .gradient_scale = 1.0,
                                 .correction1 = 0.1, .correction2 = 0.001 };
    const enum fm_dtype dtype = variant == 2 ? FM_BF16 : FM_F32;
    const fm_adamw_part part = { .master = b->buffer[0], .weight = variant == 1 ? b->buffer[4] : NULL, .m = b->buffer[1],
                                 .v = b->buffer[2], .gradient = b->buffer[3], .n = b->buffer_elements, .weight_decay = 0.01 };
    return b->compute->ops->adamw(b->compute, &part, 1, dtype, FM_BF16, dtype, &args);
}

static int run_squares(bench *b, int64_t variant)
{
    double sum;
    return b->compute->ops->sum_squares(b->compute, &sum, &(fm_span){ b->buffer[0], b->buffer_elements }, 1);
}

/* Elements moved a row (of the buffers where per_row is 0) in the dtype, and bytes beside them. */
static const struct {
    const char *name;
    bench_fn fn;
    int64_t variant, per_row;
    double elements, bytes;
} moves[] = {
    { "rmsnorm", run_rmsnorm, 0, C, 2, 0 },
    { "rmsnorm dx +=", run_rmsnorm_backward, 0, C, 4, 0 },
    { "rmsnorm dw +=", run_rmsnorm_weight, 0, C, 2, 0 },
    { "rope", run_rope, 0, (H + K) * D, 2, 0 },
    { "swiglu", run_swiglu, 0, F, 3, 0 },
    { "swiglu backward", run_swiglu_backward, 0, F, 5, 0 },
    { "add", run_add, 0, C, 3, 0 },
    { "embedding", run_embedding, 0, C, 2, 0 },
    { "embedding dW +=", run_embedding_backward, 0, C, 1, 8 },
    { "loss chunk", run_loss, 0, CHUNK, 0, 4 },
    { "loss backward", run_loss_backward, 0, CHUNK, 1, 4 },
    { "sum of squares", run_squares, 0, 0, 0, 4 },
    { "adamw fp32", run_adamw, 0, 0, 0, 28 },
    { "adamw fp32 > bf16", run_adamw, 1, 0, 0, 30 },
    { "adamw bf16", run_adamw, 2, 0, 0, 16 },
};

/* Numbers that no operation turns into infinities however often it is called. */
static void refill(bench *b)
{
    for (int i = 0; i < BUFFERS; i++) {
        const bool narrow = b->dtype == FM_BF16;
        for (int64_t j = 0; j < b->buffer_elements; j++) {
            const float value = (float)(1 + (j * 37 + i) % 101) * 1e-3f;
            if (narrow) {
                ((uint16_t *)b->buffer[i])[j] = fm_f32_to_bf16(value);
                ((uint16_t *)b->buffer[i])[b->buffer_elements + j] = fm_f32_to_bf16(value);
            } else {
                ((float *)b->buffer[i])[j] = value;
            }
        }
    }
    for (int i = 0; i < 3; i++) {
        for (int64_t j = 0; j < b->N * H; j++) {
            b->statistics[i][j] = 1.0f;
        }
    }
}

static int bench_moves(bench *b)
{
    for (size_t i = 0; i < sizeof moves / sizeof moves[0]; i++) {
        if ((b->only != NULL && strstr(moves[i].name, b->only) == NULL) || (moves[i].per_row == 0 && b->dtype != FM_F32)) {
            continue;
        }
        const int64_t numbers = moves[i].per_row == 0 ? b->buffer_elements : b->N * moves[i].per_row;
        const double bytes = (double)numbers * (moves[i].elements * (double)fm_dtype_bytes(b->dtype) + moves[i].bytes);
        const double most = 8.0 * (double)b->buffer_elements;
        const double copied = bytes < most ? bytes : most;
        const double copy_rate = 1e-9 * copied / best_seconds(b, run_copy, (int64_t)copied);
        refill(b);
        const double seconds = best_seconds(b, moves[i].fn, moves[i].variant);
        if (seconds < 0) {
            return -1;
        }
        printf("%-27s %-9s %9.3f ms %8.1f GB/s    %5.0f %%\n", moves[i].name,
               moves[i].per_row == 0 ? "" : fm_dtype_name(b->dtype), 1e3 * seconds, 1e-9 * bytes / seconds,
               1e-7 * bytes / seconds / copy_rate);
    }
    return 0;
}

static int bench_all(bench *b)
{
    printf("# %d threads, %d rows; products and attention: share of the best product; the rest: share of a copy of as many bytes\n",
           omp_get_max_threads(), (int)b->N);
    for (int d = 0; d < 2; d++) {
        b->dtype = d == 0 ? FM_F32 : FM_BF16;
        refill(b);
        if (b->only == NULL || strstr("products", b->only) != NULL) {
            FM_TRY(bench_products(b));
        }
        refill(b);
        if (b->only == NULL || strstr("attention", b->only) != NULL) {
            FM_TRY(bench_attention(b));
        }
        FM_TRY(bench_moves(b));
    }
    return 0;
}

static int bench_open(bench *b, fm_device *device)
{
    FM_TRY(fm_compute_new(&b->compute, device, NULL));
    b->buffer_elements = b->N * CHUNK > 16 << 20 ? b->N * CHUNK : 16 << 20;
    for (int i = 0; i < BUFFERS; i++) {
        b->buffer[i] = fm_alloc_array(b->buffer_elements, sizeof(float), FM_MEMORY_WORKSPACE);
        if (b->buffer[i] == NULL) {
            return FM_ERR_MEMORY;
        }
    }
    for (int i = 0; i < 3; i++) {
        b->statistics[i] = fm_alloc_array(b->N * H, sizeof(float), FM_MEMORY_WORKSPACE);
    }
    b->ids = fm_alloc_array(b->N, sizeof *b->ids, FM_MEMORY_WORKSPACE);
    b->positions = fm_alloc_array(b->N, sizeof *b->ids, FM_MEMORY_WORKSPACE);
    b->documents = fm_alloc_array(b->N, sizeof *b->ids, FM_MEMORY_WORKSPACE);
    if (b->statistics[0] == NULL || b->statistics[1] == NULL || b->statistics[2] == NULL || b->ids == NULL || b->positions == NULL ||
        b->documents == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int64_t i = 0; i < b->N; i++) {
        b->ids[i] = (int32_t)(i * 7919 % CHUNK);
        b->positions[i] = (int32_t)i;
    }
    return FM_OK;
}

static void bench_close(bench *b)
{
    for (int i = 0; i < BUFFERS; i++) {
        fm_free(b->buffer[i]);
    }
    for (int i = 0; i < 3; i++) {
        fm_free(b->statistics[i]);
    }
    fm_free(b->ids);
    fm_free(b->positions);
    fm_free(b->documents);
    fm_compute_destroy(b->compute);
}

int main(int argc, char **argv)
{
    bench b = { .N = argc > 2 ? atoi(argv[2]) : SEQUENCE, .only = argc > 3 ? argv[3] : NULL };
    if (argc < 2 || atoi(argv[1]) < 1 || b.N < 1) {
        fprintf(stderr, "usage: ops_bench THREADS [ROWS [NAME]]\n");
        return 1;
    }
    fm_device *device = NULL;
    int rc = fm_device_open_cpu(&device, atoi(argv[1]));
    if (rc == FM_OK) {
        rc = bench_open(&b, device);
        rc = rc < 0 ? rc : bench_all(&b);
        bench_close(&b);
    }
    fm_device_close(device);
    if (rc < 0) {
        fprintf(stderr, "ops_bench: %s\n", fm_error_message());
    }
    return rc < 0;
}
