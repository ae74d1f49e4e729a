/* The double of cuDNN's attention: the table of ops/attention_cudnn.h by plain loops in double, on the double's streams. What the true
 * library refuses, or computes wrongly without a word, ends the program or is refused. Settings: FM_DOUBLE_CUDNN, the version that is
 * found [0: none]; FM_DOUBLE_PLANS=1 prints a line a plan; FM_DOUBLE_FAIL=cudnnPlan@N=1 refuses the N-th plan. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_double.h"
#include "numbers.h"
#include "ops/attention_cudnn.h"
#include "settings.h"
#include "tensor/cuda.h"

typedef struct {
    cudaStream_t stream;
} library;

typedef struct {
    fm_fused_shape shape;
    size_t workspace_bytes;
} plan;

typedef struct {
    fm_fused_shape s;
    fm_fused_arrays a;
    void *workspace;
    size_t workspace_bytes;
} call;

static int find_version(int *built, int *found)
{
    *built = 92600;
    *found = (int)setting("FM_DOUBLE_CUDNN", 0);
    return FM_OK;
}

static int open_double(void **out, fm_device *device)
{
    library *const l = malloc(sizeof *l);
    *out = NULL;
    if (setting("FM_DOUBLE_CUDNN", 0) == 0) {
        free(l);
        return fm_fail(FM_ERR_DEVICE, "libcudnn.so.9 was not found");
    }
    l->stream = fm_cuda_of(device)->stream;
    *out = l;
    return FM_OK;
}

static int new_plan(void **out, size_t *workspace_bytes, void *state, const fm_fused_shape *s)
{
    static long n_plans;
    (void)state;
    *out = NULL;
    if (setting("FM_DOUBLE_PLANS", 0) != 0) {
        printf("plan: %s %s %d x %lld, heads %d/%d of %d, window %lld\n", s->backward ? "backward" : "forward",
               fm_dtype_name((enum fm_dtype)s->dtype), s->B, (long long)s->T, s->H, s->K, s->D, (long long)s->window);
    }
    if (setting_failure("FM_DOUBLE_FAIL", "cudnnPlan", &n_plans) != 0) {
        return fm_fail(FM_ERR_UNSUPPORTED, "the double was told to refuse this plan");
    }
    if ((s->dtype != FM_BF16 && s->dtype != FM_F16) || s->D > 128 || s->D % 8 != 0 || s->H % s->K != 0 || s->T < 2 || s->ldq % 8 != 0
        || s->ldk % 8 != 0 || s->ldo % 8 != 0) {
        return fm_fail(FM_ERR_UNSUPPORTED, "no such attention");
    }
    plan *const p = malloc(sizeof *p);
    p->shape = *s;
    p->workspace_bytes = *workspace_bytes = s->backward ? (size_t)(s->B * s->H * s->T * s->D) * sizeof(float) + 24 : 0;
    *out = p;
    return FM_OK;
}

/* ---- what runs in a stream ---- */

static double get(const fm_fused_shape *s, const void *x, int64_t at)
{
    const uint16_t bits = ((const uint16_t *)x)[at];
    return (double)(s->dtype == FM_BF16 ? from_bf16(bits) : from_f16(bits));
}

static void put(const fm_fused_shape *s, void *x, int64_t at, double value)
{
    ((uint16_t *)x)[at] = s->dtype == FM_BF16 ? to_bf16((float)value) : to_f16((float)value);
}

static double product(const fm_fused_shape *s, const void *x, int64_t at_x, const void *y, int64_t at_y)
{
    double sum = 0.0;
    for (int d = 0; d < s->D; d++) {
        sum += get(s, x, at_x + d) * get(s, y, at_y + d);
    }
    return sum;
}

/* Where a head of a token begins in q (or dq), in k and v, and in out and dout. */
static int64_t in_q(const fm_fused_shape *s, int b, int64_t t, int h)
{
    return (b * s->q_row + t) * s->ldq + (int64_t)h * s->D;
}

static int64_t in_k(const fm_fused_shape *s, int b, int64_t t, int h)
{
    return (b * s->k_row + t) * s->ldk + (int64_t)(h / (s->H / s->K)) * s->D;
}

static int64_t in_out(const fm_fused_shape *s, int b, int64_t t, int h)
{
    return (b * s->q_row + t) * s->ldo + (int64_t)h * s->D;
}

static int64_t first_key(const fm_fused_shape *s, int64_t t)
{
    return s->window > 0 && t >= s->window ? t - s->window + 1 : 0;
}

static void forward_query(const call *c, int b, int h, int64_t t, double *score)
{
    const fm_fused_shape *const s = &c->s;
    double most = -INFINITY, sum = 0.0;
    for (int64_t j = first_key(s, t); j <= t; j++) {
        score[j] = (double)s->scale * product(s, c->a.q, in_q(s, b, t, h), c->a.k, in_k(s, b, j, h));
        most = fmax(most, score[j]);
    }
    for (int64_t j = first_key(s, t); j <= t; j++) {
        sum += exp(score[j] - most);
    }
    c->a.stats[(b * s->H + h) * s->T + t] = (float)(most + log(sum));
    for (int d = 0; d < s->D; d++) {
        double out = 0.0;
        for (int64_t j = first_key(s, t); j <= t; j++) {
            out += exp(score[j] - most) / sum * get(s, c->a.v, in_k(s, b, j, h) + d);
        }
        put(s, c->a.out, in_out(s, b, t, h) + d, out);
    }
}

