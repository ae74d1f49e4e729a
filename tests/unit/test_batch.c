/* Batches: padding, the shift of the labels, the cut over context-parallel ranks, and counts that no mesh changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "data/batch.h"
#include "data/sample.h"

enum { SAMPLES = 30, SEQ_LENGTH = 12, VOCABULARY = 1000 };

static char dir[] = "/tmp/fm-batch-XXXXXX";

/* Sample s has s % 15 + 1 tokens, 30 s + t each; every third has labels, of which every second is ignored. */
static fm_dataset *make_dataset(void)
{
    char text[16384] = "", path[FM_PATH_BYTES];
    for (int s = 0; s < SAMPLES; s++) {
        const int n = s % 15 + 1;
        sprintf(text + strlen(text), "{\"input_ids\": [");
        for (int t = 0; t < n; t++) {
            sprintf(text + strlen(text), "%s%d", t > 0 ? ", " : "", 30 * s + t);
        }
        sprintf(text + strlen(text), "]");
        for (int t = 0; s % 3 == 0 && t < n; t++) {
            sprintf(text + strlen(text), "%s%d", t > 0 ? ", " : ", \"labels\": [", t % 2 == 0 ? -100 : 30 * s + t);
        }
        sprintf(text + strlen(text), s % 3 == 0 ? "]}\n" : "}\n");
    }
    assert_int_equal(fm_path_join(path, dir, "data.jsonl"), FM_OK);
    assert_int_equal(fm_file_replace(path, text, strlen(text)), FM_OK);
    char none[] = "";
    const fm_data_options options = { .format = FM_FORMAT_TOKENS, .question_column = none, .context_column = none,
                                      .answer_column = none, .seq_length = SEQ_LENGTH };
    const fm_dataset_spec spec = { .files = path, .options = &options, .vocab_size = VOCABULARY };
    fm_dataset *dataset;
    assert_int_equal(fm_dataset_open(&dataset, &spec, NULL), FM_OK);
    assert_int_equal(fm_dataset_samples(dataset), SAMPLES);
    return dataset;
}

static int64_t tokens_of(int64_t sample)
{
    return sample < 0 ? 0 : sample % 15 + 1 < SEQ_LENGTH ? sample % 15 + 1 : SEQ_LENGTH;
}

/* What the label of place t of a sample is after the shift. */
static int32_t label_of(int64_t sample, int64_t t)
{
    if (t + 1 >= tokens_of(sample) || (sample % 3 == 0 && (t + 1) % 2 == 0)) {
        return FM_LABEL_IGNORED;
    }
    return (int32_t)(30 * sample + t + 1);
}

static void rows_are_padded_and_shifted(void **state)
{
    fm_dataset *dataset = make_dataset();
    fm_batch batch = { 0 };
    static const int64_t chosen[][4] = { { 3, 0, -1, 6 }, { 29, 14, 0, 1 }, { -1, -1, -1, -1 }, { 10, 11, 12, 13 } };
    for (size_t i = 0; i < sizeof chosen / sizeof chosen[0]; i++) {
        for (int64_t multiple = 1; multiple <= 8; multiple++) {
            assert_int_equal(fm_batch_fill(&batch, dataset, chosen[i], 4, multiple), FM_OK);
            int64_t longest = 0, tokens = 0, label_tokens = 0;
            for (int64_t b = 0; b < 4; b++) {
                longest = tokens_of(chosen[i][b]) > longest ? tokens_of(chosen[i][b]) : longest;
            }
            assert_int_equal(batch.longest, longest);
            assert_true(batch.T % multiple == 0 && batch.T >= longest && batch.T - (longest > 0 ? longest : 1) < multiple);
            for (int64_t p = 0; p < 4 * batch.T; p++) {
                const int64_t sample = chosen[i][p / batch.T], t = p % batch.T;
                const bool inside = t < tokens_of(sample);
                const int32_t label = inside ? label_of(sample, t) : FM_LABEL_IGNORED;
                assert_int_equal(batch.ids[p], inside ? 30 * sample + t : 0);
                assert_int_equal(batch.labels[p], label);
                assert_int_equal(batch.positions[p], t);
                assert_int_equal(batch.documents[p], inside ? 0 : -1);
                tokens += inside;
                label_tokens += label != FM_LABEL_IGNORED;
            }
            assert_int_equal(batch.tokens, tokens);
            assert_int_equal(batch.label_tokens, label_tokens);
        }
    }
    fm_batch_clear(&batch);
    fm_dataset_close(dataset);
}

