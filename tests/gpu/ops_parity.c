/* Every operation of a device against the CPU's:  ops_parity cuda|cpu [own-attention]
 * own-attention: by the module's kernels, where cuDNN would do it. A line an operation and shape: relative L2 error of what it wrote, and
 * what is allowed. Exit status 0, 1 (an operation is wrong, or the device cannot be opened), 77 (there is no driver or no device; says
 * why). `cpu` compares the CPU with itself: whether this program is right. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "ops/cuda_module.h"
#include "ops/rows.h"

enum { SIDES = 2 };                    /* 0: the CPU, 1: the device */

/* An array on both sides. */
typedef struct {
    enum fm_dtype dtype;
    int64_t n;
    void *on[SIDES];
} array;

typedef struct {
    fm_device *device[SIDES];
    fm_compute *compute[SIDES];
    array arrays[64];                  /* of one case */
    int n_arrays;
    uint64_t seed;
    int rc;                            /* the first failure of a case's preparation */
    int n_wrong;
} lab;

static void *host_copy(lab *l, const array *a, int side)
{
    const size_t bytes = (size_t)a->n * fm_dtype_bytes(a->dtype);
    void *const out = fm_alloc(bytes + 1, FM_MEMORY_HOST);
    const int rc = out == NULL ? FM_ERR_MEMORY : fm_device_copy_out(l->device[side], out, a->on[side], bytes);
    l->rc = l->rc < 0 ? l->rc : rc;
    return out;
}

/* The bytes on both sides. */
static array *put(lab *l, enum fm_dtype dtype, int64_t n, const void *host)
{
    FM_ASSERT(l->n_arrays < 64);
    array *const a = &l->arrays[l->n_arrays++];
    const size_t bytes = (size_t)n * fm_dtype_bytes(dtype);
    *a = (array){ .dtype = dtype, .n = n };
    for (int s = 0; s < SIDES; s++) {
        a->on[s] = fm_device_alloc(l->device[s], bytes, FM_MEMORY_WORKSPACE);
        const int rc = a->on[s] == NULL ? FM_ERR_MEMORY : fm_device_copy_in(l->device[s], a->on[s], host, bytes);
        l->rc = l->rc < 0 ? l->rc : rc;
    }
    return a;
}

/* About normal numbers times `size`; every call others. */
static array *numbers(lab *l, enum fm_dtype dtype, int64_t n, double size)
{
    float *const wide = fm_alloc_array(n, sizeof *wide, FM_MEMORY_HOST);
    void *const narrow = fm_alloc_array(n, fm_dtype_bytes(dtype), FM_MEMORY_HOST);
    FM_ASSERT(wide != NULL && narrow != NULL);
    fm_random_normals(wide, size, 7, ++l->seed, 0, n);
    fm_dtype_convert(narrow, dtype, wide, FM_F32, n);
    array *const a = put(l, dtype, n, narrow);
    fm_free(wide);
    fm_free(narrow);
    return a;
}

/* Whole numbers first, first + step, ... modulo `below`. */
static array *counts(lab *l, int64_t n, int first, int step, int below)
{
    int32_t *const host = fm_alloc_array(n, sizeof *host, FM_MEMORY_HOST);
    FM_ASSERT(host != NULL);
    for (int64_t i = 0; i < n; i++) {
        host[i] = (int32_t)((first + i * step) % below);
    }
    array *const a = put(l, FM_I32, n, host);
    fm_free(host);
    return a;
}

static double value_of(const void *data, enum fm_dtype dtype, int64_t i)
{
    float x;
    if (dtype == FM_F64) {
        return ((const double *)data)[i];
    }
    fm_dtype_convert(&x, FM_F32, (const char *)data + (size_t)i * fm_dtype_bytes(dtype), dtype, 1);
    return (double)x;
}

/* Roundings of the dtype that may fall the other way, and sums in another order. */
static double allowed(enum fm_dtype dtype)
{
    return dtype == FM_BF16 ? 4e-3 : dtype == FM_F16 ? 6e-4 : 1e-5;
}

