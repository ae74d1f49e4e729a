/* Counter-based random numbers: the published vectors, the map of seed, stream and counter, and the moments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"

static void philox_gives_the_published_vectors(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } known[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u } },
        { { ~0u, ~0u, ~0u, ~0u }, { ~0u, ~0u }, { 0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu } },
        { { 0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u }, { 0xa4093822u, 0x299f31d0u },
          { 0xd16cfe09u, 0x94fdcceb, 0x5001e420u, 0x24126ea1u } },
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        uint32_t out[4];
        fm_random_philox(out, known[i].counter, known[i].key);
        assert_memory_equal(out, known[i].expected, sizeof out);
    }
}

static void seed_stream_and_counter_have_their_words(void **state)
{
    uint32_t out[4];
    fm_random_bits(out, 0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u);
    const uint32_t expected[4] = { 0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u };
    assert_memory_equal(out, expected, sizeof out);
    assert_true(fm_random_stream("a") == 0xaf63dc4c8601ec8cu); /* FNV-1a's published value */
    assert_true(fm_random_stream("") == 0xcbf29ce484222325u);
}

/* Raw moments of n draws; the bounds are five standard errors of each. */
static void moments(double out[4], double (*draw)(uint64_t, uint64_t, uint64_t), int n)
{
    memset(out, 0, 4 * sizeof *out);
    for (int i = 0; i < n; i++) {
        const double x = draw(7, fm_random_stream("moments"), (uint64_t)i);
        for (int k = 0; k < 4; k++) {
            out[k] += pow(x, k + 1) / n;
        }
    }
}

static void uniform_and_normal_have_their_moments(void **state)
{
    enum { N = 200000 };
    double m[4];
    moments(m, fm_random_uniform, N);
    assert_true(fabs(m[0] - 0.5) < 5 * sqrt(1.0 / 12 / N));
    assert_true(fabs(m[1] - 1.0 / 3) < 5 * sqrt(4.0 / 45 / N));
    moments(m, fm_random_normal, N);
    assert_true(fabs(m[0]) < 5 * sqrt(1.0 / N));
    assert_true(fabs(m[1] - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(m[2]) < 5 * sqrt(15.0 / N));
    assert_true(fabs(m[3] - 3) < 5 * sqrt(96.0 / N));
    double together = 0; /* the two of one block are independent */
    for (uint64_t k = 0; k < N; k++) {
        together += fm_random_normal(7, 1, 2 * k) * fm_random_normal(7, 1, 2 * k + 1) / N;
    }
    assert_true(fabs(together) < 5 * sqrt(1.0 / N));
}

/* In fp32 they are the same, but where the formula's number lies within 1e-15 of the middle of two. */
static void many_normals_are_the_formulas(void **state)
{
    enum { N = 100000 };
    static float fast[N];
    const uint64_t firsts[] = { 0, 1, 12345678901ull, ~0ull - 4 * N };
    int differ = 0;
    for (size_t f = 0; f < sizeof firsts / sizeof firsts[0]; f++) {
        fm_random_normals(fast, 0.02, 7, 11, firsts[f], N);
        for (int i = 0; i < N; i++) {
            const double exact = 0.02 * fm_random_normal(7, 11, firsts[f] + (uint64_t)i);
            if (!(fabs((double)fast[i] - exact) <= fabs(exact) * 0x1.0001p-24 + 1e-18)) {
                fail_msg("element %d after %llu: %.17g is not %.17g", i, (unsigned long long)firsts[f], (double)fast[i], exact);
            }
            differ += fast[i] != (float)exact;
        }
    }
    assert_true(differ < 5);
}

static void many_normals_do_not_depend_on_where_a_run_begins(void **state)
{
    enum { N = 1000 };
    float whole[N], part[N];
    fm_random_normals(whole, 1.0, 1, 2, 0, N);
    for (int64_t first = 0; first < N; first += 37) {
        for (int64_t n = 0; first + n <= N; n += 111) {
            fm_random_normals(part, 1.0, 1, 2, (uint64_t)first, n);
            assert_memory_equal(part, whole + first, (size_t)n * sizeof *part);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_vectors),
        cmocka_unit_test(seed_stream_and_counter_have_their_words),
        cmocka_unit_test(uniform_and_normal_have_their_moments),
        cmocka_unit_test(many_normals_are_the_formulas),
        cmocka_unit_test(many_normals_do_not_depend_on_where_a_run_begins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
