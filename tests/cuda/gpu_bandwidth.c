/* Operations that are bound by memory, on a GPU, against a copy in the same run: gpu_bandwidth MODULE [PERCENT]. Shapes are those of a 1B
 * model with 16,384 tokens, larger than the GPU's caches. A line an operation; exit status 1 where one reaches less than PERCENT (80)
 * of the copy's rate, 77 where there is no GPU. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cuda_module.h"

enum { N = 16384, C = 2048, F = 8192, HEADS = 32, D = 64, V = 128256, ROWS = 1024, REPEATS = 20 };
static const int64_t PARAMETERS = 64 << 20, AREA = 1 << 30;

typedef struct {
    fm_compute *gpu;
    fm_device *device;
    char *area[4];                     /* AREA bytes each, of zeros */
    float *row;                        /* [N]: rstd, maxima, sums */
    double *sum;
    int32_t *ids, *labels, *position;  /* [N] */
} stage;

static int copy(const stage *s) { return fm_device_copy(s->device, s->area[0], s->area[1], (size_t)AREA); }

static int add(const stage *s) { return s->gpu->ops->add(s->gpu, s->area[0], s->area[1], FM_BF16, (int64_t)N * F); }

static int rmsnorm(const stage *s)
{
    return s->gpu->ops->rmsnorm(s->gpu, s->area[0], C, s->row, s->area[1], C, s->area[2], FM_BF16, N, 1, C, 1e-5);
}

static int rmsnorm_backward(const stage *s)
{
    return s->gpu->ops->rmsnorm_backward(s->gpu, s->area[0], C, true, s->area[1], C, s->area[2], C, s->area[3], s->row, FM_BF16, N, 1, C);
}

static int rmsnorm_weight(const stage *s)
{
    return s->gpu->ops->rmsnorm_backward_weight(s->gpu, (float *)s->area[3], s->area[1], C, s->area[2], C, s->row, FM_BF16, N, 1, C);
}

static int head_norm(const stage *s)
{
    return s->gpu->ops->rmsnorm(s->gpu, s->area[0], C, (float *)s->area[3], s->area[1], C, s->area[2], FM_BF16, N, HEADS, D, 1e-5);
}

static int rope(const stage *s)
{
    return s->gpu->ops->rope(s->gpu, s->area[0], C, (float *)s->area[1], (float *)s->area[2], s->position, false, FM_BF16, N, HEADS, D, D);
}

static int swiglu(const stage *s) { return s->gpu->ops->swiglu(s->gpu, s->area[0], s->area[1], FM_BF16, N, F); }

static int swiglu_backward(const stage *s)
{
    return s->gpu->ops->swiglu_backward(s->gpu, s->area[0], s->area[1], s->area[0], FM_BF16, N, F);
}

static int bias_backward(const stage *s)
{
    return s->gpu->ops->bias_backward(s->gpu, (float *)s->area[0], s->area[1], FM_BF16, N, F, F);
}

static int embedding(const stage *s)
{
    return s->gpu->ops->embedding(s->gpu, s->area[0], s->ids, s->area[1], 0, V, false, FM_BF16, N, C);
}

static int embedding_backward(const stage *s)
{
    return s->gpu->ops->embedding_backward(s->gpu, (float *)s->area[0], s->ids, s->area[1], 0, V, -1, FM_BF16, N, C);
}

static int loss_chunk(const stage *s)
{
    return s->gpu->ops->cross_entropy_chunk(s->gpu, s->row, (float *)s->area[2], (float *)s->area[3], (float *)s->area[0], s->labels, 0,
                                            ROWS, V);
}

static int loss_backward(const stage *s)
{
    return s->gpu->ops->cross_entropy_backward(s->gpu, s->area[1], FM_BF16, (float *)s->area[0], s->row, s->row, s->labels, 0, 1.0f, ROWS,
                                               V);
}

static int squares(const stage *s)
{
    const fm_span span = { (float *)s->area[0], AREA / 4 };
    return s->gpu->ops->sum_squares(s->gpu, s->sum, &span, 1);
}

static int adamw_of(const stage *s, enum fm_dtype state)
{
    const fm_adamw_part part = { .master = s->area[0], .weight = s->area[0] + AREA / 2, .m = s->area[1], .v = s->area[2],
                                 .gradient = (float *)s->area[3], .n = PARAMETERS, .weight_decay = 0.1 };
    const fm_adamw_args args = { .lr = 1e-5, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .gradient_scale = 1.0, .correction1 = 0.1,
                                 .correction2 = 0.001 };
    return s->gpu->ops->adamw(s->gpu, &part, 1, FM_F32, FM_BF16, state, &args);
}

static int adamw(const stage *s) { return adamw_of(s, FM_F32); }
static int adamw_short(const stage *s) { return adamw_of(s, FM_BF16); }

