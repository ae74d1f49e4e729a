/* The order of samples: permutations, epochs, shares of the data-parallel ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data/order.h"

enum { MOST = 1100 };

static void assert_permutation(uint64_t seed, int64_t epoch, int64_t n)
{
    bool seen[MOST] = { false };
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = fm_order_permute(seed, epoch, n, i);
        assert_true(at >= 0 && at < n);
        assert_false(seen[at]);
        seen[at] = true;
    }
}

static void every_size_is_permuted(void **state)
{
    for (int64_t n = 1; n <= 70; n++) {
        assert_permutation(42, 0, n);
        assert_permutation(43, n, n);
    }
    assert_permutation(1, 2, 1023);
    assert_permutation(1, 2, 1024);
    assert_permutation(1, 2, 1025);
    const int64_t huge = ((int64_t)1 << 40) + 12345;
    for (int64_t i = 0; i < 1000; i++) {
        const int64_t at = fm_order_permute(5, 0, huge, i * 1000003);
        assert_true(at >= 0 && at < huge);
    }
}

/* Each of n values at place 0 and each neighbour distance equally often over many epochs: chi square against its mean n - 1
 * plus five standard deviations. */
static void permutations_are_fair(void **state)
{
    enum { N = 13, EPOCHS = 13000 };
    double at_first[N] = { 0 }, distance[N] = { 0 };
    for (int64_t epoch = 0; epoch < EPOCHS; epoch++) {
        const int64_t a = fm_order_permute(9, epoch, N, 0), b = fm_order_permute(9, epoch, N, 1);
        at_first[a]++;
        distance[(b - a + N) % N]++;
    }
    double chi_first = 0, chi_distance = 0;
    for (int i = 0; i < N; i++) {
        chi_first += pow(at_first[i] - EPOCHS / (double)N, 2) / (EPOCHS / (double)N);
        chi_distance += i == 0 ? 0 : pow(distance[i] - EPOCHS / (N - 1.0), 2) / (EPOCHS / (N - 1.0));
    }
    assert_true(distance[0] == 0);
    assert_true(chi_first < N - 1 + 5 * sqrt(2.0 * (N - 1)));
    assert_true(chi_distance < N - 2 + 5 * sqrt(2.0 * (N - 2)));
}

static void epochs_drop_their_remainder(void **state)
{
    fm_order order;
    assert_int_equal(fm_order_train(&order, 11, 4, 3, false), FM_OK);
    assert_int_equal(order.steps_per_epoch, 2);
    for (int64_t step = 1; step <= 6; step++) {
        for (int64_t i = 0; i < 4; i++) {
            assert_int_equal(fm_order_sample(&order, step, i), (step - 1) % 2 * 4 + i);
        }
    }
    assert_int_equal(fm_order_train(&order, 11, 4, 3, true), FM_OK);
    int changes = 0;
    for (int64_t epoch = 0; epoch < 4; epoch++) {
        bool seen[11] = { false };
        for (int64_t i = 0; i < 8; i++) {
            const int64_t sample = fm_order_sample(&order, 1 + epoch * 2 + i / 4, i % 4);
            assert_false(seen[sample]);
            seen[sample] = true;
            changes += sample != fm_order_sample(&order, 1 + i / 4, i % 4);
        }
    }
    assert_true(changes > 8); /* epochs differ */
    fm_order other;
    assert_int_equal(fm_order_train(&other, 11, 4, 4, true), FM_OK);
    int differing = 0;
    for (int64_t step = 1; step <= 4; step++) {
        differing += fm_order_sample(&other, step, 0) != fm_order_sample(&order, step, 0);
    }
    assert_true(differing > 0); /* seeds differ */
    assert_int_equal(fm_order_train(&order, 3, 4, 3, true), FM_ERR_JOB);
    assert_non_null(strstr(fm_error_message(), "3 samples"));
    assert_non_null(strstr(fm_error_message(), "global_batch_size is 4"));
}

/* Whatever dp and the local batch are, a step sees the same set in the same places. */
static void the_mesh_does_not_change_a_batch(void **state)
{
    fm_order order;
    assert_int_equal(fm_order_train(&order, 100, 24, 42, true), FM_OK);
    for (int dp = 1; dp <= 4; dp++) {
        for (int64_t local = 1; local <= 6; local++) {
            if (24 % (dp * local) != 0) {
                continue;
            }
            const int64_t share = 24 / dp;
            for (int64_t place = 0; place < 24; place++) {
                int64_t samples[6];
                fm_order_microbatch(samples, &order, 7, place % share / local, local, (int)(place / share), dp);
                assert_int_equal(samples[place % share % local], fm_order_sample(&order, 7, place));
            }
        }
    }
}

static void a_pass_sees_every_sample_once(void **state)
{
    const fm_order order = fm_order_pass(10, 4);
    assert_int_equal(order.steps_per_epoch, 3);
    int64_t samples[2];
    fm_order_microbatch(samples, &order, 3, 0, 2, 0, 2);
    assert_int_equal(samples[0], 8);
    assert_int_equal(samples[1], 9);
    fm_order_microbatch(samples, &order, 3, 0, 2, 1, 2);
    assert_int_equal(samples[0], -1);
    assert_int_equal(samples[1], -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_is_permuted),
        cmocka_unit_test(permutations_are_fair),
        cmocka_unit_test(epochs_drop_their_remainder),
        cmocka_unit_test(the_mesh_does_not_change_a_batch),
        cmocka_unit_test(a_pass_sees_every_sample_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
