/* Long words, merged window by window, against a plain reading of the rule: of all pairs that merge take the lowest rank, the
 * leftmost of those. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "data/bpe.h"
#include "data/unicode.h"

enum { MAX_MERGES = 4096, MAX_SYMBOLS = 4096 };

typedef struct {
    int32_t left, right, whole;
} merge;

/* A model and, for the plain reading, its merges by rank. */
typedef struct {
    fm_bpe *bpe;
    merge merges[MAX_MERGES];
    int n_merges;
} model;

/* Private use characters: one token each, ids 0, 1, ... */
static size_t put_letter(char *out, int letter)
{
    return fm_unicode_put(out, 0xf0000u + (uint32_t)letter);
}

static model *new_model(int n_letters)
{
    model *const m = fm_alloc(sizeof *m, FM_MEMORY_HOST);
    assert_non_null(m);
    assert_int_equal(fm_bpe_new(&m->bpe, "test"), FM_OK);
    for (int i = 0; i < n_letters; i++) {
        char bytes[FM_UNICODE_UTF8_BYTES];
        assert_int_equal(fm_bpe_add_token(m->bpe, bytes, put_letter(bytes, i), i), FM_OK);
    }
    return m;
}

/* Adds the merge of two tokens, with the next rank; a whole that is there already is used again. */
static void add_merge(model *m, int32_t left, int32_t right)
{
    size_t left_bytes, right_bytes;
    const char *const first = fm_bpe_token(m->bpe, left, &left_bytes);
    const char *const second = fm_bpe_token(m->bpe, right, &right_bytes);
    char *const whole = fm_alloc(left_bytes + right_bytes, FM_MEMORY_HOST);
    char *const parts[2] = { whole, whole + left_bytes };
    memcpy(parts[0], first, left_bytes);
    memcpy(parts[1], second, right_bytes);
    int32_t id = fm_bpe_find(m->bpe, whole, left_bytes + right_bytes);
    if (id < 0) {
        id = fm_bpe_id_limit(m->bpe);
        assert_int_equal(fm_bpe_add_token(m->bpe, whole, left_bytes + right_bytes, id), FM_OK);
    }
    assert_int_equal(fm_bpe_add_merge(m->bpe, parts[0], left_bytes, parts[1], right_bytes), FM_OK);
    m->merges[m->n_merges++] = (merge){ left, right, id };
    fm_free(whole);
}

static void destroy_model(model *m)
{
    fm_bpe_destroy(m->bpe);
    fm_free(m);
}

/* The latest merge of a pair counts, as in the model. */
static int rank_of(const model *m, int32_t left, int32_t right)
{
    for (int i = m->n_merges - 1; i >= 0; i--) {
        if (m->merges[i].left == left && m->merges[i].right == right) {
            return i;
        }
    }
    return MAX_MERGES;
}

static int merge_plainly(const model *m, int32_t *ids, int n)
{
    static int ranks[MAX_SYMBOLS];
    for (int i = 0; i + 1 < n; i++) {
        ranks[i] = rank_of(m, ids[i], ids[i + 1]);
    }
    for (;;) {
        int best = 0;
        for (int i = 1; i + 1 < n; i++) {
            best = ranks[i] < ranks[best] ? i : best;
        }
        if (n < 2 || ranks[best] == MAX_MERGES) {
            return n;
        }
        ids[best] = m->merges[ranks[best]].whole;
        memmove(ids + best + 1, ids + best + 2, (size_t)(n - best - 2) * sizeof *ids);
        memmove(ranks + best, ranks + best + 1, (size_t)(n - best - 2) * sizeof *ranks);
        n--;
        if (best + 1 < n) {
            ranks[best] = rank_of(m, ids[best], ids[best + 1]);
        }
        if (best > 0) {
            ranks[best - 1] = rank_of(m, ids[best - 1], ids[best]);
        }
    }
}

static void check(const model *m, const int *letters, int n)
{
    static char word[MAX_SYMBOLS * FM_UNICODE_UTF8_BYTES];
    static int32_t expected[MAX_SYMBOLS];
    size_t size_bytes = 0;
    for (int i = 0; i < n; i++) {
        size_bytes += put_letter(word + size_bytes, letters[i]);
        expected[i] = letters[i];
    }
    const int n_expected = merge_plainly(m, expected, n);
    fm_bytes ids = { 0 };
    fm_bpe_scratch scratch = { 0 };
    assert_int_equal(fm_bpe_encode(&ids, m->bpe, word, size_bytes, &scratch), FM_OK);
    assert_int_equal(ids.size_bytes / sizeof(int32_t), n_expected);
    assert_memory_equal(ids.bytes, expected, (size_t)n_expected * sizeof *expected);
    fm_bytes_free(&ids);
    fm_bpe_scratch_free(&scratch);
}

static const fm_bpe_options plain = { 0 };

/* Few letters and random merges of random tokens: borders that look right in a small window are often wrong. */
static void long_words_follow_the_rule(void **state)
{
    srand(5);
    for (int round = 0; round < 60; round++) {
        const int n_letters = 2 + rand() % 5, n_merges = 5 + rand() % 60;
        model *const m = new_model(n_letters);
        for (int i = 0; i < n_merges; i++) {
            const int limit = fm_bpe_id_limit(m->bpe);
            add_merge(m, rand() % limit, rand() % limit);
        }
        assert_int_equal(fm_bpe_finish(m->bpe, &plain), FM_OK);
        static int letters[MAX_SYMBOLS];
        const int n = 1 + rand() % 2500, period = 1 + rand() % 40;
        for (int i = 0; i < n; i++) {
            letters[i] = i < period || round % 3 == 0 ? rand() % n_letters : letters[i - period];
        }
        check(m, letters, n);
        destroy_model(m);
    }
}

/* Ranks fall to the right, so that the far end of the word decides about its beginning: only the whole word is enough. */
static void the_far_end_may_decide(void **state)
{
    enum { N_LETTERS = 2301 };
    model *const m = new_model(N_LETTERS);
    static int letters[N_LETTERS];
    for (int i = N_LETTERS - 2; i >= 0; i--) {
        add_merge(m, i, i + 1);
    }
    for (int i = 0; i < N_LETTERS; i++) {
        letters[i] = i;
    }
    assert_int_equal(fm_bpe_finish(m->bpe, &plain), FM_OK);
    for (int n = N_LETTERS - 3; n <= N_LETTERS; n++) {
        check(m, letters, n);
    }
    destroy_model(m);
}

/* One token longer than the first windows. */
static void a_token_may_fill_a_window(void **state)
{
    model *const m = new_model(2);
    static int letters[MAX_SYMBOLS];
    for (int32_t id = 0, i = 0; i < 11; i++) {
        add_merge(m, id, id);
        id = m->merges[m->n_merges - 1].whole;
    }
    assert_int_equal(fm_bpe_finish(m->bpe, &plain), FM_OK);
    check(m, letters, 3000);
    check(m, letters, 2048);
    letters[2500] = 1;
    check(m, letters, 3000);
    destroy_model(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_words_follow_the_rule),
        cmocka_unit_test(the_far_end_may_decide),
        cmocka_unit_test(a_token_may_fill_a_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