static void compare(lab *l, const char *what, const array *a, enum fm_dtype dtype, double times)
{
    void *const want = host_copy(l, a, 0), *const got = host_copy(l, a, 1);
    double apart = 0.0, size = 0.0;
    for (int64_t i = 0; l->rc == FM_OK && i < a->n; i++) {
        const double w = value_of(want, a->dtype, i), g = value_of(got, a->dtype, i);
        if (w == g) {                  /* infinities too */
            size += isfinite(w) ? w * w : 0.0;
            continue;
        }
        apart += (g - w) * (g - w);
        size += w * w;
    }
    const double error = apart == 0.0 ? 0.0 : sqrt(apart / (size > 0.0 ? size : 1.0)), most = times * allowed(dtype);
    const bool good = l->rc == FM_OK && error <= most;
    printf("%-4s %-58s %-9s %10.2e %10.2e\n", good ? "ok" : "BAD", what, fm_dtype_name(a->dtype), error, most);
    if (l->rc < 0) {
        printf("     %s\n", fm_error_message());
    }
    l->n_wrong += !good;
    l->rc = FM_OK;
    fm_free(want);
    fm_free(got);
}

static void clear(lab *l)
{
    for (int i = 0; i < l->n_arrays; i++) {
        for (int s = 0; s < SIDES; s++) {
            fm_device_free(l->device[s], l->arrays[i].on[s]);
        }
    }
    l->n_arrays = 0;
}

/* An operation on both sides; `s` is the side in its arguments. */
#define BOTH(l, op, ...) \
    do { \
        for (int s = 0; s < SIDES; s++) { \
            const int rc_ = (l)->compute[s]->ops->op((l)->compute[s], __VA_ARGS__); \
            (l)->rc = (l)->rc < 0 ? (l)->rc : rc_; \
        } \
    } while (0)

static const char *label(char out[64], const char *format, ...) FM_PRINTF(2, 3);

static const char *label(char out[64], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(out, 64, format, args);
    va_end(args);
    return out;
}

/* ---- the operations ---- */

static void one_gemm(lab *l, enum fm_dtype in, enum fm_dtype out, int flags, const int64_t size[3])
{
    const bool ta = flags & 1, tb = flags & 2, add = (flags & 4) && (out == FM_F32 || in == out);
    const int64_t m = size[0], n = size[1], k = size[2], lda = (ta ? m : k) + 8, ldb = (tb ? k : n), ldc = n + 16;
    char name[64];
    const array *const a = numbers(l, in, (ta ? k : m) * lda, 1.0), *const b = numbers(l, in, (tb ? n : k) * ldb, 1.0);
    const array *const c = numbers(l, out, m * ldc, 1.0);
    for (int s = 0; s < SIDES; s++) {
        const fm_gemm_args g = { .in = in, .out = out, .trans_a = ta, .trans_b = tb, .accumulate = add, .m = m, .n = n, .k = k,
                                 .a = a->on[s], .lda = lda, .b = b->on[s], .ldb = ldb, .c = c->on[s], .ldc = ldc };
        const int rc = l->compute[s]->ops->gemm(l->compute[s], &g);
        l->rc = l->rc < 0 ? l->rc : rc;
    }
    compare(l, label(name, "gemm %s%s%s %lld x %lld x %lld of %s into %s", ta ? "T" : "N", tb ? "T" : "N", add ? " +=" : "", (long long)m,
                     (long long)n, (long long)k, fm_dtype_name(in), fm_dtype_name(out)), c, out, 1.0);
    clear(l);
}

/* A product with the bias and the residual of a layer; `shift` elements lay the bias where no library takes it. */
static void gemm_with_sums(lab *l, enum fm_dtype d, int64_t shift)
{
    enum { M = 37, N = 264, K = 72, LD = 272 };
    const array *const a = numbers(l, d, M * K, 1.0), *const b = numbers(l, d, N * K, 1.0), *const c = numbers(l, d, M * LD, 1.0);
    const array *const addend = numbers(l, d, M * LD, 1.0), *const bias = numbers(l, d, N + shift, 1.0);
    for (int s = 0; s < SIDES; s++) {
        const fm_gemm_args g = { .in = d, .out = d, .trans_b = true, .m = M, .n = N, .k = K, .a = a->on[s], .lda = K, .b = b->on[s],
                                 .ldb = K, .c = c->on[s], .ldc = LD, .addend = addend->on[s], .bias = fm_at(bias->on[s], d, shift) };
        const int rc = l->compute[s]->ops->gemm(l->compute[s], &g);
        l->rc = l->rc < 0 ? l->rc : rc;
    }
    compare(l, shift == 0 ? "gemm + bias + residual" : "gemm + bias anywhere + residual", c, d, 1.0);
    clear(l);
}