static void run_forward(void *arguments)
{
    call *const c = arguments;
    double *const score = malloc((size_t)c->s.T * sizeof *score);
    for (int b = 0; b < c->s.B; b++) {
        for (int h = 0; h < c->s.H; h++) {
            for (int64_t t = 0; t < c->s.T; t++) {
                forward_query(c, b, h, t, score);
            }
        }
    }
    free(score);
    free(c);
}

/* Adds what query t of head h gives: dq [D] and, of each key, dk and dv [T, D]. */
static void backward_query(const call *c, int b, int h, int64_t t, double *dq, double *dk, double *dv)
{
    const fm_fused_shape *const s = &c->s;
    const int64_t q = in_q(s, b, t, h), o = in_out(s, b, t, h);
    const double delta = product(s, c->a.dout, o, c->a.out, o), lse = (double)c->a.stats[(b * s->H + h) * s->T + t];
    for (int64_t j = first_key(s, t); j <= t; j++) {
        const int64_t k = in_k(s, b, j, h);
        const double p = exp((double)s->scale * product(s, c->a.q, q, c->a.k, k) - lse);
        const double ds = p * (product(s, c->a.dout, o, c->a.v, k) - delta) * (double)s->scale;
        for (int d = 0; d < s->D; d++) {
            dq[d] += ds * get(s, c->a.k, k + d);
            dk[j * s->D + d] += ds * get(s, c->a.q, q + d);
            dv[j * s->D + d] += p * get(s, c->a.dout, o + d);
        }
    }
}

/* The gradients of one key/value head and of its query heads. */
static void backward_head(const call *c, int b, int kv, double *dq, double *dk, double *dv)
{
    const fm_fused_shape *const s = &c->s;
    const int group = s->H / s->K;
    memset(dk, 0, (size_t)(s->T * s->D) * sizeof *dk);
    memset(dv, 0, (size_t)(s->T * s->D) * sizeof *dv);
    for (int h = kv * group; h < (kv + 1) * group; h++) {
        for (int64_t t = 0; t < s->T; t++) {
            memset(dq, 0, (size_t)s->D * sizeof *dq);
            backward_query(c, b, h, t, dq, dk, dv);
            for (int d = 0; d < s->D; d++) {
                put(s, c->a.dq, in_q(s, b, t, h) + d, dq[d]);
            }
        }
    }
    for (int64_t i = 0; i < s->T * s->D; i++) {
        const int64_t at = in_k(s, b, i / s->D, kv * group) + i % s->D;
        put(s, c->a.dk, at, dk[i]);
        put(s, c->a.dv, at, dv[i]);
    }
}

static void run_backward(void *arguments)
{
    call *const c = arguments;
    const size_t bytes = (size_t)(c->s.T * c->s.D) * sizeof(double);
    double *const dk = malloc(bytes), *const dv = malloc(bytes), *const dq = malloc((size_t)c->s.D * sizeof *dq);
    memset(c->workspace, 0xff, c->workspace_bytes);
    for (int b = 0; b < c->s.B; b++) {
        for (int kv = 0; kv < c->s.K; kv++) {
            backward_head(c, b, kv, dq, dk, dv);
        }
    }
    free(dk);
    free(dv);
    free(dq);
    free(c);
}

/* ---- the call ---- */

static void must(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "the double of cuDNN: %s\n", what);
        abort();
    }
}

static void must_lie_on_device(const void *array, int64_t elements, size_t size)
{
    must((uintptr_t)array % 16 == 0, "an array is not aligned to 16 bytes");
    must(cuda_double_is_device(array, (size_t)elements * size), "an array does not lie on the device");
}

static int run(void *state, void *which, const fm_fused_arrays *a, void *workspace)
{
    const library *const l = state;
    const plan *const p = which;
    const fm_fused_shape *const s = &p->shape;
    const int64_t last = s->B - 1, head = (int64_t)s->H * s->D, kv = (int64_t)s->K * s->D;
    const int64_t q = (last * s->q_row + s->T - 1) * s->ldq + head, o = (last * s->q_row + s->T - 1) * s->ldo + head;
    const int64_t k = (last * s->k_row + s->T - 1) * s->ldk + kv;
    const struct {
        const void *array;
        int64_t n;
    } arrays[] = { { a->q, q }, { a->k, k }, { a->v, k }, { a->out, o }, { a->dout, o }, { a->dq, q }, { a->dk, k }, { a->dv, k } };
    for (int i = 0; i < (s->backward ? 8 : 4); i++) {
        must_lie_on_device(arrays[i].array, arrays[i].n, sizeof(uint16_t));
    }
    must_lie_on_device(a->stats, (int64_t)s->B * s->H * s->T, sizeof(float));
    must(p->workspace_bytes == 0 || cuda_double_is_device(workspace, p->workspace_bytes), "the workspace is too small");
    must((char *)workspace >= (char *)(a->stats + (int64_t)s->B * s->H * s->T), "the workspace lies over the statistics");
    call *const c = malloc(sizeof *c);
    *c = (call){ *s, *a, workspace, p->workspace_bytes };
    return cuda_double_enqueue(l->stream, s->backward ? run_backward : run_forward, c) == cudaSuccess ? FM_OK : FM_ERR_DEVICE;
}

const fm_fused_library fm_cudnn = {
    .name = "cuDNN's double", .version = find_version, .open = open_double, .close = free, .plan_new = new_plan, .plan_destroy = free,
    .run = run,
};
