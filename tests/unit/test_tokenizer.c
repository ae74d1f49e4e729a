/* Small tokenizers with real ones' components, against what transformers made of a hostile corpus
 * (tests/oracle/make_tokenizers.py); files that are no tokenizers; time on long runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "finemesh/tokenizer.h"

enum { LINE_LIMIT = 1 << 20 };

static void data_path(char out[FM_PATH_BYTES], const char *name, const char *file)
{
    const char *const srcdir = getenv("srcdir");
    snprintf(out, FM_PATH_BYTES, "%s/tests/unit/data/tokenizer/%s%s%s", srcdir != NULL ? srcdir : ".", name,
             file[0] != '\0' ? "/" : "", file);
}

static fm_tokenizer *open_data(const char *name)
{
    char path[FM_PATH_BYTES];
    data_path(path, name, "");
    fm_tokenizer *tokenizer;
    if (fm_tokenizer_open(&tokenizer, path) < 0) {
        fail_msg("%s", fm_error_message());
    }
    return tokenizer;
}

static FILE *open_lines(const char *name, const char *file)
{
    char path[FM_PATH_BYTES];
    data_path(path, name, file);
    FILE *const lines = fopen(path, "r");
    assert_non_null(lines);
    return lines;
}

/* The next line as JSON, or NULL. */
static json_t *next_line(FILE *lines)
{
    static char line[LINE_LIMIT];
    if (fgets(line, sizeof line, lines) == NULL) {
        return NULL;
    }
    json_t *value;
    assert_int_equal(fm_json_parse(&value, line, strlen(line), "test data"), FM_OK);
    return value;
}

static void check_ids(const char *name, int line, const json_t *expected, size_t first, const int32_t *ids, int64_t n_ids)
{
    if (n_ids != (int64_t)(json_array_size(expected) - first)) {
        fail_msg("%s, text %d: %d ids, %d expected", name, line, (int)n_ids, (int)(json_array_size(expected) - first));
    }
    for (int64_t i = 0; i < n_ids; i++) {
        const json_int_t wanted = json_integer_value(json_array_get(expected, first + (size_t)i));
        if (wanted != ids[i]) {
            fail_msg("%s, text %d: id %d is %d, %d expected", name, line, (int)i, (int)ids[i], (int)wanted);
        }
    }
}

static void check_text(const char *name, int line, const fm_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids, bool skips,
                       const json_t *expected)
{
    char *text;
    size_t size_bytes;
    assert_int_equal(fm_tokenizer_decode(&text, &size_bytes, tokenizer, ids, n_ids, skips), FM_OK);
    const char *const wanted = expected == NULL ? "" : json_string_value(expected);
    const size_t wanted_bytes = expected == NULL ? 0 : json_string_length(expected);
    if (size_bytes != wanted_bytes || memcmp(text, wanted, size_bytes) != 0) {
        fail_msg("%s, text %d, decoded: \"%s\", \"%s\" expected", name, line, text, wanted);
    }
    fm_tokenizer_free(text);
}

/* One line of the corpus both ways, with and without what is added. */
static void check_line(const char *name, int line, const fm_tokenizer *tokenizer, const json_t *text, const json_t *expected)
{
    const json_t *const wanted = json_object_get(expected, "ids");
    const json_t *const shown = json_object_get(expected, "shown");
    const size_t begins = (size_t)json_integer_value(json_object_get(expected, "begins"));
    const char *const bytes = json_string_value(text);
    const size_t size_bytes = json_string_length(text);
    int32_t *ids;
    int64_t n_ids;
    assert_int_equal(fm_tokenizer_encode(&ids, &n_ids, tokenizer, bytes, size_bytes, false), FM_OK);
    check_ids(name, line, wanted, begins, ids, n_ids);
    fm_tokenizer_free(ids);
    assert_int_equal(fm_tokenizer_encode(&ids, &n_ids, tokenizer, bytes, size_bytes, true), FM_OK);
    check_ids(name, line, wanted, 0, ids, n_ids);
    check_text(name, line, tokenizer, ids, n_ids, false, json_object_get(expected, "text"));
    check_text(name, line, tokenizer, ids, n_ids, true, shown != NULL ? shown : json_object_get(expected, "text"));
    fm_tokenizer_free(ids);
}

static void check_corpus(const char *name)
{
    fm_tokenizer *const tokenizer = open_data(name);
    FILE *const corpus = open_lines("", "corpus.jsonl"), *const answers = open_lines(name, "expected.jsonl");
    int n_lines = 0;
    for (json_t *line; (line = next_line(corpus)) != NULL; n_lines++) {
        json_t *const expected = next_line(answers);
        assert_non_null(expected);
        check_line(name, n_lines, tokenizer, json_object_get(line, "text"), expected);
        json_decref(line);
        json_decref(expected);
    }
    assert_true(n_lines > 30);
    fclose(corpus);
    fclose(answers);
    fm_tokenizer_destroy(tokenizer);
}