static void gemms(lab *l, enum fm_dtype dtype)
{
    static const int64_t sizes[][3] = { { 256, 512, 128 }, { 17, 24, 40 }, { 129, 333, 65 }, { 1000, 96, 768 }, { 1, 8, 3 } };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int flags = 0; flags < 8; flags++) {
            one_gemm(l, dtype, FM_F32, flags, sizes[i]);
            if (dtype != FM_F32) {
                one_gemm(l, dtype, dtype, flags, sizes[i]);
            }
        }
    }
    gemm_with_sums(l, dtype, 0);
    gemm_with_sums(l, dtype, 1);
}

static void elementwise(lab *l, enum fm_dtype d)
{
    enum { N = 37, W = 264, LD = 272 };
    array *y = numbers(l, d, N * LD, 1.0);
    const array *const x = numbers(l, d, N * LD, 1.0), *const bias = numbers(l, d, W, 1.0);
    BOTH(l, bias_add, y->on[s], bias->on[s], d, N, W, LD);
    compare(l, "bias_add", y, d, 1.0);
    const array *const db = numbers(l, FM_F32, W, 1.0);
    BOTH(l, bias_backward, (float *)db->on[s], x->on[s], d, N, W, LD);
    compare(l, "bias_backward", db, FM_F32, 1.0);
    BOTH(l, add, y->on[s], x->on[s], d, N * LD - 3);
    compare(l, "add", y, d, 1.0);
    const array *const wide = numbers(l, FM_F32, N * W, 1.0);
    BOTH(l, copy_rows, wide->on[s], W, FM_F32, x->on[s], LD, d, N, W);
    compare(l, "copy_rows, widening", wide, FM_F32, 0.0);
    BOTH(l, copy_rows, y->on[s], LD, d, wide->on[s], W, FM_F32, N, W);
    compare(l, "copy_rows, narrowing", y, d, 0.0);
    BOTH(l, scale, (float *)wide->on[s], 0.37f, N * W);
    compare(l, "scale", wide, FM_F32, 1.0);
    const array *const gu = numbers(l, d, N * 2 * W, 2.0), *const a = numbers(l, d, N * W, 1.0), *const da = numbers(l, d, N * W, 1.0);
    BOTH(l, swiglu, a->on[s], gu->on[s], d, N, W);
    compare(l, "swiglu", a, d, 1.0);
    BOTH(l, swiglu_backward, gu->on[s], da->on[s], gu->on[s], d, N, W);
    compare(l, "swiglu_backward", gu, d, 1.0);
    clear(l);
}

static void norms(lab *l, enum fm_dtype d)
{
    static const int shapes[][3] = { { 65, 1, 2048 }, { 33, 1, 3072 }, { 19, 8, 128 }, { 7, 3, 66 } };   /* N, heads, width */
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int64_t N = shapes[i][0], n = shapes[i][2], ld = shapes[i][1] * n + 8;
        const int heads = shapes[i][1];
        char name[64];
        const array *const x = numbers(l, d, N * ld, 1.0), *const w = numbers(l, d, n, 1.0), *const y = numbers(l, d, N * ld, 1.0);
        const array *const dy = numbers(l, d, N * ld, 1.0), *const rstd = numbers(l, FM_F32, N * heads, 1.0);
        const array *const dw = numbers(l, FM_F32, n, 1.0), *const dx = numbers(l, d, N * ld, 1.0);
        BOTH(l, rmsnorm, y->on[s], ld, (float *)rstd->on[s], x->on[s], ld, w->on[s], d, N, heads, n, 1e-5);
        compare(l, label(name, "rmsnorm %lld x %d x %lld", (long long)N, heads, (long long)n), y, d, 1.0);
        compare(l, "rmsnorm, 1 / rms", rstd, FM_F32, 1.0);
        BOTH(l, rmsnorm_backward, dx->on[s], ld, i % 2 == 0, dy->on[s], ld, x->on[s], ld, w->on[s], (const float *)rstd->on[s], d, N,
             heads, n);
        compare(l, "rmsnorm_backward", dx, d, 1.0);
        BOTH(l, rmsnorm_backward_weight, (float *)dw->on[s], dy->on[s], ld, x->on[s], ld, (const float *)rstd->on[s], d, N, heads, n);
        compare(l, "rmsnorm_backward_weight", dw, FM_F32, 1.0);
        clear(l);
    }
}

