/* Data files: lines, the quick scanner against the JSON parser, what is refused, the index and its cache. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/crc.h"
#include "base/json.h"
#include "base/memory.h"
#include "data/dataset.h"
#include "data/files.h"
#include "data/sample.h"
#include "data/token_line.h"

static char dir[] = "/tmp/fm-dataset-XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[4][FM_PATH_BYTES];
    static int turn;
    turn = (turn + 1) % 4;
    assert_int_equal(fm_path_join(path[turn], dir, name), FM_OK);
    return path[turn];
}

static const char *write_file(const char *name, const char *text)
{
    const char *path = in_dir(name);
    assert_int_equal(fm_file_replace(path, text, strlen(text)), FM_OK);
    return path;
}

static fm_data_options options_of(int64_t seq_length)
{
    static char question[] = "question", context[] = "context", answer[] = "answer";
    return (fm_data_options){ .format = FM_FORMAT_AUTO, .question_column = question, .context_column = context,
                              .answer_column = answer, .seq_length = seq_length, .mask_prompt = true };
}

static int open_tokens(fm_dataset **out, const char *files, int64_t seq_length, const char *cache_path)
{
    const fm_data_options options = options_of(seq_length);
    const fm_dataset_spec spec = { .files = files, .options = &options, .vocab_size = 100, .cache_path = cache_path };
    return fm_dataset_open(out, &spec, NULL);
}

static void assert_sample(const fm_dataset *dataset, int64_t sample, int64_t tokens, const int32_t *ids, const int32_t *labels)
{
    int32_t got_ids[16], got_labels[16];
    fm_sample_info info;
    assert_int_equal(fm_dataset_info(&info, dataset, sample), FM_OK);
    assert_int_equal(info.tokens, tokens);
    assert_int_equal(fm_dataset_read(got_ids, got_labels, dataset, sample), FM_OK);
    assert_memory_equal(got_ids, ids, (size_t)tokens * sizeof *ids);
    assert_memory_equal(got_labels, labels, (size_t)tokens * sizeof *labels);
}

/* Every split of a file into two and three ranges gives each line once. */
static void ranges_share_the_lines(void **state)
{
    static const char text[] = "one\n\n two\r\nthree three three\n \nfour";
    const char *path = write_file("lines", text);
    const int64_t size_bytes = (int64_t)sizeof text - 1;
    fm_file_identity identity;
    assert_int_equal(fm_file_stat(&identity, path), FM_OK);
    for (int64_t a = 0; a <= size_bytes; a++) {
        for (int64_t b = a; b <= size_bytes; b++) {
            const int64_t cuts[] = { 0, a, b, size_bytes };
            char joined[64] = "";
            int64_t covered = 0;
            for (int part = 0; part < 3; part++) {
                fm_lines *lines;
                const char *line;
                size_t line_bytes;
                int64_t at;
                int rc;
                assert_int_equal(fm_lines_open(&lines, path, &identity, cuts[part], cuts[part + 1]), FM_OK);
                while ((rc = fm_lines_next(lines, &line, &line_bytes, &at)) > 0) {
                    assert_memory_equal(line, text + at, line_bytes);
                    assert_true(at >= cuts[part] && at < cuts[part + 1]);
                    strncat(joined, line, line_bytes);
                    strcat(joined, "|");
                }
                assert_int_equal(rc, 0);
                int64_t part_bytes;
                uint32_t crc;
                fm_lines_crc(lines, &part_bytes, &crc);
                assert_int_equal(crc, fm_crc32(0, text + covered, (size_t)part_bytes));
                covered += part_bytes;
                fm_lines_close(lines);
            }
            assert_string_equal(joined, "one| two\r|three three three|four|");
            assert_int_equal(covered, size_bytes);
        }
    }
    int64_t number;
    assert_int_equal(fm_lines_number(&number, path, 11), FM_OK);
    assert_int_equal(number, 4);
}

/* A line longer than the reading buffer, and one over the limit. */
static void long_lines_have_a_limit(void **state)
{
    const size_t limit = FM_LINE_LIMIT_BYTES;
    char *text = fm_alloc(limit + 16, FM_MEMORY_HOST);
    assert_non_null(text);
    memset(text, 'x', limit + 16);
    memcpy(text, "a\n", 2);
    for (int over = 0; over < 2; over++) {
        const size_t size_bytes = 2 + limit + (size_t)over;
        assert_int_equal(fm_file_replace(in_dir("long"), text, size_bytes), FM_OK);
        fm_file_identity identity;
        fm_lines *lines;
        const char *line;
        size_t line_bytes;
        int64_t at;
        assert_int_equal(fm_file_stat(&identity, in_dir("long")), FM_OK);
        assert_int_equal(fm_lines_open(&lines, in_dir("long"), &identity, 0, (int64_t)size_bytes), FM_OK);
        assert_int_equal(fm_lines_next(lines, &line, &line_bytes, &at), 1);
        assert_int_equal(fm_lines_next(lines, &line, &line_bytes, &at), over ? FM_ERR_FORMAT : 1);
        assert_true(over || line_bytes == limit);
        assert_true(!over || strstr(fm_error_message(), "long:2: the line is longer than 16 MiB") != NULL);
        fm_lines_close(lines);
    }
    fm_free(text);
}

