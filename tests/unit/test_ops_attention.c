/* Tiled attention against the definition: documents, padding, windows, pieces of keys that are combined, forward and backward. */
#include "attention.h"

static const attention_case cases[] = {
    { "one document", 1, 3, 3, 8, 37, ONE, 0, 0, 37, 0, 0, 0, { 0 }, 0 },
    { "groups of 2", 2, 6, 3, 24, 37, MANY, 0, 0, 37, 0, 0, 0, { 0 }, 3 },
    { "groups of 3", 1, 9, 3, 64, 131, PADDED, 0, 0, 131, 0, 0, 0, { 0 }, 8 },
    { "one token", 1, 2, 1, 8, 1, ONE, 0, 0, 1, 0, 0, 0, { 0 }, 1 },
    { "a window", 1, 3, 1, 8, 131, MANY, 5, 0, 131, 0, 0, 0, { 0 }, 0 },
    { "a window of itself", 1, 2, 2, 8, 37, ONE, 1, 0, 37, 0, 0, 0, { 0 }, 0 },
    { "padding only", 2, 3, 3, 8, 37, ALL_PADDING, 0, 0, 37, 0, 0, 0, { 0 }, 0 },
    { "fewer queries than keys", 2, 6, 3, 24, 67, PADDED, 0, 30, 51, 0, 0, 0, { 0 }, 5 },
    { "queries in longer arrays", 3, 3, 1, 8, 37, MANY, 0, 10, 29, 0, 0, 7, { 0 }, 2 },
    { "pieces", 2, 6, 3, 24, 67, MANY, 0, 0, 67, 0, 0, 3, { 13, 20, 51 }, 5 },
    { "pieces with a window", 1, 3, 3, 8, 67, PADDED, 9, 0, 67, 0, 0, 0, { 13, 20, 51 }, 0 },
    { "first and last of four chunks", 2, 9, 3, 8, 148, MANY, 0, 0, 37, 111, 148, 1, { 37, 74, 111 }, 0 },
    { "the middle of four chunks", 1, 3, 3, 24, 148, ONE, 0, 37, 74, 74, 111, 0, { 37, 74, 111 }, 0 },
    { "many tiles and chunks of keys", 1, 6, 3, 8, 700, ONE, 0, 0, 700, 0, 0, 0, { 0 }, 0 },
    { "many tiles, documents, pieces", 2, 3, 1, 24, 700, PADDED, 0, 0, 700, 0, 0, 0, { 300 }, 4 },
    { "many tiles, a window", 1, 3, 3, 8, 700, ONE, 290, 0, 700, 0, 0, 0, { 0 }, 0 },
};


/* The CPU multiplies bf16 numbers: probabilities are rounded too. fp16 is widened. */
static double rounding_of(enum fm_dtype dtype)
{
    return dtype == FM_BF16 ? unit_roundoff(FM_BF16) / unit_roundoff(FM_F32) : 0.0;
}

static void forward_agrees_with_the_definition(void **state)
{
    lab *const l = *state;
    for (int i = 0; i < COUNT(cases); i++) {
        for (int t = 0; t < COUNT(dtypes); t++) {
            problem s = problem_new(l, &cases[i], dtypes[t], rounding_of(dtypes[t]));
            define(l, &s);
            check_forward(l, &s);
            lab_clear(l);
        }
    }
}

static void backward_agrees_with_the_definition(void **state)
{
    lab *const l = *state;
    for (int i = 0; i < COUNT(cases); i++) {
        for (int t = 0; t < COUNT(dtypes); t++) {
            for (int add = cases[i].cuts[0] > 0; add < 2; add++) {
                problem s = problem_new(l, &cases[i], dtypes[t], rounding_of(dtypes[t]));
                define(l, &s);
                check_backward(l, &s, add);
                lab_clear(l);
            }
        }
    }
}

/* sum of dout * out by the definition, as a function of q, k and v. */
static double loss(void *context)
{
    problem *const s = context;
    double p[256], sum = 0.0;
    for (int b = 0; b < s->args.B; b++) {
        for (int64_t i = 0; i < s->args.Tq; i++) {
            for (int h = 0; h < s->args.H; h++) {
                define_row(s, p, b, i, h);
                const int64_t at = (b * s->args.q_row + i) * s->args.ldo + (int64_t)h * s->args.D;
                sum += dot(s->out + at, s->dout.value + at, s->args.D);
            }
        }
    }
    return sum;
}

