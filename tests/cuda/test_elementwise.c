/* Element-wise kernels against the CPU's operations: the same rounding, so the same bits but where exp stands. */
#include "kernel_lab.h"

static const int64_t lengths[] = { 0, 1, 3, 7, 33, 1000, 5001 };

static void add_body(lab *l)
{
    for (int t = 0; t < COUNT(dtypes); t++) {
        for (int i = 0; i < COUNT(lengths); i++) {
            for (int offset = 0; offset < 2; offset++) {
                const numbers x = numbers_random(l, dtypes[t], lengths[i], 1, 1.0, offset);
                const numbers want = numbers_random(l, dtypes[t], lengths[i], 2, 1.0, 0), got = numbers_copy(l, &want, offset);
                CPU(l, add, want.data, x.data, dtypes[t], want.n);
                GPU(l, add, got.data, x.data, dtypes[t], got.n);
                numbers_compare("add", &got, &want, 0.0, 0.0);
                if (dtypes[t] == FM_F32) {
                    CPU(l, scale, want.data, 0.3f, want.n);
                    GPU(l, scale, got.data, 0.3f, got.n);
                    numbers_compare("scale", &got, &want, 0.0, 0.0);
                    assert_int_equal(l->host->table->add_f32(l->host, want.data, x.data, want.n), FM_OK);
                    GPU_DEVICE(l, add_f32, got.data, x.data, got.n);
                    numbers_compare("add_f32", &got, &want, 0.0, 0.0);
                }
                lab_clear(l);
            }
        }
    }
}

static void sums(void **state)
{
    (void)state;
    in_all_orders(add_body);
}

static const struct {
    int64_t N, n, pad;
    int offset;
} row_shapes[] = { { 0, 5, 0, 0 }, { 1, 1, 0, 0 }, { 37, 131, 5, 0 }, { 200, 24, 0, 0 }, { 3, 1000, 8, 0 }, { 7, 33, 0, 1 },
                   { 2, 2056, 16, 0 }, { 5, 64, 8, 3 } };

static void bias_body(lab *l)
{
    for (int t = 0; t < COUNT(dtypes); t++) {
        for (int s = 0; s < COUNT(row_shapes); s++) {
            const int64_t N = row_shapes[s].N, n = row_shapes[s].n, ld = n + row_shapes[s].pad;
            const numbers bias = numbers_random(l, dtypes[t], n, 3, 1.0, row_shapes[s].offset);
            const numbers want = numbers_random(l, dtypes[t], N * ld, 4, 1.0, 0), got = numbers_copy(l, &want, row_shapes[s].offset);
            CPU(l, bias_add, want.data, bias.data, dtypes[t], N, n, ld);
            GPU(l, bias_add, got.data, bias.data, dtypes[t], N, n, ld);
            numbers_compare("bias", &got, &want, 0.0, 0.0);
            lab_clear(l);
        }
    }
}

static void bias(void **state)
{
    (void)state;
    in_all_orders(bias_body);
}

static void copy_body(lab *l)
{
    for (int from = 0; from < COUNT(dtypes); from++) {
        for (int to = 0; to < COUNT(dtypes); to++) {
            for (int s = 0; s < COUNT(row_shapes); s++) {
                const int64_t N = row_shapes[s].N, n = row_shapes[s].n, ldx = n + 2 * row_shapes[s].pad, ldy = n + row_shapes[s].pad;
                const numbers x = numbers_random(l, dtypes[from], N * ldx, 5, 1.0, row_shapes[s].offset);
                const numbers want = numbers_random(l, dtypes[to], N * ldy, 6, 1.0, 0), got = numbers_copy(l, &want, 0);
                CPU(l, copy_rows, want.data, ldy, dtypes[to], x.data, ldx, dtypes[from], N, n);
                GPU(l, copy_rows, got.data, ldy, dtypes[to], x.data, ldx, dtypes[from], N, n);
                numbers_compare("copy of rows", &got, &want, 0.0, 0.0);
                lab_clear(l);
            }
        }
    }
}

static void copies(void **state)
{
    (void)state;
    in_all_orders(copy_body);
}

static void convert_body(lab *l)
{
    static const enum fm_dtype all[] = { FM_F32, FM_BF16, FM_F16, FM_F64 };
    for (int from = 0; from < COUNT(all); from++) {
        for (int to = 0; to < COUNT(all); to++) {
            /* one type into itself is a copy within the device's memory, where the lab's arrays may not lie (tests/gpu/ops_parity has it) */
            for (int i = 0; i < COUNT(lengths) * 2 && from != to; i++) {
                const numbers x = numbers_random(l, all[from], lengths[i / 2], 7, 300.0, i % 2);
                const numbers want = numbers_random(l, all[to], x.n, 8, 1.0, 0), got = numbers_copy(l, &want, 0);
                assert_int_equal(l->host->table->convert(l->host, want.data, all[to], x.data, all[from], x.n), FM_OK);
                GPU_DEVICE(l, convert, got.data, all[to], x.data, all[from], x.n);
                numbers_compare("conversion", &got, &want, 0.0, 0.0);
                lab_clear(l);
            }
        }
    }
}