static void texts_become_what_transformers_makes_of_them(void **state)
{
    static const char *const names[] = { "gpt2", "llama2", "mistral", "qwen3", "llama3", "odd", "metaspace" };
    const size_t before = fm_memory_used_bytes(FM_MEMORY_KINDS);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        check_corpus(names[i]);
    }
    assert_int_equal(fm_memory_used_bytes(FM_MEMORY_KINDS), before);
}

static void special_ids_are_known(void **state)
{
    fm_tokenizer *tokenizer = open_data("llama2");
    assert_int_equal(fm_tokenizer_bos_id(tokenizer), 1);
    assert_int_equal(fm_tokenizer_eos_id(tokenizer), 2);
    assert_int_equal(fm_tokenizer_vocab_size(tokenizer), 420);
    assert_int_equal(fm_tokenizer_token_id(tokenizer, "<0x00>"), 3);
    assert_int_equal(fm_tokenizer_token_id(tokenizer, "no such token"), -1);
    fm_tokenizer_destroy(tokenizer);
    tokenizer = open_data("metaspace");
    assert_int_equal(fm_tokenizer_eos_id(tokenizer), -1);
    fm_tokenizer_destroy(tokenizer);
}

static void text_that_is_not_utf8_is_refused(void **state)
{
    static const struct {
        const char *text, *place;
    } cases[] = { { "abc\xff", "byte 3" }, { "\xc0\x80", "byte 0" }, { "x\xed\xa0\x80", "byte 1" },
                  { "0123456789\xe4\xb8", "byte 10" }, { "\xf4\x90\x80\x80", "byte 0" }, { "a\x80", "byte 1" } };
    fm_tokenizer *const tokenizer = open_data("gpt2");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t *ids;
        int64_t n_ids;
        assert_int_equal(fm_tokenizer_encode(&ids, &n_ids, tokenizer, cases[i].text, strlen(cases[i].text), true), FM_ERR_FORMAT);
        assert_non_null(strstr(fm_error_message(), cases[i].place));
        assert_null(ids);
    }
    char *text;
    size_t size_bytes;
    assert_int_equal(fm_tokenizer_decode(&text, &size_bytes, tokenizer, (const int32_t[]){ 1, -1 }, 2, false), FM_ERR_FORMAT);
    assert_int_equal(fm_tokenizer_decode(&text, &size_bytes, tokenizer, (const int32_t[]){ 1000000 }, 1, false), FM_OK);
    assert_int_equal(size_bytes, 0);
    fm_tokenizer_free(text);
    fm_tokenizer_destroy(tokenizer);
}

/* A tokenizer.json around one part; %s in the others' places is the smallest that works. */
static int try_file(const char *model, const char *rest, const char *config)
{
    char text[2048];
    snprintf(text, sizeof text, "{\"model\": %s%s%s}", model, rest[0] != '\0' ? ", " : "", rest);
    const size_t config_bytes = config != NULL ? strlen(config) : 0;
    fm_tokenizer_texts texts = { .text = { text, (char *)config }, .size_bytes = { strlen(text), config_bytes } };
    fm_tokenizer *tokenizer;
    const int rc = fm_tokenizer_new(&tokenizer, &texts, "dir");
    assert_true(rc < 0 ? tokenizer == NULL : tokenizer != NULL);
    fm_tokenizer_destroy(tokenizer);
    return rc;
}