/* The definition's own gradients, by differences: what the tests above compare with. */
static void gradients_are_slopes(void **state)
{
    lab *const l = *state;
    for (int i = 0; i < COUNT(cases); i++) {
        if (cases[i].T > 150) {
            continue;
        }
        problem s = problem_new(l, &cases[i], FM_F32, rounding_of(FM_F32));
        define(l, &s);
        double *const values[] = { s.q.value, s.k.value, s.v.value }, *const slopes[] = { s.dq, s.dk, s.dv };
        const int64_t counts[] = { s.q.n, s.k.n, s.v.n };
        for (int sample = 0; sample < 30; sample++) {
            const int which = sample % 3;
            const int64_t at = (int64_t)(fabs(random_number(77, sample)) * 1e6) % counts[which];
            const double slope = difference(loss, &s, values[which] + at, 1e-4);
            if (!(fabs(slope - slopes[which][at]) <= 1e-6 * (1.0 + fabs(slope)))) {
                fail_msg("%s: the slope of element %d of %c is %.9g, the gradient %.9g", cases[i].name, (int)at, "qkv"[which], slope,
                         slopes[which][at]);
            }
        }
        lab_clear(l);
    }
}

/* forward, delta and backward one after the other, as a model calls them. */
static void the_chain_agrees(void **state)
{
    lab *const l = *state;
    for (int i = 0; i < COUNT(cases); i++) {
        problem s = problem_new(l, &cases[i], FM_F32, rounding_of(FM_F32));
        const fm_attention_args *const a = &s.args;
        define(l, &s);
        array out = array_random(l, FM_F32, s.dout.n, 5, 1.0), lse = array_random(l, FM_F32, a->B * a->q_row * a->H, 6, 1.0);
        array delta = array_random(l, FM_F32, lse.n, 7, 1.0);
        double *const want = expected(l, &s, &delta, s.delta, a->q_row, a->Tq, a->H, a->H);
        run_forward(l, &s, &out, &lse);
        RUN(l, attention_delta, delta.data, s.dout.data, out.data, a);
        array_check("delta", &delta, want, NULL, 4.0 * a->D * (1.0 + s.score_size));
        for (int64_t r = 0; r < lse.n; r++) {   /* the backward test takes them for the definition's */
            s.lse[r] = r / a->H % a->q_row < a->Tq ? (double)((float *)lse.data)[r] : s.lse[r];
            s.delta[r] = (double)((float *)delta.data)[r];
        }
        for (int64_t j = 0; j < s.q.n; j++) {
            s.dq_size[j] *= 4.0 + s.score_size;
        }
        for (int64_t j = 0; j < s.k.n; j++) {
            s.dk_size[j] *= 4.0 + s.score_size;
            s.dv_size[j] *= 4.0 + s.score_size;
        }
        check_backward(l, &s, true);
        lab_clear(l);
    }
}

static void delta_in_every_dtype(void **state)
{
    lab *const l = *state;
    for (int t = 0; t < COUNT(dtypes); t++) {
        problem s = problem_new(l, &cases[8], dtypes[t], rounding_of(dtypes[t]));
        const fm_attention_args *const a = &s.args;
        const array out = array_random(l, dtypes[t], s.dout.n, 5, 1.0);
        array delta = array_random(l, FM_F32, a->B * a->q_row * a->H, 7, 1.0);
        double *const want = array_values(l, &delta);
        for (int64_t r = 0; r < a->B * a->q_row; r++) {
            for (int h = 0; h < a->H && r % a->q_row < a->Tq; h++) {
                want[r * a->H + h] = dot(s.dout.value + r * a->ldo + (int64_t)h * a->D, out.value + r * a->ldo + (int64_t)h * a->D, a->D);
            }
        }
        RUN(l, attention_delta, delta.data, s.dout.data, out.data, a);
        array_check("delta", &delta, want, NULL, a->D + 2.0);
    }
}

static uint64_t forward_body(lab *l)
{
    uint64_t hash = 0;
    for (int i = 1; i < COUNT(cases); i += 3) {
        problem s = problem_new(l, &cases[i], dtypes[i % COUNT(dtypes)], rounding_of(dtypes[i % COUNT(dtypes)]));
        array out = array_random(l, FM_F32, s.dout.n, 5, 1.0), lse = array_random(l, FM_F32, s.args.B * s.args.q_row * s.args.H, 6, 1.0);
        run_forward(l, &s, &out, &lse);
        hash = array_hash(array_hash(hash, &out), &lse);
    }
    return hash;
}

static void forward_does_not_depend_on_threads(void **state)
{
    same_on_all_threads(*state, forward_body);
}

static void backward_repeats(void **state)
{
    lab *const l = *state;
    for (int threads = 1; threads <= 4; threads++) {
        lab_use_threads(l, threads);
        for (int i = 1; i < COUNT(cases); i += 3) {
            uint64_t hashes[3];
            for (int again = 0; again < 3; again++) {
                problem s = problem_new(l, &cases[i], dtypes[i % COUNT(dtypes)], rounding_of(dtypes[i % COUNT(dtypes)]));
                define(l, &s);
                hashes[again] = check_backward(l, &s, true);
                lab_clear(l);
            }
            assert_true(hashes[0] == hashes[1] && hashes[1] == hashes[2]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gradients_are_slopes, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(forward_agrees_with_the_definition, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(backward_agrees_with_the_definition, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(the_chain_agrees, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(delta_in_every_dtype, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(forward_does_not_depend_on_threads, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(backward_repeats, lab_open, lab_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
