/* What the tests of operations share: arrays whose values are known in double, bounds of error from the dtype, a set-up of device
 * and operations that frees everything behind a test. */
#ifndef TESTS_UNIT_NUMERIC_H
#define TESTS_UNIT_NUMERIC_H

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

/* Calls an operation that must succeed. */
#define RUN(lab_, op, ...) assert_int_equal((lab_)->compute->ops->op((lab_)->compute, __VA_ARGS__), FM_OK)
#define COUNT(list) ((int)(sizeof(list) / sizeof(list)[0]))

static const enum fm_dtype dtypes[] = { FM_F32, FM_BF16, FM_F16 };

/* Device, operations, and the memory of one test. */
typedef struct {
    fm_device *device;
    fm_compute *compute;
    void *blocks[8192];
    int n_blocks;
} lab;

/* Numbers in `data` as an operation sees them, and their exact values. */
typedef struct {
    enum fm_dtype dtype;
    int64_t n;
    void *data;
    double *value;
} array;

static inline void lab_use_threads(lab *l, int threads)
{
    fm_compute_destroy(l->compute);
    fm_device_close(l->device);
    assert_int_equal(fm_device_open_cpu(&l->device, threads), FM_OK);
    assert_int_equal(fm_compute_new(&l->compute, l->device, NULL), FM_OK);
}

static inline int lab_open(void **state)
{
    lab *const l = calloc(1, sizeof *l);
    *state = l;
    lab_use_threads(l, 2);
    return 0;
}

static inline void lab_clear(lab *l)
{
    while (l->n_blocks > 0) {
        free(l->blocks[--l->n_blocks]);
    }
}

static inline int lab_close(void **state)
{
    lab *const l = *state;
    lab_clear(l);
    fm_compute_destroy(l->compute);
    fm_device_close(l->device);
    free(l);
    return 0;
}

static inline void *lab_alloc(lab *l, int64_t count, size_t size_bytes)
{
    assert_true(l->n_blocks < COUNT(l->blocks));
    void *const block = calloc((size_t)count + 1, size_bytes);
    assert_non_null(block);
    l->blocks[l->n_blocks++] = block;
    return block;
}

static inline double *lab_doubles(lab *l, int64_t n)
{
    return lab_alloc(l, n, sizeof(double));
}

/* About normal, a function of seed and index only. */
static inline double random_number(uint64_t seed, int64_t index)
{
    double sum = 0.0;
    for (uint64_t k = 0; k < 4; k++) {
        uint64_t z = seed * 0x9e3779b97f4a7c15u + ((uint64_t)index * 4 + k + 1) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        sum += (double)(z >> 11) * 0x1p-53 - 0.5;
    }
    return sum * 1.7320508075688772;
}

/* Half the distance from 1 to the next number: the relative error of rounding. */
static inline double unit_roundoff(enum fm_dtype dtype)
{
    return dtype == FM_F32 ? 0x1p-24 : dtype == FM_BF16 ? 0x1p-8 : 0x1p-11;
}

/* The absolute error of rounding where numbers lose bits to underflow. */
static inline double underflow(enum fm_dtype dtype)
{
    return dtype == FM_F16 ? 0x1p-25 : 0x1p-126;
}

/* Takes over what an operation wrote. */
static inline void array_sync(array *a)
{
    fm_dtype_convert(a->value, FM_F64, a->data, a->dtype, a->n);
}

/* Rounds numbers to the dtype. */
static inline array array_of(lab *l, enum fm_dtype dtype, const double *values, int64_t n)
{
    array a = { .dtype = dtype, .n = n, .data = lab_alloc(l, n, fm_dtype_bytes(dtype)), .value = lab_doubles(l, n) };
    fm_dtype_convert(a.data, dtype, values, FM_F64, n);
    array_sync(&a);
    return a;
}

static inline array array_random(lab *l, enum fm_dtype dtype, int64_t n, uint64_t seed, double size)
{
    double *const values = lab_doubles(l, n);
    for (int64_t i = 0; i < n; i++) {
        values[i] = size * random_number(seed, i);
    }
    return array_of(l, dtype, values, n);
}

static inline double *array_values(lab *l, const array *a)
{
    double *const values = lab_doubles(l, a->n);
    memcpy(values, a->value, (size_t)a->n * sizeof *values);
    return values;
}

static inline void *array_at(const array *a, int64_t i)
{
    return (char *)a->data + i * (int64_t)fm_dtype_bytes(a->dtype);
}

static inline uint64_t array_hash(uint64_t hash, const array *a)
{
    const unsigned char *const bytes = a->data;
    for (int64_t i = 0; i < a->n * (int64_t)fm_dtype_bytes(a->dtype); i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return hash;
}

static inline double largest(const double *x, int64_t n)
{
    double most = 0.0;
    for (int64_t i = 0; i < n; i++) {
        most = isfinite(x[i]) && fabs(x[i]) > most ? fabs(x[i]) : most;
    }
    return most;
}

/* What an operation wrote against what it should have: one rounding to the array's dtype, and `terms` roundings in fp32 of numbers
 * as large as magnitude[i] (NULL: as the largest result). */
static inline void array_check(const char *what, array *got, const double *want, const double *magnitude, double terms)
{
    array_sync(got);
    const double all = largest(want, got->n);
    for (int64_t i = 0; i < got->n; i++) {
        const double size = magnitude != NULL ? magnitude[i] : all;
        const double bound = 1.01 * unit_roundoff(got->dtype) * fabs(want[i]) + terms * 0x1p-24 * size + underflow(got->dtype);
        if (got->value[i] == want[i] || (isnan(got->value[i]) && isnan(want[i]))) {
            continue;
        }
        if (!(fabs(got->value[i] - want[i]) <= bound)) {
            fail_msg("%s, %s: element %lld of %lld is %.9g, not %.9g (off by %.3g, bound %.3g)", what, fm_dtype_name(got->dtype),
                     (long long)i, (long long)got->n, got->value[i], want[i], got->value[i] - want[i], bound);
        }
    }
}

/* d loss / d x[i] by central differences; loss reads x through `context`. */
static inline double difference(double (*loss)(void *context), void *context, double *x, double step)
{
    const double kept = *x;
    *x = kept + step;
    const double above = loss(context);
    *x = kept - step;
    const double below = loss(context);
    *x = kept;
    return (above - below) / (2.0 * step);
}

/* Runs a test body on 1 to 4 threads; it returns a hash of its results, which must not depend on them. */
static inline void same_on_all_threads(lab *l, uint64_t (*body)(lab *l))
{
    uint64_t first = 0;
    for (int threads = 1; threads <= 4; threads++) {
        lab_use_threads(l, threads);
        const uint64_t hash = body(l);
        first = threads == 1 ? hash : first;
        if (hash != first) {
            fail_msg("%d threads give other bits than one", threads);
        }
        lab_clear(l);
    }
}

#endif
