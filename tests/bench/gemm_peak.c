/* The GEMM peak of this machine, through finemesh's own library call:  gemm_peak THREADS float32|bfloat16
 * Prints the best GFLOP/s over the shapes of a model of SmolLM2-135M's size at 2048 tokens, each tried for a while. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ops/compute.h"

/* m, n, k: the MLP's two shapes, and a chunk of the head. */
static const int64_t shapes[][3] = {{2048, 3072, 576}, {2048, 576, 1536}, {2048, 8192, 576}, {1024, 1024, 1024}};

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best GFLOP/s of one shape over 40 products, the first two not counted. Negative: an error. */
static double measure(fm_compute *compute, enum fm_dtype dtype, const int64_t shape[3])
{
    const int64_t m = shape[0], n = shape[1], k = shape[2];
    void *a = fm_alloc_array(m * k, fm_dtype_bytes(dtype), FM_MEMORY_WORKSPACE);
    void *b = fm_alloc_array(n * k, fm_dtype_bytes(dtype), FM_MEMORY_WORKSPACE);
    void *c = fm_alloc_array(m * n, sizeof(float), FM_MEMORY_WORKSPACE);
    const fm_gemm_args args = {.in = dtype, .out = FM_F32, .trans_b = true, .m = m, .n = n, .k = k,
                               .a = a, .lda = k, .b = b, .ldb = k, .c = c, .ldc = n};
    double best = a && b && c ? 0 : -1;
    for (int i = 0; i < 40 && best >= 0; i++) {
        const double start = now_seconds();
        const int status = compute->ops->gemm(compute, &args);
        const double rate = 2e-9 * (double)m * (double)n * (double)k / (now_seconds() - start);
        if (status < 0) {
            best = -1;
        } else if (i >= 2 && rate > best) {
            best = rate;
        }
    }
    fm_free(a);
    fm_free(b);
    fm_free(c);
    return best;
}

int main(int argc, char **argv)
{
    enum fm_dtype dtype;
    if (argc != 3 || atoi(argv[1]) < 1 || fm_dtype_parse(&dtype, argv[2]) < 0) {
        fprintf(stderr, "usage: gemm_peak THREADS float32|bfloat16\n");
        return 1;
    }
    omp_set_num_threads(atoi(argv[1]));
    fm_device *device = NULL;
    fm_compute *compute = NULL;
    double best = -1;
    if (fm_device_open_cpu(&device, atoi(argv[1])) == 0 && fm_compute_new(&compute, device, NULL) == 0) {
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            const double rate = measure(compute, dtype, shapes[i]);
            best = rate > best ? rate : best;
        }
    }
    fm_compute_destroy(compute);
    fm_device_close(device);
    if (best <= 0) {
        fprintf(stderr, "gemm_peak: %s\n", fm_error_message());
        return 1;
    }
    printf("%.1f\n", best);
    return 0;
}
