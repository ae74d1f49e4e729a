/* What the tests of kernels share: a GPU, arrays of exactly the size that an operation may touch, and the comparison of what a kernel
 * wrote with what the CPU's operation wrote. The GPU is the host (kernel_lab_host.c, over cuda_on_host.h; every test then runs in three
 * orders of threads), or a true one behind the CUDA module (kernel_lab_module.c, for tests/gpu). */
#ifndef TESTS_CUDA_KERNEL_LAB_H
#define TESTS_CUDA_KERNEL_LAB_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/compute.h"

#define COUNT(list) ((int)(sizeof(list) / sizeof(list)[0]))

static const enum fm_dtype dtypes[] = { FM_F32, FM_BF16, FM_F16 };

/* Numbers as an operation sees them, at `data`, which is `offset` elements behind a 16-byte boundary. */
typedef struct {
    enum fm_dtype dtype;
    int64_t n;
    void *data, *block;
} numbers;

typedef struct {
    fm_compute *cpu, *gpu;
    fm_device *host, *device;
    void *state;                       /* of kernel_lab_host.c or kernel_lab_module.c */
} lab;

/* At the start of main: 0, or the exit status where there is no GPU (77, with the reason on stderr). */
int lab_begin(int argc, char **argv);

lab *lab_new(void);
void lab_destroy(lab *l);
void lab_clear(lab *l);                /* frees the arrays */

/* Memory that the host and the GPU see. On the host exactly this much, behind and before which AddressSanitizer watches. */
void *lab_alloc(lab *l, size_t size_bytes);

/* Kernels launched so far; 0 where nobody counts. */
int64_t lab_launches(void);

/* About normal, times `size`, rounded to the dtype; and a copy. `offset` elements off a 16-byte boundary. */
numbers numbers_random(lab *l, enum fm_dtype dtype, int64_t n, uint64_t seed, double size, int offset);
numbers numbers_copy(lab *l, const numbers *x, int offset);
double numbers_get(const numbers *x, int64_t i);

/* got against want: `ulps` units of the dtype, and `terms` roundings of fp32 of numbers as large as the largest. 0, 0: the same
 * bits. */
void numbers_compare(const char *what, const numbers *got, const numbers *want, double ulps, double terms);

/* Runs the body in the orders of threads that there are; each begins with an empty lab. */
void in_all_orders(void (*body)(lab *l));

/* Calls an operation that must succeed, on the CPU and as kernels. */
#define CPU(l, op, ...) assert_int_equal((l)->cpu->ops->op((l)->cpu, __VA_ARGS__), FM_OK)
#define GPU(l, op, ...) \
    do { \
        assert_int_equal((l)->gpu->ops->op((l)->gpu, __VA_ARGS__), FM_OK); \
        assert_int_equal(fm_device_synchronize((l)->device), FM_OK); \
    } while (0)

/* The same of an entry of the device's table. */
#define GPU_DEVICE(l, op, ...) \
    do { \
        assert_int_equal((l)->device->table->op((l)->device, __VA_ARGS__), FM_OK); \
        assert_int_equal(fm_device_synchronize((l)->device), FM_OK); \
    } while (0)

#endif