static const struct {
    const char *name;
    int (*run)(const stage *s);
    double bytes;                      /* read and written */
    bool is_told;                      /* shown, but not held to the limit: work that is not one stream of memory */
} rows[] = {
    { "copy", copy, 2.0 * (1 << 30), true },
    { "add", add, 6.0 * N * F, false },
    { "rmsnorm", rmsnorm, 4.0 * N * C, false },
    { "rmsnorm_backward, +=", rmsnorm_backward, 8.0 * N * C, false },
    { "rmsnorm_backward_weight", rmsnorm_weight, 4.0 * N * C, false },
    { "rmsnorm of heads", head_norm, 4.0 * N * C + 4.0 * N * HEADS, false },
    { "rope", rope, 4.0 * N * C, false },
    { "swiglu", swiglu, 6.0 * N * F, false },
    { "swiglu_backward", swiglu_backward, 10.0 * N * F, false },
    { "bias_backward", bias_backward, 2.0 * N * F, false },
    { "embedding", embedding, 4.0 * N * C, true },
    { "embedding_backward", embedding_backward, 10.0 * N * C, true },
    { "cross_entropy_chunk", loss_chunk, 4.0 * ROWS * V, false },
    { "cross_entropy_backward", loss_backward, 6.0 * ROWS * V, false },
    { "sum_squares", squares, 1.0 * (1 << 30), false },
    { "adamw, fp32 states", adamw, 30.0 * (64 << 20), false },
    { "adamw, bf16 states", adamw_short, 22.0 * (64 << 20), false },
};

static int fill(const stage *s)
{
    int32_t *const host = malloc(N * sizeof *host);
    int rc = host == NULL ? FM_ERR_MEMORY : FM_OK;
    for (int32_t *to[] = { s->ids, s->labels, s->position }, **p = to; rc == FM_OK && p < to + 3; p++) {
        for (int i = 0; i < N; i++) {
            host[i] = p == to + 2 ? i % 4096 : (int32_t)((uint32_t)i * 2654435761u % V);
        }
        rc = fm_device_copy_in(s->device, *p, host, N * sizeof *host);
    }
    free(host);
    return rc;
}

static int stage_open(stage *s, const fm_cuda_module *module)
{
    const fm_cuda_options options = { .threads = 1 };
    FM_TRY(module->open(&s->device, &options));
    FM_TRY(fm_compute_new(&s->gpu, s->device, module->ops));
    void **const small[] = { (void **)&s->row, (void **)&s->sum, (void **)&s->ids, (void **)&s->labels, (void **)&s->position };
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        if ((*small[i] = fm_device_alloc(s->device, N * sizeof(double), FM_MEMORY_WORKSPACE)) == NULL) {
            return FM_ERR_MEMORY;
        }
    }
    for (int i = 0; i < 4; i++) {
        if ((s->area[i] = fm_device_alloc(s->device, (size_t)AREA, FM_MEMORY_WORKSPACE)) == NULL) {
            return FM_ERR_MEMORY;
        }
    }
    return fill(s);
}

/* Seconds of one run: the best of five turns of REPEATS, after one that is not counted. */
static int measure(double *seconds, const stage *s, int (*run)(const stage *s))
{
    *seconds = 1e9;
    for (int turn = 0; turn < 6; turn++) {
        double all;
        FM_TRY(s->device->table->mark(s->device, 0));
        for (int i = 0; i < REPEATS; i++) {
            FM_TRY(run(s));
        }
        FM_TRY(s->device->table->mark(s->device, 1));
        FM_TRY(fm_device_synchronize(s->device));
        FM_TRY(s->device->table->between(&all, s->device, 0, 1));
        *seconds = turn > 0 && all / REPEATS < *seconds ? all / REPEATS : *seconds;
    }
    return FM_OK;
}

static int measure_all(int *slow, const stage *s, double percent)
{
    double copied = 0.0;
    printf("# %-26s %10s %10s %8s\n", "operation", "us", "GB/s", "of copy");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double seconds;
        FM_TRY(measure(&seconds, s, rows[i].run));
        const double rate = rows[i].bytes / seconds;
        copied = i == 0 ? rate : copied;
        const bool is_slow = !rows[i].is_told && rate < percent / 100.0 * copied;
        *slow += is_slow;
        printf("%-28s %10.1f %10.1f %7.1f%%%s\n", rows[i].name, seconds * 1e6, rate * 1e-9, 100.0 * rate / copied, is_slow ? "  slow" : "");
    }
    return FM_OK;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODULE [PERCENT]\n", argv[0]);
        return 99;
    }
    void *const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL), *const file = driver == NULL ? NULL : dlopen(argv[1], RTLD_NOW);
    void *const symbol = file == NULL ? NULL : dlsym(file, FM_CUDA_ENTRY);
    fm_cuda_entry_fn *entry;
    memcpy(&entry, &symbol, sizeof entry);
    static const fm_cuda_build build = FM_CUDA_BUILD;
    const fm_cuda_module *const module = symbol == NULL ? NULL : entry(&build);
    int devices = 0, slow = 0;
    if (module == NULL || module->count(&devices) < 0 || devices == 0) {
        fprintf(stderr, "no GPU\n");
        return 77;
    }
    stage s = { 0 };
    if (stage_open(&s, module) < 0 || measure_all(&slow, &s, argc > 2 ? strtod(argv[2], NULL) : 80.0) < 0) {
        fprintf(stderr, "%s\n", fm_error_message());
        return 1;
    }
    return slow > 0 ? 1 : 0;
}
