/* Element types: rounding to nearest even against a search among the neighbours, and every 16-bit value there and back. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tensor/dtype.h"

/* The value of 16 bits by its definition: sign, exponent, fraction. */
static double value_of(uint16_t bits, enum fm_dtype dtype)
{
    const int fraction_bits = dtype == FM_F16 ? 10 : 7, exponent_max = dtype == FM_F16 ? 31 : 255;
    const int exponent = (bits & 0x7fff) >> fraction_bits, bias = exponent_max >> 1;
    const double fraction = bits & ((1 << fraction_bits) - 1);
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == exponent_max) {
        return fraction != 0 ? NAN : sign * INFINITY;
    }
    return exponent == 0 ? sign * ldexp(fraction, 1 - bias - fraction_bits)
                         : sign * ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

/* The nearest of all finite 16-bit values, the even one of two; what is half a unit beyond the largest is infinite. */
static uint16_t nearest(double value, enum fm_dtype dtype)
{
    const uint16_t infinity = dtype == FM_F16 ? 0x7c00 : 0x7f80, sign = signbit(value) ? 0x8000 : 0;
    uint16_t low = 0, high = infinity;
    while (high - low > 1) {
        const uint16_t middle = (uint16_t)((low + high) / 2);
        if (value_of(middle, dtype) <= fabs(value)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const double above = high == infinity ? 2 * value_of(low, dtype) - value_of((uint16_t)(low - 1), dtype) : value_of(high, dtype);
    const double to_low = fabs(value) - value_of(low, dtype), to_high = above - fabs(value);
    const bool up = to_high < to_low || (to_high == to_low && (low & 1) != 0);
    return sign | (up ? high : low);
}

static void every_value_goes_there_and_back(void **state)
{
    for (int i = 0; i < 65536; i++) {
        const uint16_t bits = (uint16_t)i;
        const double f16 = value_of(bits, FM_F16), bf16 = value_of(bits, FM_BF16);
        if (isnan(f16)) {
            assert_true(isnan(fm_f16_to_f32(bits)));
            assert_true(isnan(value_of(fm_f32_to_f16(fm_f16_to_f32(bits)), FM_F16)));
        } else {
            assert_true(fm_f16_to_f32(bits) == f16 && (signbit(fm_f16_to_f32(bits)) != 0) == (bits >> 15));
            assert_int_equal(fm_f32_to_f16((float)f16), bits);
        }
        if (isnan(bf16)) {
            assert_true(isnan(fm_bf16_to_f32(bits)));
            assert_true(isnan(value_of(fm_f32_to_bf16(fm_bf16_to_f32(bits)), FM_BF16)));
        } else {
            assert_true(fm_bf16_to_f32(bits) == bf16);
            assert_int_equal(fm_f32_to_bf16((float)bf16), bits);
        }
    }
    const uint32_t thin = 0x7f800001u;    /* a NaN whose upper 16 bits alone would be infinity */
    float nan_value;
    memcpy(&nan_value, &thin, sizeof nan_value);
    assert_true(isnan(value_of(fm_f32_to_bf16(nan_value), FM_BF16)));
    assert_true(isnan(value_of(fm_f32_to_f16(nan_value), FM_F16)));
}

/* Numbers around every place where rounding decides: 16-bit values, their midpoints, and both a little off. */
static void rounding_is_to_nearest_even(void **state)
{
    const enum fm_dtype dtypes[] = {FM_F16, FM_BF16};
    for (int k = 0; k < 2; k++) {
        const enum fm_dtype dtype = dtypes[k];
        const int largest = dtype == FM_F16 ? 0x7bff : 0x7f7f;
        for (int i = 0; i <= largest; i++) {
            const double here = value_of((uint16_t)i, dtype);
            const double unit = i == largest ? here - value_of((uint16_t)(i - 1), dtype) : value_of((uint16_t)(i + 1), dtype) - here;
            for (int j = 0; j < 6; j++) {
                const double offsets[] = {0, 0.5, 0.5 - 0x1p-12, 0.5 + 0x1p-12, 0.5 - 0x1p-40, 0.5 + 0x1p-40};
                const double value = (i % 3 == 0 ? -1 : 1) * (here + offsets[j] * unit);
                const float narrow = (float)value;
                uint16_t from_f64, from_f32;
                fm_dtype_convert(&from_f64, dtype, &value, FM_F64, 1);
                assert_int_equal(from_f64, nearest(value, dtype));
                fm_dtype_convert(&from_f32, dtype, &narrow, FM_F32, 1);
                assert_int_equal(from_f32, nearest((double)narrow, dtype));
            }
        }
    }
}

static void arrays_convert_between_all_pairs(void **state)
{
    const enum fm_dtype floating[] = {FM_F32, FM_BF16, FM_F16, FM_F64};
    const double exact[5] = {0, -1, 0.5, 96, -0.0078125};
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            double a[5], b[5], back[5];
            fm_dtype_convert(a, floating[i], exact, FM_F64, 5);
            fm_dtype_convert(b, floating[j], a, floating[i], 5);
            fm_dtype_convert(back, FM_F64, b, floating[j], 5);
            assert_memory_equal(back, exact, sizeof exact);
        }
    }
}

static void names_are_found(void **state)
{
    for (int i = 0; i < FM_DTYPES; i++) {
        enum fm_dtype found;
        assert_int_equal(fm_dtype_parse(&found, fm_dtype_name((enum fm_dtype)i)), FM_OK);
        assert_int_equal(found, i);
        assert_int_equal(fm_dtype_parse(&found, fm_dtype_safetensors_name((enum fm_dtype)i)), FM_OK);
        assert_int_equal(found, i);
    }
    enum fm_dtype found;
    assert_int_equal(fm_dtype_parse(&found, "float8"), FM_ERR_UNSUPPORTED);
    assert_non_null(strstr(fm_error_message(), "float8"));
    assert_non_null(strstr(fm_error_message(), "bfloat16"));
    assert_int_equal(fm_dtype_bytes(FM_BF16), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_goes_there_and_back),
        cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(arrays_convert_between_all_pairs),
        cmocka_unit_test(names_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