static void files_that_are_no_tokenizers_are_refused(void **state)
{
    static const char good[] = "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}";
    static const struct {
        const char *model, *rest, *config;
        int code;
        const char *says;
    } cases[] = {
        { good, "", NULL, FM_OK, "" },
        { "{\"type\": \"Unigram\", \"vocab\": {}, \"merges\": []}", "", NULL, FM_ERR_UNSUPPORTED, "Unigram" },
        { "{\"vocab\": {\"a\": 0}}", "", NULL, FM_ERR_FORMAT, "merges" },
        { "{\"vocab\": {\"a\": -1}, \"merges\": []}", "", NULL, FM_ERR_FORMAT, "id" },
        { "{\"vocab\": {\"a\": 99999999999}, \"merges\": []}", "", NULL, FM_ERR_FORMAT, "id" },
        { "{\"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []}", "", NULL, FM_ERR_FORMAT, "twice" },
        { "{\"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}", "", NULL, FM_ERR_FORMAT, "twice" },
        { "{\"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}", "", NULL, FM_ERR_FORMAT, "\"b\"" },
        { "{\"vocab\": {\"a\": 0}, \"merges\": [\"a\"]}", "", NULL, FM_ERR_FORMAT, "one space" },
        { "{\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}", "", NULL, FM_ERR_FORMAT, "comma" },
        { "{\"vocab\": {\"\\ud800\": 0}, \"merges\": []}", "", NULL, FM_ERR_FORMAT, "surrogates" },
        { "{\"vocab\": {\"\\udc00\\udc00\": 0}, \"merges\": []}", "", NULL, FM_ERR_FORMAT, "surrogates" },
        { "{\"vocab\": {\"a\": 0, \"merges\": []}", "", NULL, FM_ERR_FORMAT, "line 1" },
        { "{\"vocab\": {\"a\": 0}, \"merges\": []", "", NULL, FM_ERR_FORMAT, "line 1" },
        { "{\"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"x\"}", "", NULL, FM_ERR_FORMAT, "unk_token" },
        { "{\"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.5}", "", NULL, FM_ERR_UNSUPPORTED, "dropout" },
        { good, "\"normalizer\": {\"type\": \"Precompiled\"}", NULL, FM_ERR_UNSUPPORTED, "Precompiled" },
        { good, "\"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}", NULL, FM_ERR_UNSUPPORTED, "these are: Sequence, Split" },
        { good, "\"decoder\": {\"type\": \"WordPiece\"}", NULL, FM_ERR_UNSUPPORTED, "WordPiece" },
        { good, "\"post_processor\": {\"type\": \"BertProcessing\"}", NULL, FM_ERR_UNSUPPORTED, "BertProcessing" },
        { good, "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []}", NULL, FM_ERR_FORMAT, "Sequence" },
        { good, "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?<=a)b\"}}", NULL, FM_ERR_UNSUPPORTED,
          "(?<=" },
        { good, "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a\"}}", NULL, FM_ERR_FORMAT, "unclosed [" },
        { good, "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a*)*\"}}", NULL, FM_ERR_UNSUPPORTED,
          "empty" },
        { good, "\"pre_tokenizer\": {\"type\": \"Split\"}", NULL, FM_ERR_FORMAT, "pattern" },
        { good, "\"added_tokens\": [{\"id\": 1}]", NULL, FM_ERR_FORMAT, "content" },
        { good, "", "{\"tokenizer_class\": \"CohereTokenizer\"}", FM_ERR_UNSUPPORTED, "CohereTokenizer" },
        { good, "", "[]", FM_ERR_FORMAT, "tokenizer_config.json" },
        { good, "\"model\": 1", NULL, FM_ERR_FORMAT, "uplicate" },
    };
    const size_t before = fm_memory_used_bytes(FM_MEMORY_KINDS);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int rc = try_file(cases[i].model, cases[i].rest, cases[i].config);
        if (rc != cases[i].code || (rc < 0 && strstr(fm_error_message(), cases[i].says) == NULL)) {
            fail_msg("case %d: code %d, \"%s\"; expected %d, \"%s\"", (int)i, rc, fm_error_message(), cases[i].code,
                     cases[i].says);
        }
    }
    assert_int_equal(fm_memory_used_bytes(FM_MEMORY_KINDS), before);
}

/* A regular expression with as many ways through a text as there are subsets of its letters. */
static void endless_expressions_are_given_up(void **state)
{
    char text[] = "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, \"pre_tokenizer\": "
                  "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a|a)*b\"}, \"behavior\": \"Isolated\"}, "
                  "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}, "
                  "{\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"x\": {\"ids\": [77]}}}}";
    const fm_tokenizer_texts texts = { .text = { text }, .size_bytes = { sizeof text - 1 } };
    fm_tokenizer *tokenizer;
    int32_t *ids;
    int64_t n;
    char many[61];
    memset(many, 'a', sizeof many);
    assert_int_equal(fm_tokenizer_new(&tokenizer, &texts, "dir"), FM_OK);
    assert_int_equal(fm_tokenizer_encode(&ids, &n, tokenizer, many, sizeof many, true), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "attempts"));
    assert_int_equal(fm_tokenizer_encode(&ids, &n, tokenizer, "aab", 2, true), FM_OK);
    assert_int_equal(n, 3);
    assert_int_equal(ids[0], 77);
    assert_int_equal(fm_tokenizer_vocab_size(tokenizer), 78);      /* what the template adds is an id too */
    fm_tokenizer_free(ids);
    fm_tokenizer_destroy(tokenizer);
}