/* What the scanner takes, the JSON parser reads the same. Lines are made from pieces, right and wrong. */
static void scanner_agrees_with_the_parser(void **state)
{
    static const char *const pieces[] = {
        "{", "}", "[", "]", ",", ":", " ", "\t", "\"input_ids\"", "\"labels\"", "\"attention_mask\"", "0", "7", "-100", "12345", "01",
        "-0", "1.5", "1e2", "123456789", "1234567890", "null", "\"x\"", "\\", "-", "\"input_ids\": [1, 2]", "\"labels\": [-100, 3]",
        "{\"input_ids\": [", "]}", "}]", ", \"labels\":[", ",\"attention_mask\": []",
    };
    const size_t n_pieces = sizeof pieces / sizeof pieces[0];
    srand(1);
    int taken = 0;
    for (int trial = 0; trial < 300000; trial++) {
        char line[512] = "";
        if (trial % 2 == 0) {
            strcpy(line, "{\"input_ids\": [");
        }
        for (int n = rand() % 9; n > 0; n--) {
            strcat(line, pieces[(size_t)rand() % n_pieces]);
        }
        if (trial % 4 == 0) {
            strcat(line, "]}");
        }
        int32_t ids[260], labels[260];
        int64_t n_ids, n_labels;
        if (!fm_token_line_scan(ids, &n_ids, labels, &n_labels, line, strlen(line))) {
            continue;
        }
        taken++;
        json_t *object;
        assert_int_equal(fm_json_parse(&object, line, strlen(line), line), FM_OK);
        const json_t *array = json_object_get(object, "input_ids");
        assert_int_equal(n_ids, json_array_size(array));
        for (int64_t i = 0; i < n_ids; i++) {
            assert_int_equal(ids[i], json_integer_value(json_array_get(array, (size_t)i)));
        }
        array = json_object_get(object, "labels");
        assert_int_equal(n_labels, array == NULL ? -1 : (int64_t)json_array_size(array));
        for (int64_t i = 0; i < n_labels; i++) {
            assert_int_equal(labels[i], json_integer_value(json_array_get(array, (size_t)i)));
        }
        json_decref(object);
    }
    assert_true(taken > 1000);
    int32_t ids[64];
    int64_t n;
    const char *const plain = " {\"input_ids\" : [1 , 2,3 ],\"labels\":[4,-100,6], \"attention_mask\":[1,1,1] } \r";
    assert_true(fm_token_line_scan(ids, &n, ids + 32, &n, plain, strlen(plain)));
}

static void tokens_are_cut_and_counted(void **state)
{
    const char *path = write_file("tokens.jsonl",
        "{\"input_ids\": [1, 2, 3]}\n"
        "\n"
        "  \r\n"
        "{\"labels\": [-100, 5, -100, 7, 8], \"input_ids\": [4, 5, 6, 7, 8], \"attention_mask\": [1, 1, 1, 1, 1]}\r\n"
        "{\"input_ids\": [9], \"labels\": null, \"extra\": {\"deep\": [\"\\u00e9\"]}}\n"
        "{\"input_ids\": [1, 2], \"labels\": [3, -100]}"); /* no newline at the end */
    fm_dataset *dataset;
    assert_int_equal(open_tokens(&dataset, path, 4, NULL), FM_OK);
    fm_dataset_summary summary;
    fm_dataset_summarize(&summary, dataset);
    assert_int_equal(summary.format, FM_FORMAT_TOKENS);
    assert_int_equal(summary.samples, 4);
    assert_int_equal(summary.cut_samples, 1);
    assert_int_equal(summary.tokens, 3 + 4 + 1 + 2);
    assert_int_equal(summary.label_tokens, 2 + 2 + 0 + 0);
    assert_int_equal(summary.longest, 4);
    assert_false(summary.from_cache);
    assert_sample(dataset, 0, 3, (const int32_t[]){ 1, 2, 3 }, (const int32_t[]){ 1, 2, 3 });
    assert_sample(dataset, 1, 4, (const int32_t[]){ 4, 5, 6, 7 }, (const int32_t[]){ -100, 5, -100, 7 });
    assert_sample(dataset, 2, 1, (const int32_t[]){ 9 }, (const int32_t[]){ 9 });
    assert_sample(dataset, 3, 2, (const int32_t[]){ 1, 2 }, (const int32_t[]){ 3, -100 });
    fm_sample_info info;
    assert_int_equal(fm_dataset_info(&info, dataset, 1), FM_OK);
    assert_int_equal(info.label_tokens, 2);
    assert_int_equal(info.line_at, 30);
    int64_t size_bytes, mtime_ns;
    uint32_t crc;
    char *text;
    size_t text_bytes;
    assert_int_equal(fm_file_read(&text, &text_bytes, path, 1000), FM_OK);
    assert_string_equal(fm_dataset_file(&size_bytes, &mtime_ns, &crc, dataset, 0), path);
    assert_int_equal(size_bytes, text_bytes);
    assert_int_equal(crc, fm_crc32(0, text, text_bytes));
    fm_free(text);
    fm_dataset_close(dataset);
}

