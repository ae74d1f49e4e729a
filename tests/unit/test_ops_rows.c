/* Row kernels (conversions, exp, dot) and the element-wise operations. */
#include "numeric.h"

#include "ops/rows.h"

static void every_short_float_is_widened_and_narrowed(void **state)
{
    lab *const l = *state;
    for (int t = 1; t < COUNT(dtypes); t++) {
        uint16_t *const in = lab_alloc(l, 65536, 2), *const out = lab_alloc(l, 65536, 2);
        float *const wide = lab_alloc(l, 65536, 4);
        for (int i = 0; i < 65536; i++) {
            in[i] = (uint16_t)i;
        }
        fm_row_load(wide, in, dtypes[t], 65536);
        fm_row_store(out, dtypes[t], wide, 65536);
        for (int i = 0; i < 65536; i++) {
            const float want = dtypes[t] == FM_BF16 ? fm_bf16_to_f32(in[i]) : fm_f16_to_f32(in[i]);
            assert_true(wide[i] == want || (isnan(wide[i]) && isnan(want)));
            if (isnan(want)) {
                const float back = dtypes[t] == FM_BF16 ? fm_bf16_to_f32(out[i]) : fm_f16_to_f32(out[i]);
                assert_true(isnan(back));
            } else {
                assert_int_equal(out[i], in[i]);
            }
        }
    }
}

static void narrowing_rounds_to_nearest_even(void **state)
{
    lab *const l = *state;
    enum { NUMBERS = 40000 };
    for (int t = 1; t < COUNT(dtypes); t++) {
        float *const in = lab_alloc(l, NUMBERS, 4);
        uint16_t *const out = lab_alloc(l, NUMBERS, 2), *const want = lab_alloc(l, NUMBERS, 2);
        for (int i = 0; i < NUMBERS; i++) {   /* exact numbers, ties and their neighbours, of all sizes */
            const uint32_t bits = (uint32_t)i * 2654435761u, tie = bits & (dtypes[t] == FM_BF16 ? 0xffff0000u : 0xffffe000u);
            const uint32_t half = dtypes[t] == FM_BF16 ? 0x8000u : 0x1000u;
            const uint32_t pattern = i % 4 == 0 ? bits : tie + half + (uint32_t)(i % 4) - 2;
            memcpy(&in[i], &pattern, sizeof pattern);
            want[i] = dtypes[t] == FM_BF16 ? fm_f32_to_bf16(in[i]) : fm_f32_to_f16(in[i]);
        }
        fm_row_store(out, dtypes[t], in, NUMBERS);
        for (int i = 0; i < NUMBERS; i++) {
            if (!isnan(in[i]) && out[i] != want[i]) {
                fail_msg("%a becomes %#x, not %#x, in %s", (double)in[i], out[i], want[i], fm_dtype_name(dtypes[t]));
            }
        }
    }
}

static void exp_is_good_to_two_units(void **state)
{
    double worst = 0.0;
    for (float x = -87.0f; x <= 88.0f; x += 0.000917f) {
        const double want = exp((double)x), unit = (double)(nextafterf((float)want, INFINITY) - (float)want);
        worst = fmax(worst, fabs((double)fm_exp(x) - want) / unit);
    }
    if (worst > 2.0) {
        fail_msg("fm_exp is off by %.2f units in the last place", worst);
    }
    assert_true(fm_exp(0.0f) == 1.0f);
    assert_true(fm_exp(-87.5f) == 0.0f);
    assert_true(fm_exp(-1e30f) == 0.0f);
    assert_true(fm_exp(-INFINITY) == 0.0f);
    assert_true(isnan(fm_exp(NAN)));
}

static void dot_is_the_sum_of_products(void **state)
{
    lab *const l = *state;
    static const int64_t lengths[] = { 0, 1, 8, 15, 16, 17, 24, 64, 131, 576 };
    for (int i = 0; i < COUNT(lengths); i++) {
        const array a = array_random(l, FM_F32, lengths[i], 1, 1.0), b = array_random(l, FM_F32, lengths[i], 2, 1.0);
        double want = 0.0, size = 0.0;
        for (int64_t k = 0; k < lengths[i]; k++) {
            want += a.value[k] * b.value[k];
            size += fabs(a.value[k] * b.value[k]);
        }
        const double got = (double)fm_row_dot(a.data, b.data, lengths[i]);
        assert_true(fabs(got - want) <= (double)(lengths[i] + 2) * 0x1p-24 * size);
    }
}

