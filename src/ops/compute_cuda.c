/* The GPU's table of operations. */
#include "ops/attention_fused_cuda.h"
#include "ops/cuda.h"
#include "ops/gemm_cuda.h"
#include "tensor/cuda.h"

/* compute->state */
typedef struct {
    fm_cuda_gemm *gemm;
    fm_cuda_fused *fused;              /* NULL: attention by the kernels alone */
} cuda_state;

#ifdef FM_WITH_CUDNN
static const fm_fused_library *const fused_library = &fm_cudnn;
#else
static const fm_fused_library *const fused_library = NULL;
#endif

static void cuda_close(fm_compute *compute)
{
    cuda_state *const state = compute->state;
    if (state != NULL) {
        fm_cuda_fused_destroy(state->fused);
        fm_cuda_gemm_close(state->gemm);
        fm_free(state);
    }
}

static int cuda_open(fm_compute *compute)
{
    cuda_state *const state = fm_alloc(sizeof *state, FM_MEMORY_HOST);
    compute->state = state;
    if (state == NULL) {
        return FM_ERR_MEMORY;
    }
    FM_TRY(fm_cuda_gemm_open(&state->gemm, compute->device));
    return fm_cuda_fused_new(&state->fused, compute->device, fused_library);
}

static int cuda_gemm(fm_compute *compute, const fm_gemm_args *args)
{
    const cuda_state *const state = compute->state;
    bool has_bias;
    FM_TRY(fm_cuda_gemm_run(&has_bias, state->gemm, args));
    return args->bias == NULL || has_bias ? FM_OK : fm_cuda_bias_add(compute, args->c, args->bias, args->out, args->m, args->n, args->ldc);
}

static int cuda_attention(fm_compute *compute, void *out, enum fm_dtype out_dtype, float *lse, const void *q, const void *k,
                          const void *v, const fm_attention_args *args, bool merge)
{
    const cuda_state *const state = compute->state;
    bool done;
    FM_TRY(fm_cuda_fused_attention(&done, state->fused, compute, out, out_dtype, lse, q, k, v, args, merge));
    return done ? FM_OK : fm_cuda_attention(compute, out, out_dtype, lse, q, k, v, args, merge);
}

static int cuda_attention_backward(fm_compute *compute, void *dq, void *dk, void *dv, enum fm_dtype grad_dtype, const void *dout,
                                   const float *lse, const float *delta, const void *q, const void *k, const void *v,
                                   const fm_attention_args *args, bool add)
{
    const cuda_state *const state = compute->state;
    bool done;
    FM_TRY(fm_cuda_fused_attention_backward(&done, state->fused, compute, dq, dk, dv, grad_dtype, dout, lse, q, k, v, args, add));
    return done ? FM_OK : fm_cuda_attention_backward(compute, dq, dk, dv, grad_dtype, dout, lse, delta, q, k, v, args, add);
}

/* cuBLASLt's workspace is there already; the largest of the kernels' own sums. */
static size_t cuda_workspace_bytes(const fm_compute *compute, const fm_compute_sizes *s)
{
    const int64_t width = s->C > 2 * s->F ? s->C : 2 * s->F;
    const size_t columns = (size_t)fm_cuda_of(compute->device)->multiprocessors * (size_t)width * sizeof(float);
    const cuda_state *const state = compute->state;
    const size_t own = 2 * (size_t)(s->N * s->K * s->D) * sizeof(float), fused = fm_cuda_fused_workspace_bytes(state->fused, s);
    const size_t attention = own > fused ? own : fused;
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
    .attention = cuda_attention,
    .attention_delta = fm_cuda_attention_delta,
    .attention_backward = cuda_attention_backward,
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
