/* The lab's GPU is the host. */
#include "kernel_lab.h"

#include "ops/cuda.h"
#include "tensor/cuda.h"

enum { BLOCKS = 4096 };

typedef struct {
    fm_compute gpu;
    fm_device device;
    fm_device_table table;
    fm_cuda cuda;
    void *blocks[BLOCKS];
    int n_blocks;
} host_state;

/* device_cuda.c has the one that speaks to a person */
int fm_cuda_check(cudaError_t error, const char *what)
{
    return error == cudaSuccess ? FM_OK : fm_fail(FM_ERR_DEVICE, "%s: launch refused, error %d", what, (int)error);
}

static const fm_ops kernels = {
    .name = "kernels on the host",
    .bias_add = fm_cuda_bias_add,
    .bias_backward = fm_cuda_bias_backward,
    .add = fm_cuda_add,
    .copy_rows = fm_cuda_copy_rows,
    .scale = fm_cuda_scale,
    .rmsnorm = fm_cuda_rmsnorm,
    .rmsnorm_backward = fm_cuda_rmsnorm_backward,
    .rmsnorm_backward_weight = fm_cuda_rmsnorm_backward_weight,
    .rope = fm_cuda_rope,
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

int lab_begin(int argc, char **argv)
{
    (void)argv;
    return argc > 0 ? 0 : 99;
}

lab *lab_new(void)
{
    lab *const l = calloc(1, sizeof *l);
    host_state *const state = calloc(1, sizeof *state);
    l->state = state;
    assert_int_equal(fm_device_open_cpu(&l->host, 1), FM_OK);
    assert_int_equal(fm_compute_new(&l->cpu, l->host, NULL), FM_OK);
    state->cuda = (fm_cuda){ .multiprocessors = 3, .capability = 90, .shared_bytes = 227 << 10, .deterministic = true };
    state->table = *l->host->table;
    state->table.add_f32 = fm_cuda_add_f32;
    state->table.convert = fm_cuda_convert;
    state->device = (fm_device){ .table = &state->table, .threads = 1, .state = &state->cuda };
    state->gpu = (fm_compute){ .ops = &kernels, .device = &state->device };
    l->device = &state->device;
    l->gpu = &state->gpu;
    return l;
}

void lab_clear(lab *l)
{
    host_state *const state = l->state;
    while (state->n_blocks > 0) {
        free(state->blocks[--state->n_blocks]);
    }
}

void lab_destroy(lab *l)
{
    lab_clear(l);
    fm_device_free(l->device, l->gpu->shared);
    fm_compute_destroy(l->cpu);
    fm_device_close(l->host);
    free(l->state);
    free(l);
}

void *lab_alloc(lab *l, size_t size_bytes)
{
    host_state *const state = l->state;
    assert_true(state->n_blocks < BLOCKS);
    void *const block = malloc(size_bytes > 0 ? size_bytes : 1);
    assert_non_null(block);
    state->blocks[state->n_blocks++] = block;
    return block;
}

int64_t lab_launches(void)
{
    return fm_host_launches();
}

void in_all_orders(void (*body)(lab *l))
{
    static const enum fm_host_order orders[] = { FM_HOST_UP, FM_HOST_DOWN, FM_HOST_SEEDED };
    for (int i = 0; i < COUNT(orders); i++) {
        lab *const l = lab_new();
        fm_host_set_order(orders[i], 20);
        body(l);
        lab_destroy(l);
    }
}
