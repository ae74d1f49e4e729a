/* Kernels of rows: RMSNorm, rotary embedding, sums of columns; against the CPU's operations. */
#include "kernel_lab.h"

/* ---- RMSNorm ---- */

typedef struct {
    int64_t N;
    int heads;
    int64_t n, pad;
    int offset;                        /* of x from a 16-byte boundary */
} norm_shape;

/* Every number of threads a row that norm_cuda.cu chooses from, odd widths, and rows that lie on no boundary. */
static const norm_shape norm_shapes[] = {
    { 0, 1, 8, 0, 0 },   { 1, 1, 1, 0, 0 },    { 37, 1, 131, 5, 0 },  { 5, 3, 8, 0, 0 },    { 33, 3, 24, 8, 0 },  { 7, 9, 64, 8, 0 },
    { 3, 5, 128, 0, 0 }, { 5, 2, 256, 8, 1 },  { 3, 1, 576, 0, 0 },   { 2, 1, 1024, 0, 0 }, { 2, 1, 2048, 8, 0 }, { 3, 1, 3072, 0, 0 },
    { 2, 1, 8192, 0, 0 }, { 1, 1, 10248, 0, 0 }, { 2, 1, 1001, 0, 0 },
};

static void check_norm(lab *l, norm_shape s, enum fm_dtype dtype, bool add)
{
    const int64_t ldx = s.heads * s.n + s.pad, ldy = s.heads * s.n + 2 * s.pad;
    const numbers x = numbers_random(l, dtype, s.N * ldx, 1, 1.3, s.offset), w = numbers_random(l, dtype, s.n, 2, 1.0, 0);
    const numbers dy = numbers_random(l, dtype, s.N * ldy, 3, 1.0, 0);
    const numbers want = numbers_random(l, dtype, s.N * ldy, 4, 1.0, 0), got = numbers_copy(l, &want, 0);
    const numbers want_rstd = numbers_random(l, FM_F32, s.N * s.heads, 5, 1.0, 0), got_rstd = numbers_copy(l, &want_rstd, 0);
    CPU(l, rmsnorm, want.data, ldy, want_rstd.data, x.data, ldx, w.data, dtype, s.N, s.heads, s.n, 1e-5);
    GPU(l, rmsnorm, got.data, ldy, got_rstd.data, x.data, ldx, w.data, dtype, s.N, s.heads, s.n, 1e-5);
    numbers_compare("rstd", &got_rstd, &want_rstd, 4.0, 0.0);
    numbers_compare("rmsnorm", &got, &want, dtype == FM_F32 ? 6.0 : 1.0, 0.0);

    const numbers want_dx = numbers_random(l, dtype, s.N * ldx, 6, 1.0, 0), got_dx = numbers_copy(l, &want_dx, 0);
    CPU(l, rmsnorm_backward, want_dx.data, ldx, add, dy.data, ldy, x.data, ldx, w.data, want_rstd.data, dtype, s.N, s.heads, s.n);
    GPU(l, rmsnorm_backward, got_dx.data, ldx, add, dy.data, ldy, x.data, ldx, w.data, want_rstd.data, dtype, s.N, s.heads, s.n);
    numbers_compare("rmsnorm backward", &got_dx, &want_dx, 1.0, s.n == 1 ? 1e5 : 8.0);   /* one element: all cancels but eps */

    const numbers want_dw = numbers_random(l, FM_F32, s.n, 7, 1.0, 0), got_dw = numbers_copy(l, &want_dw, 0);
    CPU(l, rmsnorm_backward_weight, want_dw.data, dy.data, ldy, x.data, ldx, want_rstd.data, dtype, s.N, s.heads, s.n);
    GPU(l, rmsnorm_backward_weight, got_dw.data, dy.data, ldy, x.data, ldx, want_rstd.data, dtype, s.N, s.heads, s.n);
    numbers_compare("gradient of rmsnorm's weight", &got_dw, &want_dw, 0.0, 16.0);
    lab_clear(l);
}

static void norm_body(lab *l)
{
    for (int s = 0; s < COUNT(norm_shapes); s++) {
        for (int t = 0; t < COUNT(dtypes); t++) {
            check_norm(l, norm_shapes[s], dtypes[t], t == s % 3);
        }
    }
}

static void rmsnorm(void **state)
{
    (void)state;
    in_all_orders(norm_body);
}