/* Any cut of a good file is an error and leaves no memory behind. */
static void cut_files_are_refused(void **state)
{
    char path[FM_PATH_BYTES];
    data_path(path, "qwen3", "");
    fm_tokenizer_texts texts;
    assert_int_equal(fm_tokenizer_texts_read(&texts, path), FM_OK);
    const size_t before = fm_memory_used_bytes(FM_MEMORY_KINDS);
    fm_tokenizer *tokenizer;
    const size_t whole = texts.size_bytes[FM_TOKENIZER_JSON] - 2;        /* the last brace and a newline */
    for (size_t size_bytes = 0; size_bytes <= whole; size_bytes += size_bytes < 900 ? 1 : 37) {
        texts.size_bytes[FM_TOKENIZER_JSON] = size_bytes;
        assert_true(fm_tokenizer_new(&tokenizer, &texts, "dir") < 0);
        assert_int_equal(fm_memory_used_bytes(FM_MEMORY_KINDS), before);
    }
    fm_tokenizer_texts_free(&texts);
}

/* When memory runs out at any place, the error says so and nothing is lost. */
static void failed_allocations_are_survived(void **state)
{
    char path[FM_PATH_BYTES];
    data_path(path, "odd", "");
    const size_t before = fm_memory_used_bytes(FM_MEMORY_KINDS);
    static const char text[] = "E\xcc\x81TOK the <wide> 123 foo_bar";
    int rc = FM_ERR_MEMORY;
    for (int64_t n = 1; rc < 0; n++) {
        fm_tokenizer *tokenizer;
        int32_t *ids = NULL;
        int64_t n_ids;
        fm_memory_fail_at(n);
        rc = fm_tokenizer_open(&tokenizer, path);
        if (rc == FM_OK) {
            rc = fm_tokenizer_encode(&ids, &n_ids, tokenizer, text, sizeof text - 1, true);
        }
        fm_tokenizer_free(ids);
        fm_tokenizer_destroy(tokenizer);
        if (rc != FM_OK && rc != FM_ERR_MEMORY) {
            fm_memory_fail_at(0);
            fail_msg("allocation %d: code %d, %s", (int)n, rc, fm_error_message());
        }
        assert_int_equal(fm_memory_used_bytes(FM_MEMORY_KINDS), before);
        assert_true(n < 10000);
    }
    fm_memory_fail_at(0);
}

static double seconds_for(const fm_tokenizer *tokenizer, const char *text, size_t size_bytes)
{
    double best = 1e9;
    for (int i = 0; i < 4; i++) {
        int32_t *ids;
        int64_t n_ids;
        struct timespec from, to;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
        assert_int_equal(fm_tokenizer_encode(&ids, &n_ids, tokenizer, text, size_bytes, true), FM_OK);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
        const double seconds = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
        best = seconds < best ? seconds : best;
        fm_tokenizer_free(ids);
    }
    return best;
}

/* Eight times the text may take twenty times as long (the machine is shared, so one of six attempts suffices); anything quadratic takes sixty-four. (Not "odd":
 * its regular expression is quadratic by itself where a run matches up to a lookahead that fails.) */
static void time_grows_with_the_text(void **state)
{
    static const char *const units[] = { "a", " ", "\xcc\x96\xcc\x81", "\xe4\xb8\xad\xe6\x96\x87", "qzjx", "\n", "<|end",
                                         "the " };
    static const char *const names[] = { "gpt2", "llama2", "mistral", "qwen3", "llama3", "metaspace" };
    enum { SMALL = 1 << 15, LARGE = 8 * SMALL };
    char *const text = fm_alloc(LARGE + 16, FM_MEMORY_HOST);
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        fm_tokenizer *const tokenizer = open_data(names[n]);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            const size_t unit_bytes = strlen(units[u]);
            for (size_t i = 0; i < LARGE; i += unit_bytes) {
                memcpy(text + i, units[u], unit_bytes);
            }
            double small = 0.0, large = 1.0;
            for (int attempt = 0; attempt < 6 && large > 20 * small + 0.005; attempt++) {
                small = seconds_for(tokenizer, text, SMALL / unit_bytes * unit_bytes);
                large = seconds_for(tokenizer, text, LARGE / unit_bytes * unit_bytes);
            }
            if (large > 20 * small + 0.005) {
                fail_msg("%s, runs of \"%s\": %g s, and %g s for 8 times as much", names[n], units[u], small, large);
            }
        }
        fm_tokenizer_destroy(tokenizer);
    }
    fm_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_become_what_transformers_makes_of_them),
        cmocka_unit_test(special_ids_are_known),
        cmocka_unit_test(text_that_is_not_utf8_is_refused),
        cmocka_unit_test(files_that_are_no_tokenizers_are_refused),
        cmocka_unit_test(endless_expressions_are_given_up),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(failed_allocations_are_survived),
        cmocka_unit_test(time_grows_with_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