static void wrong_lines_are_named(void **state)
{
    static const struct {
        const char *line, *expected;
    } wrong[] = {
        { "{\"input_ids\": []}", "\"input_ids\" is empty" },
        { "{\"input_ids\": [1, 100]}", "\"input_ids\"[1] is 100, outside the vocabulary: 0 to 99" },
        { "{\"input_ids\": [-1]}", "\"input_ids\"[0] is -1" },
        { "{\"input_ids\": [-100]}", "\"input_ids\"[0] is -100" },
        { "{\"input_ids\": [1], \"labels\": [-1]}", "\"labels\"[0] is -1, outside the vocabulary: 0 to 99, or -100" },
        { "{\"input_ids\": [1], \"labels\": [100]}", "\"labels\"[0] is 100" },
        { "{\"input_ids\": [1, 2], \"labels\": [1]}", "1 labels beside 2 input_ids" },
        { "{\"input_ids\": [1, 2], \"labels\": [1, 2, 3]}", "3 labels beside 2 input_ids" },
        { "{\"input_ids\": [1], \"labels\": []}", "0 labels beside 1 input_ids" },
        { "{\"input_ids\": [1], \"labels\": 1}", "\"labels\" is no array" },
        { "{\"input_ids\": [1.0]}", "\"input_ids\"[0] is not an integer" },
        { "{\"input_ids\": [\"1\"]}", "\"input_ids\"[0] is not an integer" },
        { "{\"input_ids\": [99999999999999999999]}", "" }, /* too large for the parser, or no integer */
        { "{\"input_ids\": [4294967297]}", "\"input_ids\"[0] is 4294967297" },
        { "{\"input_ids\": 1}", "\"input_ids\" is no array" },
        { "{\"labels\": [1]}", "\"input_ids\" is missing" },
        { "{\"input_ids\": [1]", "not valid JSON" },
        { "{\"input_ids\": [1]} {}", "not valid JSON" },
        { "{\"input_ids\": [1], \"input_ids\": [2]}", "not valid JSON" },
        { "{\"input_ids\": [1], \"x\": \"\xff\"}", "not valid JSON" },
        { "[1]", "a JSON object {...} was expected" },
        { "3", "a JSON object {...} was expected" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char text[400];
        snprintf(text, sizeof text, "{\"input_ids\": [1]}\n\n%s\n{\"input_ids\": [1]}\n", wrong[i].line);
        fm_dataset *dataset;
        assert_int_equal(open_tokens(&dataset, write_file("wrong.jsonl", text), 8, in_dir("wrong.index")), FM_ERR_FORMAT);
        assert_null(dataset);
        if (strstr(fm_error_message(), "wrong.jsonl:3: ") == NULL || strstr(fm_error_message(), wrong[i].expected) == NULL) {
            fail_msg("%s: \"%s\" was expected, got: %s", wrong[i].line, wrong[i].expected, fm_error_message());
        }
        assert_false(fm_path_exists(in_dir("wrong.index")) || fm_path_exists(in_dir("wrong.index.tmp")));
    }
    char deep[3000] = "{\"input_ids\": [1], \"x\": ";
    memset(deep + strlen(deep), '[', 2000);
    fm_dataset *dataset;
    assert_int_equal(open_tokens(&dataset, write_file("deep.jsonl", deep), 8, NULL), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "nested deeper"));
    assert_int_equal(open_tokens(&dataset, write_file("blank.jsonl", "\n \n"), 8, NULL), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "no samples"));
    assert_int_equal(open_tokens(&dataset, write_file("columns.jsonl", "\n{\"a\": 1}\n"), 8, NULL), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "columns.jsonl:2: no format has such columns"));
    assert_int_equal(open_tokens(&dataset, write_file("text.jsonl", "{\"messages\": []}\n"), 8, NULL), FM_ERR_UNSUPPORTED);
    assert_non_null(strstr(fm_error_message(), "data.format = chat"));
}