static void ropes(lab *l, enum fm_dtype d)
{
    enum { N = 45, HEADS = 5, D = 64, POSITIONS = 64 };
    for (int rotary = 32; rotary <= D; rotary += 32) {
        const array *const x = numbers(l, d, N * (HEADS * D + 8), 1.0), *const position = counts(l, N, 3, 7, POSITIONS);
        const array *const c = numbers(l, FM_F32, POSITIONS * rotary / 2, 1.0), *const i = numbers(l, FM_F32, POSITIONS * rotary / 2, 1.0);
        BOTH(l, rope, x->on[s], HEADS * D + 8, (const float *)c->on[s], (const float *)i->on[s], (const int32_t *)position->on[s],
             rotary == D, d, N, HEADS, D, rotary);
        compare(l, rotary == D ? "rope, backward" : "rope, half of the head", x, d, 1.0);
        clear(l);
    }
}

/* Rows of two documents and padding where `packed`. */
static array *documents(lab *l, int B, int64_t T, bool packed)
{
    int32_t *const host = fm_alloc_array(B * T, sizeof *host, FM_MEMORY_HOST);
    FM_ASSERT(host != NULL);
    for (int64_t i = 0; packed && i < B * T; i++) {
        host[i] = i % T < T / 3 ? 0 : i % T < T - T / 8 ? 1 : -1;
    }
    array *const a = put(l, FM_I32, B * T, host);
    fm_free(host);
    return a;
}

typedef struct {
    int64_t T, window;
    int H, K, D;
    bool packed;
} attention_shape;

static void one_attention(lab *l, enum fm_dtype d, const attention_shape *shape)
{
    enum { B = 2 };
    const int64_t T = shape->T, N = B * T, q = (int64_t)shape->H * shape->D, kd = (int64_t)shape->K * shape->D, ld = q + 2 * kd;
    const array *const qkv = numbers(l, d, N * ld, 1.0), *const out = numbers(l, d, N * q, 1.0), *const dout = numbers(l, d, N * q, 1.0);
    const array *const lse = numbers(l, FM_F32, N * shape->H, 1.0), *const delta = numbers(l, FM_F32, N * shape->H, 1.0);
    const array *const dqkv = numbers(l, d, N * ld, 0.0), *const position = counts(l, N, 0, 1, (int)T);
    const array *const document = documents(l, B, T, shape->packed);
    const size_t size = fm_dtype_bytes(d);
    char name[64];
    for (int s = 0; s < SIDES; s++) {
        fm_compute *const c = l->compute[s];
        const fm_attention_args args = {
            .dtype = d, .B = B, .Tq = T, .Tk = T, .q_row = T, .k_row = T, .H = shape->H, .K = shape->K, .D = shape->D, .ldq = ld, .ldk = ld,
            .ldo = q, .scale = 1.0f / sqrtf((float)shape->D), .window = shape->window, .q_position = position->on[s],
            .q_document = document->on[s], .k_position = position->on[s], .k_document = document->on[s], .plain = !shape->packed,
            .out = out->on[s],
        };
        const char *const in = qkv->on[s];
        char *const to = dqkv->on[s];
        int rc = c->ops->attention(c, out->on[s], d, lse->on[s], in, in + (size_t)q * size, in + (size_t)(q + kd) * size, &args, false);
        rc = rc < 0 ? rc : c->ops->attention_delta(c, delta->on[s], dout->on[s], out->on[s], &args);
        rc = rc < 0 ? rc : c->ops->attention_backward(c, to, to + (size_t)q * size, to + (size_t)(q + kd) * size, d, dout->on[s], lse->on[s],
                                                      delta->on[s], in, in + (size_t)q * size, in + (size_t)(q + kd) * size, &args, false);
        l->rc = l->rc < 0 ? l->rc : rc;
    }
    compare(l, label(name, "attention T %lld H %d/%d D %d window %lld%s", (long long)T, shape->H, shape->K, shape->D,
                     (long long)shape->window, shape->packed ? " packed" : ""), out, d, 2.0);
    compare(l, "attention, log of the sum", lse, d, 2.0);
    compare(l, "attention_backward: dq, dk, dv", dqkv, d, 4.0);
    clear(l);
}

static void attentions(lab *l, enum fm_dtype d)
{
    static const attention_shape shapes[] = {
        { 256, 0, 4, 4, 64, false }, { 200, 0, 8, 2, 64, true }, { 257, 0, 6, 2, 128, false }, { 130, 33, 4, 1, 64, true },
        { 96, 0, 3, 1, 32, false }, { 31, 0, 2, 1, 96, true }, { 512, 100, 4, 2, 128, false },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        one_attention(l, d, &shapes[i]);
    }
}

