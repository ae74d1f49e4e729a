#include "ops/compute.h"

#include <omp.h>

#include "ops/cpu.h"
#include "ops/gemm.h"
#include "ops/rows.h"

/* The addend comes last, so that the many parts of a long sum are not rounded to its size. */
static int cpu_gemm(fm_compute *compute, const fm_gemm_args *args)
{
    FM_TRY(fm_gemm_run(compute->state, args));
    if (args->bias != NULL) {
        FM_TRY(fm_cpu_bias_add(compute, args->c, args->bias, args->out, args->m, args->n, args->ldc));
    }
    const bool is_dense = args->ldc == args->n;
    const int64_t rows = args->addend == NULL ? 0 : is_dense ? 1 : args->m, n = is_dense ? args->m * args->n : args->n;
    for (int64_t row = 0; row < rows; row++) {
        const int64_t at = row * args->ldc;
        FM_TRY(fm_cpu_add(compute, fm_at(args->c, args->out, at), fm_at(args->addend, args->out, at), args->out, n));
    }
    return FM_OK;
}

static int cpu_open(fm_compute *compute)
{
    fm_gemm *gemm;
    const int rc = fm_gemm_open(&gemm);
    compute->state = rc < 0 ? NULL : gemm;
    return rc;
}

static void cpu_close(fm_compute *compute)
{
    fm_gemm_close(compute->state);
}

static size_t cpu_workspace_bytes(const fm_compute *compute, const fm_compute_sizes *s)
{
    /* the widest row kernels: five rows of F, or a row of logits; attention's tile is smaller than a MiB */
    const int64_t row = 5 * s->F > s->words ? 5 * s->F : s->words;
    const size_t scratch = (size_t)compute->device->threads * ((size_t)row * sizeof(float) + (1u << 20));
    /* attention's backward pass: k twice and v packed, and dk and dv in two parts */
    const size_t sums = 7 * (size_t)(s->N * s->K * s->D) * sizeof(float);
    /* bf16 products pack one operand: measured on oneDNN 2.6 as about the larger of the two in the head's products */
    const size_t packed = s->dtype == FM_F32 ? 0 : (size_t)(s->chunk_rows * s->words + s->C * s->F) * sizeof(uint16_t);
    return scratch + sums + packed;
}

static const fm_ops cpu_ops = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .workspace_bytes = cpu_workspace_bytes,
    .gemm = cpu_gemm,
    .bias_add = fm_cpu_bias_add,
    .bias_backward = fm_cpu_bias_backward,
    .add = fm_cpu_add,
    .copy_rows = fm_cpu_copy_rows,
    .scale = fm_cpu_scale,
    .rmsnorm = fm_cpu_rmsnorm,
    .rmsnorm_backward = fm_cpu_rmsnorm_backward,
    .rmsnorm_backward_weight = fm_cpu_rmsnorm_backward_weight,
    .rope = fm_cpu_rope,
    .attention = fm_cpu_attention,
    .attention_delta = fm_cpu_attention_delta,
    .attention_backward = fm_cpu_attention_backward,
    .swiglu = fm_cpu_swiglu,
    .swiglu_backward = fm_cpu_swiglu_backward,
    .embedding = fm_cpu_embedding,
    .embedding_backward = fm_cpu_embedding_backward,
    .cross_entropy_begin = fm_cpu_cross_entropy_begin,
    .cross_entropy_chunk = fm_cpu_cross_entropy_chunk,
    .cross_entropy_rescale = fm_cpu_cross_entropy_rescale,
    .cross_entropy_finish = fm_cpu_cross_entropy_finish,
    .cross_entropy_backward = fm_cpu_cross_entropy_backward,
    .adamw = fm_cpu_adamw,
    .sum_squares = fm_cpu_sum_squares,
};

int fm_compute_new(fm_compute **out, fm_device *device, const fm_ops *ops)
{
    fm_compute *compute = fm_alloc(sizeof *compute, FM_MEMORY_HOST);
    if (compute == NULL) {
        return FM_ERR_MEMORY;
    }
    compute->ops = ops == NULL ? &cpu_ops : ops;
    compute->device = device;
    const int rc = compute->ops->open(compute);
    if (rc < 0) {
        fm_compute_destroy(compute);
        compute = NULL;
    }
    *out = compute;
    return rc;
}

void fm_compute_destroy(fm_compute *compute)
{
    if (compute != NULL) {
        compute->ops->close(compute);
        fm_free(compute->scratch);
        fm_device_free(compute->device, compute->shared);
        fm_free(compute);
    }
}

int fm_compute_reserve(fm_compute *compute, size_t bytes_per_thread)
{
    if (bytes_per_thread <= compute->scratch_bytes) {
        return FM_OK;
    }
    const size_t rounded = (bytes_per_thread + 4095) / 4096 * 4096;
    fm_free(compute->scratch);
    compute->scratch_bytes = 0;
    compute->scratch = fm_alloc_array(omp_get_max_threads(), rounded, FM_MEMORY_WORKSPACE);
    if (compute->scratch == NULL) {
        return FM_ERR_MEMORY;
    }
    compute->scratch_bytes = rounded;
    return FM_OK;
}

size_t fm_compute_workspace_bytes(const fm_compute *compute, const fm_compute_sizes *sizes)
{
    return compute->ops->workspace_bytes(compute, sizes);
}

int fm_compute_reserve_shared(fm_compute *compute, size_t bytes)
{
    if (bytes <= compute->shared_bytes) {
        return FM_OK;
    }
    fm_device_free(compute->device, compute->shared);
    compute->shared_bytes = 0;
    compute->shared = fm_device_alloc(compute->device, bytes, FM_MEMORY_WORKSPACE);
    if (compute->shared == NULL) {
        return FM_ERR_MEMORY;
    }
    compute->shared_bytes = bytes;
    return FM_OK;
}

void *fm_compute_scratch(const fm_compute *compute)
{
    return (char *)compute->scratch + (size_t)omp_get_thread_num() * compute->scratch_bytes;
}