static void globs_are_sorted_bytewise(void **state)
{
    write_file("g-b.jsonl", "{\"input_ids\": [2]}");
    write_file("g-B.jsonl", "{\"input_ids\": [1]}");
    write_file("g-10.jsonl", "\n");
    write_file("h[1].jsonl", "{\"input_ids\": [3]}");
    char list[3 * FM_PATH_BYTES];
    snprintf(list, sizeof list, "%s,%s", in_dir("h[1].jsonl"), in_dir("g-*.jsonl"));
    fm_dataset *dataset;
    assert_int_equal(open_tokens(&dataset, list, 8, NULL), FM_OK);
    assert_int_equal(fm_dataset_samples(dataset), 3);
    assert_int_equal(fm_dataset_files(dataset), 4);
    for (int32_t i = 0; i < 3; i++) {
        const int32_t id = i == 0 ? 3 : i;
        assert_sample(dataset, i, 1, &id, &id);
    }
    fm_dataset_close(dataset);
    assert_int_equal(open_tokens(&dataset, in_dir("none-*"), 8, NULL), FM_ERR_IO);
    assert_non_null(strstr(fm_error_message(), "no file matches"));
    assert_int_equal(open_tokens(&dataset, in_dir("none"), 8, NULL), FM_ERR_IO);
    assert_non_null(strstr(fm_error_message(), "there is no such file"));
    assert_int_equal(open_tokens(&dataset, "", 8, NULL), FM_ERR_JOB);
    assert_int_equal(open_tokens(&dataset, dir, 8, NULL), FM_ERR_IO);
}

static bool opens_from_cache(const char *files, int64_t seq_length, const char *cache_path)
{
    fm_dataset *dataset;
    assert_int_equal(open_tokens(&dataset, files, seq_length, cache_path), FM_OK);
    fm_dataset_summary summary;
    fm_dataset_summarize(&summary, dataset);
    assert_int_equal(summary.samples, 2);
    assert_sample(dataset, 0, 3, (const int32_t[]){ 1, 2, 3 }, (const int32_t[]){ 1, 2, -100 });
    assert_sample(dataset, 1, 2, (const int32_t[]){ 4, 5 }, (const int32_t[]){ 4, 5 });
    fm_dataset_close(dataset);
    return summary.from_cache;
}

static void the_cache_serves_only_what_it_was_made_of(void **state)
{
    static const char text[] = "{\"input_ids\": [1, 2, 3], \"labels\": [1, 2, -100]}\n{\"input_ids\": [4, 5]}\n";
    const char *const index = in_dir("cache.index");
    char files[FM_PATH_BYTES];
    strcpy(files, write_file("cache.jsonl", text));
    assert_false(opens_from_cache(files, 8, index));
    assert_true(opens_from_cache(files, 8, index));
    assert_false(opens_from_cache(files, 9, index)); /* another option */
    assert_true(opens_from_cache(files, 9, index));
    write_file("cache.jsonl", text); /* another time */
    assert_false(opens_from_cache(files, 9, index));
    assert_true(opens_from_cache(files, 9, index));
    char *bytes;
    size_t size_bytes;
    assert_int_equal(fm_file_read(&bytes, &size_bytes, index, 10 << 20), FM_OK);
    assert_true(size_bytes > FM_PATH_BYTES);
    int damaged = 0;
    const size_t tail_bytes = 8 * sizeof(int32_t) + 2 * 40; /* ids, labels and two records */
    for (size_t i = 0; i < size_bytes; i = i == 300 ? size_bytes - tail_bytes : i + 1) {
        char *copy = fm_alloc(size_bytes, FM_MEMORY_HOST);
        memcpy(copy, bytes, size_bytes);
        copy[i] ^= 0x10;
        assert_int_equal(fm_file_replace(index, copy, size_bytes), FM_OK);
        fm_free(copy);
        damaged += !opens_from_cache(files, 9, index); /* right samples in any case */
    }
    assert_true(damaged >= 200 + (int)tail_bytes);
    for (size_t length = 0; length < size_bytes; length += length < 400 ? 7 : 60000) {
        assert_int_equal(fm_file_replace(index, bytes, length), FM_OK);
        assert_false(opens_from_cache(files, 9, index));
    }
    fm_free(bytes);
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
        cmocka_unit_test(ranges_share_the_lines),
        cmocka_unit_test(long_lines_have_a_limit),
        cmocka_unit_test(scanner_agrees_with_the_parser),
        cmocka_unit_test(tokens_are_cut_and_counted),
        cmocka_unit_test(wrong_lines_are_named),
        cmocka_unit_test(globs_are_sorted_bytewise),
        cmocka_unit_test(the_cache_serves_only_what_it_was_made_of),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
