/* The lab's GPU is a true one, behind the CUDA module that the first argument names (or the double of one: tests/cuda/double). Arrays lie
 * in pinned host memory, which both sides see. */
#include "kernel_lab.h"

#include <dlfcn.h>

#include "ops/cuda_module.h"

enum { ARENA_BYTES = 256 << 20 };

typedef struct {
    char *memory;
    size_t used_bytes;
} arena;

static const fm_cuda_module *module;

int lab_begin(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODULE, the file finemesh_cuda.so\n", argv[0]);
        return 99;
    }
    void *const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL), *const file = driver == NULL ? NULL : dlopen(argv[1], RTLD_NOW);
    fm_cuda_entry_fn *entry = NULL;
    void *const symbol = file == NULL ? NULL : dlsym(file, FM_CUDA_ENTRY);
    memcpy(&entry, &symbol, sizeof entry);
    if (symbol == NULL) {
        fprintf(stderr, "no GPU: %s\n", dlerror());
        return 77;
    }
    static const fm_cuda_build build = FM_CUDA_BUILD;
    module = entry(&build);
    int count = 0;
    if (module == NULL || module->count(&count) < 0 || count == 0) {
        fprintf(stderr, "no GPU: %s\n", module == NULL ? "the module is of another build" : "the driver finds none");
        return 77;
    }
    return 0;
}

lab *lab_new(void)
{
    lab *const l = calloc(1, sizeof *l);
    arena *const state = calloc(1, sizeof *state);
    const fm_cuda_options options = { .ordinal = 0, .deterministic = true, .threads = 1 };
    l->state = state;
    assert_int_equal(fm_device_open_cpu(&l->host, 1), FM_OK);
    assert_int_equal(fm_compute_new(&l->cpu, l->host, NULL), FM_OK);
    assert_int_equal(module->open(&l->device, &options), FM_OK);
    assert_int_equal(fm_compute_new(&l->gpu, l->device, module->ops), FM_OK);
    state->memory = l->device->table->host_alloc(l->device, ARENA_BYTES, FM_MEMORY_HOST);
    assert_non_null(state->memory);
    return l;
}

void lab_clear(lab *l)
{
    ((arena *)l->state)->used_bytes = 0;
}

void lab_destroy(lab *l)
{
    l->device->table->host_free(l->device, ((arena *)l->state)->memory);
    fm_compute_destroy(l->gpu);
    fm_device_close(l->device);
    fm_compute_destroy(l->cpu);
    fm_device_close(l->host);
    free(l->state);
    free(l);
}

void *lab_alloc(lab *l, size_t size_bytes)
{
    arena *const state = l->state;
    void *const block = state->memory + state->used_bytes;
    state->used_bytes += (size_bytes + 255) / 256 * 256;
    assert_true(state->used_bytes <= ARENA_BYTES);
    return block;
}

int64_t lab_launches(void)
{
    return 0;
}

void in_all_orders(void (*body)(lab *l))
{
    lab *const l = lab_new();
    body(l);
    lab_destroy(l);
}
