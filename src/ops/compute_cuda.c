/* The GPU's table of operations. */
#include "ops/cuda.h"
#include "ops/gemm_cuda.h"
#include "tensor/cuda.h"

static int cuda_open(fm_compute *compute)
{
    fm_cuda_gemm *gemm;
    const int rc = fm_cuda_gemm_open(&gemm, compute->device);
    compute->state = gemm;
    return rc;
}

static void cuda_close(fm_compute *compute)
{
    fm_cuda_gemm_close(compute->state);
}

static int cuda_gemm(fm_compute *compute, const fm_gemm_args *args)
{
    bool has_bias;
    FM_TRY(fm_cuda_gemm_run(&has_bias, compute->state, args));
    return args->bias == NULL || has_bias ? FM_OK : fm_cuda_bias_add(compute, args->c, args->bias, args->out, args->m, args->n, args->ldc);
}

/* cuBLASLt's workspace is there already; the largest of the kernels' own sums. */
static size_t cuda_workspace_bytes(const fm_compute *compute, enum fm_dtype dtype, int64_t N, int64_t C, int64_t F, int64_t chunk_rows,
                                   int64_t words, int64_t KD)
{
    const size_t columns = (size_t)fm_cuda_of(compute->device)->multiprocessors * (size_t)(C > 2 * F ? C : 2 * F) * sizeof(float);
    const size_t attention = 2 * (size_t)(N * KD) * sizeof(float);
    return columns > attention ? columns : attention;
}

const fm_ops fm_cuda_ops = {
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .workspace_bytes = cuda_workspace_bytes,
    .gemm = cuda_gemm,
    .bias_add = fm_cuda_bias_add,
    .bias_backward = fm_cuda_bias_backward,
    .add = fm_cuda_add,
    .copy_rows = fm_cuda_copy_rows,
    .scale = fm_cuda_scale,
    .rmsnorm = fm_cuda_rmsnorm,
    .rmsnorm_backward = fm_cuda_rmsnorm_backward,
    .rmsnorm_backward_weight = fm_cuda_rmsnorm_backward_weight,
    .rope = fm_cuda_rope,
    .attention = fm_cuda_attention,
    .attention_delta = fm_cuda_attention_delta,
    .attention_backward = fm_cuda_attention_backward,
    .swiglu = fm_cuda_swiglu,
    .swiglu_backward = fm_cuda_swiglu_backward,
    .embedding = fm_cuda_embedding,
    .embedding_backward = fm_cuda_embedding_backward,
    .cross_entropy_begin = fm_cuda_cross_entropy_begin,
    .cross_entropy_chunk = fm_cuda_cross_entropy_chunk,
    .cross_entropy_rescale = fm_cuda_cross_entropy_rescale,
    .cross_entropy_finish = fm_cuda_cross_entropy_finish,
    .cross_entropy_backward = fm_cuda_cross_entropy_backward,
    .adamw = fm_cuda_adamw,
    .sum_squares = fm_cuda_sum_squares,
};