static void rows_too_wide_for_the_threads_are_refused(void **state)
{
    (void)state;
    lab *const l = lab_new();
    enum { N = 8193 };
    const numbers x = numbers_random(l, FM_BF16, N, 1, 1.0, 0), y = numbers_copy(l, &x, 0), w = numbers_copy(l, &x, 0);
    float rstd;
    assert_int_equal(l->gpu->ops->rmsnorm(l->gpu, y.data, N, &rstd, x.data, N, w.data, FM_BF16, 1, 1, N, 1e-5), FM_ERR_UNSUPPORTED);
    lab_destroy(l);
}

/* ---- columns ---- */

static void columns_body(lab *l)
{
    static const struct {
        int64_t N, n, pad;
        int offset;
    } shapes[] = { { 0, 5, 0, 0 }, { 1, 1, 0, 0 }, { 37, 131, 5, 0 }, { 200, 24, 0, 0 }, { 2000, 16, 8, 0 }, { 131, 1000, 0, 0 },
                   { 33, 64, 0, 1 } };
    for (int i = 0; i < COUNT(shapes) * COUNT(dtypes); i++) {
        const int64_t N = shapes[i / 3].N, n = shapes[i / 3].n, ld = n + shapes[i / 3].pad;
        const numbers dy = numbers_random(l, dtypes[i % 3], N * ld, 1, 1.0, shapes[i / 3].offset);
        const numbers want = numbers_random(l, FM_F32, n, 2, 1.0, 0), got = numbers_copy(l, &want, 0), again = numbers_copy(l, &want, 0);
        CPU(l, bias_backward, want.data, dy.data, dtypes[i % 3], N, n, ld);
        GPU(l, bias_backward, got.data, dy.data, dtypes[i % 3], N, n, ld);
        numbers_compare("gradient of a bias", &got, &want, 0.0, 16.0);
        GPU(l, bias_backward, again.data, dy.data, dtypes[i % 3], N, n, ld);
        numbers_compare("the same gradient again", &again, &got, 0.0, 0.0);
        lab_clear(l);
    }
}

static void sums_of_columns(void **state)
{
    (void)state;
    in_all_orders(columns_body);
}

/* ---- rotary embedding ---- */

static void rope_body(lab *l)
{
    static const struct {
        int64_t N;
        int heads, D, rotary;
        int64_t pad;
        int offset;
    } shapes[] = { { 0, 1, 8, 8, 0, 0 }, { 37, 3, 8, 8, 0, 0 }, { 5, 9, 64, 64, 3, 0 }, { 131, 2, 24, 24, 1, 0 }, { 7, 3, 24, 8, 0, 0 },
                   { 1, 1, 2, 2, 0, 0 }, { 3, 2, 70, 66, 5, 0 }, { 33, 9, 64, 64, 8, 0 }, { 7, 5, 128, 128, 0, 0 }, { 5, 4, 32, 32, 0, 1 } };
    enum { POSITIONS = 50 };
    for (int i = 0; i < COUNT(shapes) * COUNT(dtypes) * 2; i++) {
        const int s = i / 6, half = shapes[s].rotary / 2;
        const int64_t N = shapes[s].N, ld = shapes[s].heads * shapes[s].D + shapes[s].pad;
        const enum fm_dtype dtype = dtypes[i % 3];
        const numbers cosines = numbers_random(l, FM_F32, POSITIONS * half, 1, 1.0, 0);
        const numbers sines = numbers_random(l, FM_F32, POSITIONS * half, 2, 1.0, 0);
        int32_t *const position = lab_alloc(l, (size_t)N * sizeof *position);
        for (int64_t r = 0; r < N; r++) {
            position[r] = (int32_t)(r * 7 % POSITIONS);
        }
        const numbers want = numbers_random(l, dtype, N * ld, 3, 1.0, 0), got = numbers_copy(l, &want, shapes[s].offset);
        CPU(l, rope, want.data, ld, cosines.data, sines.data, position, i / 3 % 2, dtype, N, shapes[s].heads, shapes[s].D, shapes[s].rotary);
        GPU(l, rope, got.data, ld, cosines.data, sines.data, position, i / 3 % 2, dtype, N, shapes[s].heads, shapes[s].D, shapes[s].rotary);
        numbers_compare("rope", &got, &want, dtype == FM_F32 ? 0.0 : 1.0, 2.0);   /* x cos - y sin cancels; FMAs differ */
        lab_clear(l);
    }
}

static void rope(void **state)
{
    (void)state;
    in_all_orders(rope_body);
}

int main(int argc, char **argv)
{
    const int status = lab_begin(argc, argv);
    if (status != 0) {
        return status;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm),
        cmocka_unit_test(rows_too_wide_for_the_threads_are_refused),
        cmocka_unit_test(sums_of_columns),
        cmocka_unit_test(rope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
