/* Matrix products: every transposition, type, accumulation, leading dimension and edge. */
#include "numeric.h"

/* Types that a product may have. */
static const struct {
    enum fm_dtype in, out;
} types[] = { { FM_F32, FM_F32 }, { FM_BF16, FM_F32 }, { FM_BF16, FM_BF16 }, { FM_F16, FM_F32 }, { FM_F16, FM_F16 } };

static const struct {
    int64_t m, n, k, pad;
} sizes[] = {
    { 1, 1, 1, 0 }, { 1, 7, 64, 3 }, { 37, 1, 24, 0 }, { 37, 131, 1, 5 }, { 3, 5, 131, 1 }, { 64, 37, 131, 8 }, { 131, 67, 301, 0 },
    { 37, 2051, 9, 2 },
};

/* What is added to a product besides C itself. */
enum { PLAIN, ADDEND, BIAS, BOTH };

/* want = (accumulate ? old : 0) + alpha op(A) op(B); magnitude = the same of absolute values. */
static void reference(double *want, double *magnitude, const fm_gemm_args *g, const double *a, const double *b, bool accumulate)
{
    const double alpha = g->alpha == 0.0f ? 1.0 : (double)g->alpha;
    for (int64_t i = 0; i < g->m; i++) {
        for (int64_t j = 0; j < g->n; j++) {
            double sum = 0.0, size = 0.0;
            for (int64_t p = 0; p < g->k; p++) {
                const double term = a[g->trans_a ? p * g->lda + i : i * g->lda + p] * b[g->trans_b ? j * g->ldb + p : p * g->ldb + j];
                sum += term;
                size += fabs(term);
            }
            double *const c = &want[i * g->ldc + j];
            magnitude[i * g->ldc + j] = fabs(alpha) * size + (accumulate ? fabs(*c) : 0.0);
            *c = alpha * sum + (accumulate ? *c : 0.0);
        }
    }
}

/* One more term of the sum, which may be rounded to C's dtype before: an array like C, or (ld 0) one row for all. */
static void reference_add(double *want, double *magnitude, const fm_gemm_args *g, const double *term, int64_t ld)
{
    const double once = 1.01 * unit_roundoff(g->out) / (0x1p-24 * ((double)g->k + 3.0));
    for (int64_t i = 0; i < g->m; i++) {
        for (int64_t j = 0; j < g->n; j++) {
            magnitude[i * g->ldc + j] += fabs(term[i * ld + j]) + once * fabs(want[i * g->ldc + j]);
            want[i * g->ldc + j] += term[i * ld + j];
        }
    }
}

/* One product against the reference. What is not accumulated to holds NaN before. */
static uint64_t check_sum(lab *l, fm_gemm_args g, int64_t pad, int added)
{
    g.lda = (g.trans_a ? g.m : g.k) + pad;
    g.ldb = (g.trans_b ? g.k : g.n) + pad;
    g.ldc = g.n + pad;
    const array a = array_random(l, g.in, (g.trans_a ? g.k : g.m) * g.lda, 1, 1.0);
    const array b = array_random(l, g.in, (g.trans_b ? g.n : g.k) * g.ldb, 2, 1.0);
    const array old = array_random(l, g.out, g.m * g.ldc, 3, 1.0);
    double *const want = array_values(l, &old), *const magnitude = lab_doubles(l, old.n);
    for (int64_t i = 0; i < g.m && !g.accumulate; i++) {
        for (int64_t j = 0; j < g.n; j++) {
            want[i * g.ldc + j] = NAN;
        }
    }
    array c = array_of(l, g.out, want, old.n);
    reference(want, magnitude, &g, a.value, b.value, g.accumulate);
    const array addend = array_random(l, g.out, old.n, 4, 1.0), bias = array_random(l, g.out, g.n, 5, 1.0);
    if (added & BIAS) {
        reference_add(want, magnitude, &g, bias.value, 0);
        g.bias = bias.data;
    }
    if (added & ADDEND) {
        reference_add(want, magnitude, &g, addend.value, g.ldc);
        g.addend = addend.data;
    }
    g.a = a.data, g.b = b.data, g.c = c.data;
    RUN(l, gemm, &g);
    char what[160];
    snprintf(what, sizeof what, "%s%s%s%s%s of m %d n %d k %d pad %d, alpha %g, of %s", g.trans_a ? "A^T" : "A", g.trans_b ? " B^T" : " B",
             g.accumulate ? " added" : "", added & ADDEND ? " + addend" : "", added & BIAS ? " + bias" : "", (int)g.m, (int)g.n, (int)g.k, (int)pad, (double)g.alpha, fm_dtype_name(g.in));
    array_check(what, &c, want, magnitude, (double)g.k + 3.0);
    return array_hash(0, &c);
}

