#include "ops/attention_fused_cuda.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ops/cuda.h"
#include "tensor/cuda.h"

/* MOST_PLANS: a plan takes up to seconds to make. Jobs have few shapes; one whose rows are all of another length gets no more plans than
 * these, and the kernels do the rest. */
enum { WIDEST = 128, MOST_PLANS = 16, ALIGNMENT = 256 };

typedef struct {
    fm_fused_shape shape;
    void *plan;                        /* NULL: refused */
    size_t workspace_bytes;
} entry;

struct fm_cuda_fused {
    fm_device *device;
    const fm_fused_library *library;
    int version;                       /* of the library */
    void *state;                       /* the library's own; NULL: not open */
    bool tried, told;                  /* to open it; that something was refused */
    entry plans[MOST_PLANS];
    int n_plans;
};

int fm_cuda_fused_new(fm_cuda_fused **out, fm_device *device, const fm_fused_library *library)
{
    const fm_cuda *const cuda = fm_cuda_of(device);
    int built, found = 0;
    *out = NULL;
    if (library == NULL || cuda->deterministic || cuda->own_attention || library->version(&built, &found) < 0 || found == 0) {
        return FM_OK;
    }
    fm_cuda_fused *const fused = fm_alloc(sizeof *fused, FM_MEMORY_HOST);
    if (fused == NULL) {
        return FM_ERR_MEMORY;
    }
    fused->device = device;
    fused->library = library;
    fused->version = found;
    *out = fused;
    return FM_OK;
}

void fm_cuda_fused_destroy(fm_cuda_fused *fused)
{
    if (fused == NULL) {
        return;
    }
    for (int i = 0; i < fused->n_plans; i++) {
        if (fused->plans[i].plan != NULL) {
            fused->library->plan_destroy(fused->plans[i].plan);
        }
    }
    if (fused->state != NULL) {
        fused->library->close(fused->state);
    }
    fm_free(fused);
}

/* ---- which calls ---- */

static bool is_aligned(const void *const *pointers, int n)
{
    for (int i = 0; i < n; i++) {
        if ((uintptr_t)pointers[i] % 16 != 0) {
            return false;
        }
    }
    return true;
}

/* All that must hold for the library to be asked. Pieces of keys (cp), documents and padding are not plain; results in fp32 are those
 * that are merged or added. */
static bool is_for_library(const fm_attention_args *a, enum fm_dtype result, const void *const *pointers, int n)
{
    return a->plain && a->Tq == a->Tk && a->Tq > 0 && a->B > 0
        && (a->dtype == FM_BF16 || a->dtype == FM_F16) && result == a->dtype
        && a->D <= WIDEST && a->D % 8 == 0 && a->H % a->K == 0
        && a->ldq % 8 == 0 && a->ldk % 8 == 0 && a->ldo % 8 == 0
        && a->Tq <= INT32_MAX && is_aligned(pointers, n);
}

static fm_fused_shape shape_of(const fm_attention_args *a, bool backward)
{
    fm_fused_shape s;
    memset(&s, 0, sizeof s);           /* compared as bytes */
    s.dtype = (int)a->dtype, s.backward = backward, s.B = a->B, s.H = a->H, s.K = a->K, s.D = a->D;
    s.T = a->Tq, s.q_row = a->q_row, s.k_row = a->k_row, s.ldq = a->ldq, s.ldk = a->ldk, s.ldo = a->ldo;
    s.window = a->window < a->Tq ? a->window : 0;
    s.scale = a->scale;
    return s;
}

/* ---- plans ---- */

static void tell(const fm_cuda_fused *fused, const char *format, ...) FM_PRINTF(2, 3);

static void tell(const fm_cuda_fused *fused, const char *format, ...)
{
    char text[1024];
    const fm_cuda *const cuda = fm_cuda_of(fused->device);
    if (cuda->tell != NULL) {
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        cuda->tell(text);
    }
}

/* The library, opened when it is first wanted; false: it cannot be. */
static bool is_open(fm_cuda_fused *fused)
{
    if (!fused->tried) {
        const int version = fused->version;
        fused->tried = true;
        if (fused->library->open(&fused->state, fused->device) < 0) {
            tell(fused, "attention: finemesh's own kernels, as %s cannot be used: %s", fused->library->name, fm_error_message());
        } else {
            tell(fused, "attention: %s %d.%d.%d for rows of one document", fused->library->name, version / 10000, version / 100 % 100,
                 version % 100);
        }
    }
    return fused->state != NULL;
}

