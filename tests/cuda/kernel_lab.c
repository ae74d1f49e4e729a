#include "kernel_lab.h"

static numbers numbers_new(lab *l, enum fm_dtype dtype, int64_t n, int offset)
{
    const size_t bytes = fm_dtype_bytes(dtype);
    numbers x = { .dtype = dtype, .n = n, .block = lab_alloc(l, (size_t)(n + offset) * bytes) };
    assert_int_equal((uintptr_t)x.block % 16, 0);
    x.data = (char *)x.block + (size_t)offset * bytes;
    return x;
}

static double random_number(uint64_t seed, int64_t index)
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

numbers numbers_random(lab *l, enum fm_dtype dtype, int64_t n, uint64_t seed, double size, int offset)
{
    numbers x = numbers_new(l, dtype, n, offset);
    const size_t bytes = fm_dtype_bytes(dtype);
    for (int64_t i = 0; i < n; i++) {
        const double value = size * random_number(seed, i);
        fm_dtype_convert((char *)x.data + (size_t)i * bytes, dtype, &value, FM_F64, 1);
    }
    return x;
}

numbers numbers_copy(lab *l, const numbers *x, int offset)
{
    numbers copy = numbers_new(l, x->dtype, x->n, offset);
    if (x->n > 0) {
        memcpy(copy.data, x->data, (size_t)x->n * fm_dtype_bytes(x->dtype));
    }
    return copy;
}

double numbers_get(const numbers *x, int64_t i)
{
    double value;
    fm_dtype_convert(&value, FM_F64, (const char *)x->data + (size_t)i * fm_dtype_bytes(x->dtype), x->dtype, 1);
    return value;
}

static double unit_of(enum fm_dtype dtype)
{
    return dtype == FM_BF16 ? 0x1p-7 : dtype == FM_F16 ? 0x1p-10 : dtype == FM_F64 ? 0x1p-52 : 0x1p-23;
}

void numbers_compare(const char *what, const numbers *got, const numbers *want, double ulps, double terms)
{
    assert_int_equal(got->n, want->n);
    double largest = 0.0;
    for (int64_t i = 0; i < want->n; i++) {
        const double size = fabs(numbers_get(want, i));
        largest = isfinite(size) && size > largest ? size : largest;
    }
    for (int64_t i = 0; i < want->n; i++) {
        const double a = numbers_get(got, i), b = numbers_get(want, i);
        const double tiny = ulps == 0.0 ? 0.0 : got->dtype == FM_F16 ? 0x1p-24 : 0x1p-126;
        const double bound = ulps * unit_of(got->dtype) * fabs(b) + terms * 0x1p-24 * largest + tiny;
        if (a == b || (isnan(a) && isnan(b))) {
            continue;
        }
        if (!(fabs(a - b) <= bound)) {
            fail_msg("%s, %s: element %lld of %lld is %.9g, on the CPU %.9g (off by %.3g, bound %.3g)", what, fm_dtype_name(got->dtype),
                     (long long)i, (long long)got->n, a, b, a - b, bound);
        }
    }
}