static void words(lab *l, enum fm_dtype d)
{
    enum { N = 70, C = 96, V = 300, COUNT = 200, START = 50, PADDING = 60 };
    const array *const ids = counts(l, N, 0, 37, V), *const w = numbers(l, d, COUNT * C, 1.0), *const x = numbers(l, d, N * C, 1.0);
    BOTH(l, embedding, x->on[s], (const int32_t *)ids->on[s], w->on[s], START, COUNT, false, d, N, C);
    compare(l, "embedding", x, d, 0.0);
    const array *const dw = numbers(l, FM_F32, COUNT * C, 1.0);
    BOTH(l, embedding_backward, (float *)dw->on[s], (const int32_t *)ids->on[s], x->on[s], START, COUNT, PADDING, d, N, C);
    compare(l, "embedding_backward", dw, FM_F32, 1.0);
    const array *const logits = numbers(l, FM_F32, N * V, 4.0), *const max = numbers(l, FM_F32, N, 1.0);
    const array *const sums = numbers(l, FM_F32, 2 * N, 1.0), *const dlogits = numbers(l, d, N * V, 1.0);
    static const double zero;
    const array *const loss = put(l, FM_F64, 1, &zero);
    BOTH(l, cross_entropy_begin, (float *)max->on[s], (float *)sums->on[s], N);
    BOTH(l, cross_entropy_chunk, (float *)max->on[s], (float *)sums->on[s], (float *)sums->on[s] + N, (const float *)logits->on[s],
         (const int32_t *)ids->on[s], 0, N, V);
    compare(l, "cross_entropy_chunk, sums and label logits", sums, FM_F32, 1.0);
    BOTH(l, cross_entropy_finish, (double *)loss->on[s], (const float *)max->on[s], (const float *)sums->on[s],
         (const float *)sums->on[s] + N, N);
    compare(l, "cross_entropy_finish", loss, FM_F32, 1.0);
    BOTH(l, cross_entropy_backward, dlogits->on[s], d, (const float *)logits->on[s], (const float *)max->on[s], (const float *)sums->on[s],
         (const int32_t *)ids->on[s], 0, 0.5f, N, V);
    compare(l, "cross_entropy_backward", dlogits, d, 1.0);
    const array *const higher = numbers(l, FM_F32, N, 0.0);
    BOTH(l, cross_entropy_rescale, (float *)sums->on[s], (const float *)max->on[s], (const float *)higher->on[s], N);
    compare(l, "cross_entropy_rescale", sums, FM_F32, 4.0);
    clear(l);
}

static void updates(lab *l, enum fm_dtype d)
{
    enum { N = 5001, PARTS = 2 };
    const bool copies = d != FM_F32;
    array *master[PARTS], *weight[PARTS], *m[PARTS], *v[PARTS], *gradient[PARTS];
    for (int p = 0; p < PARTS; p++) {
        master[p] = numbers(l, FM_F32, N + p, 1.0), weight[p] = numbers(l, d, N + p, 1.0), m[p] = numbers(l, FM_F32, N + p, 0.1);
        v[p] = numbers(l, FM_F32, N + p, 0.0), gradient[p] = numbers(l, FM_F32, N + p, 1.0);
    }
    const fm_adamw_args args = { .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .gradient_scale = 0.5, .correction1 = 0.1,
                                 .correction2 = 0.001 };
    for (int s = 0; s < SIDES; s++) {
        fm_adamw_part parts[PARTS];
        for (int p = 0; p < PARTS; p++) {
            parts[p] = (fm_adamw_part){ master[p]->on[s], copies ? weight[p]->on[s] : NULL, m[p]->on[s], v[p]->on[s], gradient[p]->on[s],
                                        N + p, 0.1 * p };
        }
        const int rc = l->compute[s]->ops->adamw(l->compute[s], parts, PARTS, FM_F32, d, FM_F32, &args);
        l->rc = l->rc < 0 ? l->rc : rc;
    }
    compare(l, "adamw, masters", master[1], FM_F32, 1.0);
    compare(l, "adamw, rounded weights", weight[1], d, 1.0);
    compare(l, "adamw, second moments", v[0], FM_F32, 1.0);
    const array *const squares = numbers(l, FM_F64, PARTS, 0.0);
    for (int s = 0; s < SIDES; s++) {
        const fm_span spans[PARTS] = { { gradient[0]->on[s], N }, { gradient[1]->on[s], N + 1 } };
        const int rc = l->compute[s]->ops->sum_squares(l->compute[s], squares->on[s], spans, PARTS);
        l->rc = l->rc < 0 ? l->rc : rc;
    }
    compare(l, "sum_squares", squares, FM_F32, 0.01);
    clear(l);
}