/* ---- element-wise operations ---- */

static uint64_t check_bias(lab *l, int64_t N, int64_t n, int64_t pad, enum fm_dtype dtype)
{
    const int64_t ld = n + pad;
    array y = array_random(l, dtype, N * ld, 1, 1.0), db = array_random(l, FM_F32, n, 2, 1.0);
    const array bias = array_random(l, dtype, n, 3, 1.0);
    double *const want = array_values(l, &y), *const want_db = array_values(l, &db), *const size = lab_doubles(l, n);
    for (int64_t r = 0; r < N; r++) {
        for (int64_t i = 0; i < n; i++) {
            want_db[i] += y.value[r * ld + i];
            size[i] += fabs(y.value[r * ld + i]);
            want[r * ld + i] += bias.value[i];
        }
    }
    RUN(l, bias_backward, db.data, y.data, dtype, N, n, ld);
    RUN(l, bias_add, y.data, bias.data, dtype, N, n, ld);
    array_check("bias", &y, want, NULL, 1.0);
    array_check("db", &db, want_db, size, 66.0);
    return array_hash(array_hash(0, &y), &db);
}

static uint64_t check_add(lab *l, int64_t n, enum fm_dtype dtype)
{
    array y = array_random(l, dtype, n, 1, 1.0), scaled = array_random(l, FM_F32, n, 2, 1.0);
    const array x = array_random(l, dtype, n, 3, 1.0);
    double *const want = array_values(l, &y), *const want_scaled = array_values(l, &scaled);
    double squares = 0.0, sum;
    for (int64_t i = 0; i < n; i++) {
        squares += scaled.value[i] * scaled.value[i];
        want[i] += x.value[i];
        want_scaled[i] *= 0.125;
    }
    const fm_span span = { scaled.data, n };
    RUN(l, sum_squares, &sum, &span, 1);
    assert_true(fabs(sum - squares) <= 1e-13 * squares);
    RUN(l, add, y.data, x.data, dtype, n);
    RUN(l, scale, scaled.data, 0.125f, n);
    array_check("sum", &y, want, NULL, 1.0);
    array_check("scaled", &scaled, want_scaled, NULL, 0.0);
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    return array_hash(array_hash(bits, &y), &scaled);
}

static uint64_t check_copy(lab *l, int64_t N, int64_t n, int64_t pad, enum fm_dtype from, enum fm_dtype to)
{
    const int64_t ldx = n + 2 * pad, ldy = n + pad;
    const array x = array_random(l, from, N * ldx, 1, 1.0);
    array y = array_random(l, to, N * ldy, 2, 1.0);
    double *const want = array_values(l, &y);
    for (int64_t i = 0; i < N * n; i++) {
        want[i / n * ldy + i % n] = x.value[i / n * ldx + i % n];
    }
    RUN(l, copy_rows, y.data, ldy, to, x.data, ldx, from, N, n);
    array_check("copied", &y, want, NULL, 0.0);
    return array_hash(0, &y);
}

static uint64_t elementwise_body(lab *l)
{
    static const int64_t lengths[] = { 0, 1, 37, 2048, 2049, 70001 };
    uint64_t hash = 0;
    for (int t = 0; t < COUNT(dtypes); t++) {
        hash = hash * 31 + check_bias(l, 1, 1, 0, dtypes[t]);
        hash = hash * 31 + check_bias(l, 37, 131, 5, dtypes[t]);
        hash = hash * 31 + check_bias(l, 200, 24, 0, dtypes[t]);
        for (int i = 0; i < COUNT(lengths); i++) {
            hash = hash * 31 + check_add(l, lengths[i], dtypes[t]);
        }
        for (int to = 0; to < COUNT(dtypes); to++) {
            hash = hash * 31 + check_copy(l, 37, 131, 3, dtypes[t], dtypes[to]);
            hash = hash * 31 + check_copy(l, 1, 1, 0, dtypes[t], dtypes[to]);
        }
    }
    return hash;
}

static void elementwise_operations(void **state)
{
    same_on_all_threads(*state, elementwise_body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_short_float_is_widened_and_narrowed, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(narrowing_rounds_to_nearest_even, lab_open, lab_close),
        cmocka_unit_test(exp_is_good_to_two_units),
        cmocka_unit_test_setup_teardown(dot_is_the_sum_of_products, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(elementwise_operations, lab_open, lab_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