static void conversions(void **state)
{
    (void)state;
    in_all_orders(convert_body);
}

/* Numbers half way between neighbours of the short type, off by less than fp32 can say: rounding twice would go wrong. */
static void doubles_are_rounded_once(void **state)
{
    (void)state;
    lab *const l = lab_new();
    static const double values[] = { 1.0 + 0x1p-8 + 0x1p-40, 1.0 + 0x1p-8 - 0x1p-40, -1.0 - 0x1p-8 - 0x1p-40, 1.0 + 0x1p-8, INFINITY,
                                     1e300 };
    double *const x = lab_alloc(l, sizeof values);
    uint16_t want[COUNT(values)], *const got = lab_alloc(l, sizeof want);
    memcpy(x, values, sizeof values);
    fm_dtype_convert(want, FM_BF16, x, FM_F64, COUNT(values));
    assert_int_equal(want[0], 0x3f81);
    assert_int_equal(want[1], 0x3f80);
    GPU_DEVICE(l, convert, got, FM_BF16, x, FM_F64, COUNT(values));
    assert_memory_equal(got, want, sizeof want);
    lab_destroy(l);
}

/* ---- SwiGLU ---- */

static void swiglu_body(lab *l)
{
    static const struct {
        int64_t N, F;
        int offset;
    } shapes[] = { { 0, 8, 0 }, { 1, 1, 0 }, { 37, 131, 0 }, { 5, 24, 0 }, { 3, 1536, 0 }, { 2, 64, 1 } };
    for (int i = 0; i < COUNT(shapes) * COUNT(dtypes); i++) {
        const int64_t N = shapes[i / 3].N, F = shapes[i / 3].F;
        const enum fm_dtype dtype = dtypes[i % 3];
        const double ulps = dtype == FM_F32 ? 8.0 : 1.0;
        const numbers gu = numbers_random(l, dtype, N * 2 * F, 1, 4.0, shapes[i / 3].offset);
        const numbers da = numbers_random(l, dtype, N * F, 2, 1.0, 0);
        const numbers want = numbers_random(l, dtype, N * F, 3, 1.0, 0), got = numbers_copy(l, &want, 0);
        CPU(l, swiglu, want.data, gu.data, dtype, N, F);
        GPU(l, swiglu, got.data, gu.data, dtype, N, F);
        numbers_compare("swiglu", &got, &want, ulps, 1.0);
        const numbers want_back = numbers_random(l, dtype, N * 2 * F, 4, 1.0, 0), got_back = numbers_copy(l, &want_back, 0);
        CPU(l, swiglu_backward, want_back.data, da.data, gu.data, dtype, N, F);
        GPU(l, swiglu_backward, got_back.data, da.data, gu.data, dtype, N, F);
        numbers_compare("swiglu backward", &got_back, &want_back, ulps, 4.0);
        GPU(l, swiglu_backward, gu.data, da.data, gu.data, dtype, N, F);
        numbers_compare("swiglu backward in place", &gu, &got_back, 0.0, 0.0);
        lab_clear(l);
    }
}

static void swiglu(void **state)
{
    (void)state;
    in_all_orders(swiglu_body);
}

static void swiglu_of_large_gates(void **state)
{
    (void)state;
    lab *const l = lab_new();
    static const float values[] = { -1e5f, -1000.0f, -100.0f, -88.5f, -87.5f, -20.0f, 0.0f, 20.0f, 88.5f, 100.0f, 1000.0f, 1e5f };
    enum { F = COUNT(values) };
    float *const gu = lab_alloc(l, 2 * sizeof values), *const a = lab_alloc(l, sizeof values), *const dgu = lab_alloc(l, 2 * sizeof values);
    for (int i = 0; i < F; i++) {
        gu[i] = values[i];
        gu[F + i] = 1.0f;
    }
    GPU(l, swiglu, a, gu, FM_F32, 1, F);
    GPU(l, swiglu_backward, dgu, gu + F, gu, FM_F32, 1, F);
    for (int i = 0; i < F; i++) {
        const double gate = (double)values[i], s = 1.0 / (1.0 + exp(-gate)), want = s * gate, slope = s * (1.0 + gate * (1.0 - s));
        assert_true(fabs((double)a[i] - want) <= 5e-7 * fabs(want) + 1e-30);
        assert_true(fabs((double)dgu[i] - slope) <= 5e-7 * fabs(slope) + 1e-30);
        assert_true(fabs((double)dgu[F + i] - want) <= 5e-7 * fabs(want) + 1e-30);
    }
    lab_destroy(l);
}

int main(int argc, char **argv)
{
    const int status = lab_begin(argc, argv);
    if (status != 0) {
        return status;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums),
        cmocka_unit_test(bias),
        cmocka_unit_test(copies),
        cmocka_unit_test(conversions),
        cmocka_unit_test(doubles_are_rounded_once),
        cmocka_unit_test(swiglu),
        cmocka_unit_test(swiglu_of_large_gates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