static void cuts_tile_a_batch(void **state)
{
    fm_dataset *dataset = make_dataset();
    fm_batch whole = { 0 }, part = { 0 };
    static const int64_t chosen[] = { 4, 29, 9 };
    for (int cp = 1; cp <= 4; cp++) {
        assert_int_equal(fm_batch_fill(&whole, dataset, chosen, 3, 2 * cp), FM_OK);
        const int64_t chunk = whole.T / (2 * cp);
        int64_t tokens = 0, label_tokens = 0;
        for (int rank = 0; rank < cp; rank++) {
            assert_int_equal(fm_batch_cut(&part, &whole, cp, rank), FM_OK);
            assert_int_equal(part.T, 2 * chunk);
            assert_int_equal(part.longest, whole.longest);
            for (int64_t b = 0; b < 3; b++) {
                for (int64_t t = 0; t < part.T; t++) {
                    const int64_t at = b * whole.T + t % chunk + chunk * (t < chunk ? rank : 2 * cp - 1 - rank);
                    const int64_t p = b * part.T + t;
                    assert_int_equal(part.ids[p], whole.ids[at]);
                    assert_int_equal(part.labels[p], whole.labels[at]);
                    assert_int_equal(part.positions[p], whole.positions[at]);
                    assert_int_equal(part.documents[p], whole.documents[at]);
                }
            }
            tokens += part.tokens;
            label_tokens += part.label_tokens;
        }
        assert_int_equal(tokens, whole.tokens);
        assert_int_equal(label_tokens, whole.label_tokens);
    }
    fm_batch_clear(&whole);
    fm_batch_clear(&part);
    fm_dataset_close(dataset);
}

/* The counts of a step, from the index alone, are those of its microbatches on every mesh. */
static void a_step_counts_what_its_microbatches_hold(void **state)
{
    fm_dataset *dataset = make_dataset();
    fm_order orders[3];
    assert_int_equal(fm_order_train(&orders[0], SAMPLES, 12, 1, true), FM_OK);
    assert_int_equal(fm_order_train(&orders[1], SAMPLES, 12, 1, false), FM_OK);
    orders[2] = fm_order_pass(SAMPLES, 12);
    fm_batch batch = { 0 };
    for (int which = 0; which < 3; which++) {
        for (int64_t step = 1; step <= 3; step++) {
            int64_t label_tokens, tokens;
            assert_int_equal(fm_batch_count(&label_tokens, &tokens, &orders[which], dataset, step), FM_OK);
            for (int dp = 1; dp <= 3; dp++) {
                int64_t label_sum = 0, token_sum = 0;
                for (int64_t i = 0; i < 12 / 2; i++) { /* (rank, microbatch of 2) */
                    int64_t samples[2];
                    const int64_t microbatches = 12 / dp / 2;
                    fm_order_microbatch(samples, &orders[which], step, i % microbatches, 2, (int)(i / microbatches), dp);
                    assert_int_equal(fm_batch_fill(&batch, dataset, samples, 2, 1), FM_OK);
                    label_sum += batch.label_tokens;
                    token_sum += batch.tokens;
                }
                assert_int_equal(label_sum, label_tokens);
                assert_int_equal(token_sum, tokens);
            }
        }
    }
    fm_batch_clear(&batch);
    fm_dataset_close(dataset);
}

static void padding_is_a_share(void **state)
{
    fm_dataset *dataset = make_dataset();
    fm_order order;
    assert_int_equal(fm_order_train(&order, SAMPLES, 15, 1, false), FM_OK);
    double share;
    assert_int_equal(fm_batch_padding(&share, &order, dataset, 1, 1000), FM_OK);
    assert_true(share == 0);
    /* 15 samples of 1 .. 11, then four of 12 tokens: 114 of 15 * 12 */
    assert_int_equal(fm_batch_padding(&share, &order, dataset, 15, 1000), FM_OK);
    assert_true(share > 1 - 114 / 180.0 - 1e-12 && share < 1 - 114 / 180.0 + 1e-12);
    fm_dataset_close(dataset);
}

static int make_dir(void **state)
{
    return mkdtemp(dir) == NULL;
}

static int remove_dir(void **state)
{
    return fm_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_padded_and_shifted),
        cmocka_unit_test(cuts_tile_a_batch),
        cmocka_unit_test(a_step_counts_what_its_microbatches_hold),
        cmocka_unit_test(padding_is_a_share),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