/* The error that was raised last, once. */
static void tell_refusal(fm_cuda_fused *fused, const fm_fused_shape *s)
{
    if (!fused->told) {
        tell(fused, "attention: finemesh's own kernels where %s refuses, first in the %s pass of %d x %lld tokens (%s, heads %d/%d of "
             "%d): %s", fused->library->name, s->backward ? "backward" : "forward", s->B, (long long)s->T,
             fm_dtype_name((enum fm_dtype)s->dtype), s->H, s->K, s->D, fm_error_message());
    }
    fused->told = true;
}

/* The entry of a shape; NULL: the kernels are to do it. */
static entry *find_plan(fm_cuda_fused *fused, const fm_attention_args *args, bool backward)
{
    const fm_fused_shape shape = shape_of(args, backward);
    int i = 0;
    while (i < fused->n_plans && memcmp(&fused->plans[i].shape, &shape, sizeof shape) != 0) {
        i++;
    }
    entry *const e = &fused->plans[i];
    if (i == fused->n_plans) {
        if (i == MOST_PLANS || !is_open(fused)) {
            return NULL;
        }
        fused->n_plans++;
        e->shape = shape;
        if (fused->library->plan_new(&e->plan, &e->workspace_bytes, fused->state, &shape) < 0) {
            e->plan = NULL;
            tell_refusal(fused, &shape);
        }
    }
    return e->plan != NULL ? e : NULL;
}

/* ---- calls ---- */

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Memory for a call: *stats [B, H, T], then the plan's workspace. false: there is none, and the plan is given up. */
static bool take_memory(float **stats, void **workspace, fm_cuda_fused *fused, entry *e, fm_compute *compute)
{
    const fm_fused_shape *const s = &e->shape;
    const size_t stats_bytes = aligned((size_t)(s->B * s->H * s->T) * sizeof **stats);
    if (fm_compute_reserve_shared(compute, stats_bytes + aligned(e->workspace_bytes)) < 0) {
        tell_refusal(fused, s);
        fused->library->plan_destroy(e->plan);
        e->plan = NULL;
        return false;
    }
    *stats = compute->shared;
    *workspace = (char *)compute->shared + stats_bytes;
    return true;
}

int fm_cuda_fused_attention(bool *done, fm_cuda_fused *fused, fm_compute *compute, void *out, enum fm_dtype out_dtype, float *lse,
                            const void *q, const void *k, const void *v, const fm_attention_args *args, bool merge)
{
    fm_fused_arrays arrays = { .q = q, .k = k, .v = v, .out = out };
    const void *const pointers[] = { q, k, v, out };
    void *workspace;
    *done = false;
    if (fused == NULL || merge || !is_for_library(args, out_dtype, pointers, 4)) {
        return FM_OK;
    }
    entry *const e = find_plan(fused, args, false);
    if (e == NULL || !take_memory(&arrays.stats, &workspace, fused, e, compute)) {
        return FM_OK;
    }
    *done = true;
    FM_TRY(fused->library->run(fused->state, e->plan, &arrays, workspace));
    return fm_cuda_attention_order_lse(compute, lse, arrays.stats, args, true);
}

int fm_cuda_fused_attention_backward(bool *done, fm_cuda_fused *fused, fm_compute *compute, void *dq, void *dk, void *dv,
                                     enum fm_dtype grad_dtype, const void *dout, const float *lse, const void *q, const void *k,
                                     const void *v, const fm_attention_args *args, bool add)
{
    fm_fused_arrays arrays = { .q = q, .k = k, .v = v, .out = (void *)args->out, .dout = dout, .dq = dq, .dk = dk, .dv = dv };
    const void *const pointers[] = { q, k, v, args->out, dout, dq, dk, dv };
    void *workspace;
    *done = false;
    if (fused == NULL || add || args->out == NULL || !is_for_library(args, grad_dtype, pointers, 8)) {
        return FM_OK;
    }
    entry *const e = find_plan(fused, args, true);
    if (e == NULL || !take_memory(&arrays.stats, &workspace, fused, e, compute)) {
        return FM_OK;
    }
    *done = true;
    FM_TRY(fm_cuda_attention_order_lse(compute, (float *)lse, arrays.stats, args, false));
    return fused->library->run(fused->state, e->plan, &arrays, workspace);
}

/* The backward pass is the largest: stats, dq in fp32, and dk and dv for every query head in the dtype, as cuDNN does it on sm_90. */
size_t fm_cuda_fused_workspace_bytes(const fm_cuda_fused *fused, const fm_compute_sizes *s)
{
    const size_t heads = (size_t)(s->N * s->H), per_head = sizeof(float) + (size_t)s->D * (sizeof(float) + 2 * sizeof(uint16_t));
    return fused == NULL || s->dtype == FM_F32 ? 0 : heads * per_head;
}