static uint64_t check_product(lab *l, fm_gemm_args g, int64_t pad)
{
    return check_sum(l, g, pad, PLAIN);
}

static void all_forms_agree_with_the_definition(void **state)
{
    lab *const l = *state;
    for (int s = 0; s < COUNT(sizes); s++) {
        for (int form = 0; form < 8 * COUNT(types); form++) {
            const fm_gemm_args g = {
                .in = types[form / 8].in, .out = types[form / 8].out, .trans_a = form & 1, .trans_b = form & 2, .accumulate = form & 4,
                .m = sizes[s].m, .n = sizes[s].n, .k = sizes[s].k, .alpha = form % 3 == 0 ? 0.37f : form % 3 == 1 ? 0.0f : 1.0f,
            };
            check_product(l, g, sizes[s].pad);
            lab_clear(l);
        }
    }
}

static void a_row_and_a_matrix_may_be_added(void **state)
{
    lab *const l = *state;
    for (int s = 0; s < COUNT(sizes); s++) {
        for (int form = 0; form < 3 * COUNT(types); form++) {
            const fm_gemm_args g = {
                .in = types[form / 3].in, .out = types[form / 3].out, .trans_b = true, .m = sizes[s].m, .n = sizes[s].n,
                .k = s == 0 ? 0 : sizes[s].k,
            };
            check_sum(l, g, sizes[s].pad, ADDEND + form % 3);
            lab_clear(l);
        }
    }
}

static void plans_serve_again_with_other_matrices(void **state)
{
    lab *const l = *state;
    for (int t = 0; t < COUNT(types); t++) {
        const fm_gemm_args g = { .in = types[t].in, .out = types[t].out, .m = 17, .n = 19, .k = 23 };
        const uint64_t first = check_product(l, g, 1);
        for (int64_t n = 1; n < 300; n++) {   /* more shapes than plans are kept */
            const fm_gemm_args other = { .in = types[t].in, .out = types[t].out, .m = 2, .n = n, .k = 3 };
            check_product(l, other, 0);
            lab_clear(l);
        }
        assert_true(check_product(l, g, 1) == first);
        fm_gemm_args scaled = g;       /* all the same but one thing */
        scaled.alpha = 3.0f;
        check_product(l, scaled, 1);
        scaled.accumulate = true;
        check_product(l, scaled, 1);
        check_product(l, scaled, 2);
    }
}

static void products_of_nothing(void **state)
{
    lab *const l = *state;
    for (int form = 0; form < 8 * COUNT(types); form++) {
        const fm_gemm_args g = {
            .in = types[form / 8].in, .out = types[form / 8].out, .trans_a = form & 1, .trans_b = form & 2, .accumulate = form & 4,
        };
        for (int empty = 0; empty < 3; empty++) {
            fm_gemm_args part = g;
            part.m = empty == 0 ? 0 : 5, part.n = empty == 1 ? 0 : 7, part.k = empty == 2 ? 0 : 3;
            check_product(l, part, 2);
        }
    }
}

static uint64_t product_body(lab *l)
{
    uint64_t hash = 0;
    for (int t = 0; t < COUNT(types); t++) {
        const fm_gemm_args g = { .in = types[t].in, .out = types[t].out, .trans_b = true, .m = 67, .n = 131, .k = 203 };
        hash = hash * 31 + check_product(l, g, 0);
    }
    return hash;
}

static void threads_repeat(void **state)
{
    lab *const l = *state;
    for (int threads = 1; threads <= 4; threads++) {
        lab_use_threads(l, threads);
        assert_true(product_body(l) == product_body(l));
        lab_clear(l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_forms_agree_with_the_definition, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(a_row_and_a_matrix_may_be_added, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(plans_serve_again_with_other_matrices, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(products_of_nothing, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(threads_repeat, lab_open, lab_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