/* Copies, sums and conversions of the device itself. */
static void memory(lab *l, enum fm_dtype d)
{
    enum { N = 3000017 };              /* more than a staging buffer holds, and odd */
    const array *const x = numbers(l, d, N, 1.0), *const y = numbers(l, FM_F32, N, 1.0), *const z = numbers(l, FM_F32, N, 1.0);
    for (int s = 0; s < SIDES; s++) {
        const fm_device_table *const t = l->device[s]->table;
        int rc = t->convert(l->device[s], y->on[s], FM_F32, x->on[s], d, N);
        rc = rc < 0 ? rc : t->add_f32(l->device[s], z->on[s], y->on[s], N);
        rc = rc < 0 ? rc : t->zero(l->device[s], y->on[s], 4 * sizeof(float));
        rc = rc < 0 ? rc : t->copy(l->device[s], (float *)y->on[s] + 8, z->on[s], 1000 * sizeof(float));
        l->rc = l->rc < 0 ? l->rc : rc;
    }
    compare(l, "convert, zero, copy", y, FM_F32, 0.0);
    compare(l, "add_f32", z, FM_F32, 0.0);
    clear(l);
}

/* ---- the program ---- */

static void tell(const char *line)
{
    printf("# %s\n", line);
}

/* *is_there: false where there is no driver or no device. */
static int open_device(bool *is_there, lab *l, const char *name, bool own_attention)
{
    const fm_cuda_module *module;
    int n = 0;
    *is_there = true;
    FM_TRY(fm_device_open_cpu(&l->device[0], 0));
    FM_TRY(fm_compute_new(&l->compute[0], l->device[0], NULL));
    if (strcmp(name, "cpu") == 0) {
        FM_TRY(fm_device_open_cpu(&l->device[1], 0));
        return fm_compute_new(&l->compute[1], l->device[1], NULL);
    }
    *is_there = fm_cuda_module_has_driver();
    FM_TRY(fm_cuda_module_open(&module));
    const int rc = module->count(&n);
    *is_there = rc != FM_ERR_UNSUPPORTED;
    FM_TRY(rc);
    if (n == 0) {
        *is_there = false;
        return fm_fail(FM_ERR_DEVICE, "there is no GPU");
    }
    const fm_cuda_options options = { .threads = l->device[0]->threads, .own_attention = own_attention,
                                      .tell = tell };
    FM_TRY(module->open(&l->device[1], &options));
    return fm_compute_new(&l->compute[1], l->device[1], module->ops);
}

int main(int argc, char **argv)
{
    static const enum fm_dtype dtypes[] = { FM_F32, FM_BF16, FM_F16 };
    static lab l;
    void (*const groups[])(lab *, enum fm_dtype) = { memory, gemms, elementwise, norms, ropes, attentions, words, updates };
    const bool own_attention = argc == 3 && strcmp(argv[2], "own-attention") == 0;
    if (argc != 2 + own_attention || (strcmp(argv[1], "cpu") != 0 && strcmp(argv[1], "cuda") != 0)) {
        fprintf(stderr, "usage: ops_parity cuda|cpu [own-attention]\n");
        return 99;
    }
    bool is_there;
    if (open_device(&is_there, &l, argv[1], own_attention) < 0) {
        printf("ops_parity: %s%s\n", is_there ? "" : "skipped: ", fm_error_message());
        return is_there ? 1 : 77;
    }
    printf("#    %-58s %-9s %10s %10s\n", "operation", "written", "error", "allowed");
    for (size_t g = 0; g < sizeof groups / sizeof groups[0]; g++) {
        for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
            groups[g](&l, dtypes[d]);
            fflush(stdout);
        }
    }
    for (int s = 0; s < SIDES; s++) {
        fm_compute_destroy(l.compute[s]);
        fm_device_close(l.device[s]);
    }
    printf("%d wrong\n", l.n_wrong);
    return l.n_wrong > 0;
}
