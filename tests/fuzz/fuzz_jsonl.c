/* A format's first letter and a line each of JSONL: the lines one by one, cut into ranges, and as a dataset. */
#include <string.h>

#include "base/crc.h"
#include "base/memory.h"
#include "data/dataset.h"
#include "data/files.h"
#include "data/sample.h"
#include "finemesh/tokenizer.h"
#include "fuzz.h"

enum { VOCABULARY = 300, SEQ_LENGTH = 9, LINES = 256 };

static fm_tokenizer *tokenizer;
static char none[] = "", question[] = "question", context[] = "context", answer[] = "answer";
static const fm_data_options options = { .train = none, .validation = none, .question_column = question, .context_column = context,
                                         .answer_column = answer, .seq_length = SEQ_LENGTH, .mask_prompt = true };

/* Bytes and one merge: enough for every text. */
void fuzz_begin(void)
{
    static char text[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\xc4\xa0\":3},\"merges\":[\"a b\"],\"unk_token\":null},"
                         "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
                         "\"added_tokens\":[{\"id\":4,\"content\":\"<end>\",\"special\":true}]}";
    const fm_tokenizer_texts texts = { { text }, { sizeof text - 1 } };
    FUZZ_CHECK(fm_tokenizer_new(&tokenizer, &texts, "MODEL") == FM_OK);
}

static void check_sample(const fm_sample *s)
{
    int64_t label_tokens = 0;
    FUZZ_CHECK(s->tokens >= 1 && s->tokens <= SEQ_LENGTH && s->tokens <= s->whole_tokens && s->masked <= s->tokens);
    int32_t labels[SEQ_LENGTH];
    fm_sample_labels(labels, s->ids, s->labels, s->tokens, s->masked);
    for (int64_t i = 0; i < s->tokens; i++) {
        FUZZ_CHECK(s->ids[i] >= 0 && s->ids[i] < VOCABULARY);
        FUZZ_CHECK(labels[i] == FM_LABEL_IGNORED || (labels[i] >= 0 && labels[i] < VOCABULARY));
        label_tokens += i > 0 && labels[i] != FM_LABEL_IGNORED;
    }
    FUZZ_CHECK(label_tokens == s->label_tokens);
}

static void check_lines(enum fm_data_format format, fuzz_part text)
{
    fm_sample_parser *parser;
    fuzz_part line;
    FUZZ_CHECK(fm_sample_parser_new(&parser, format, &options, VOCABULARY, tokenizer, 4) == FM_OK);
    while (fuzz_line(&line, &text)) {
        fm_sample sample;
        enum fm_data_format found;
        fuzz_result(fm_sample_format(&found, &options, line.data, line.size_bytes, "FILE:1"));
        if (fuzz_result(fm_sample_parse(&sample, parser, line.data, line.size_bytes, "FILE:1")) == FM_OK) {
            check_sample(&sample);
        }
    }
    fm_sample_parser_destroy(parser);
}

/* The CRC of all lines of a file, read in `parts` ranges; *n counts those that are not blank. */
static uint32_t read_in(int64_t *n, const char *path, int parts)
{
    fm_file_identity identity;
    uint32_t crc = 0;
    FUZZ_CHECK(fm_file_stat(&identity, path) == FM_OK);
    *n = 0;
    for (int p = 0; p < parts; p++) {
        fm_lines *lines;
        const char *line;
        size_t size_bytes;
        int64_t at;
        FUZZ_CHECK(fm_lines_open(&lines, path, &identity, identity.size_bytes * p / parts, identity.size_bytes * (p + 1) / parts) ==
                   FM_OK);
        while (fm_lines_next(lines, &line, &size_bytes, &at) > 0) {
            crc = fm_crc32(fm_crc32(crc, &at, sizeof at), line, size_bytes);
            ++*n;
        }
        fm_lines_close(lines);
    }
    return crc;
}

static void check_dataset(const char *path, enum fm_data_format format, int64_t n_lines)
{
    fm_data_options of_set = options;
    of_set.format = format;
    const fm_dataset_spec spec = { .files = path, .options = &of_set, .vocab_size = VOCABULARY, .tokenizer = tokenizer, .eos_token = 4 };
    fm_dataset *dataset;
    if (fuzz_result(fm_dataset_open(&dataset, &spec, NULL)) < 0) {
        return;
    }
    FUZZ_CHECK(fm_dataset_samples(dataset) == n_lines);
    for (int64_t s = 0; s < n_lines; s++) {
        int32_t ids[SEQ_LENGTH], labels[SEQ_LENGTH];
        fm_sample_info info;
        FUZZ_CHECK(fm_dataset_info(&info, dataset, s) == FM_OK && info.tokens <= SEQ_LENGTH);
        FUZZ_CHECK(fm_dataset_read(ids, labels, dataset, s) == FM_OK);
    }
    fm_dataset_close(dataset);
}

void fuzz_one(const char *data, size_t size_bytes)
{
    char path[FM_PATH_BYTES];
    fuzz_part text = { data, size_bytes }, first;
    if (!fuzz_line(&first, &text) || first.size_bytes != 1) {
        return;
    }
    const enum fm_data_format format = first.data[0] == 't' ? FM_FORMAT_TOKENS : first.data[0] == 'x' ? FM_FORMAT_TEXT :
                                       first.data[0] == 'i' ? FM_FORMAT_INSTRUCTION : FM_FORMAT_AUTO;
    int64_t n_lines, n_again;
    if (format != FM_FORMAT_AUTO) {
        check_lines(format, text);
    }
    fuzz_write("data.jsonl", text.data, text.size_bytes);
    fuzz_path(path, "data.jsonl");
    const uint32_t crc = read_in(&n_lines, path, 1);
    for (int parts = 2; parts <= 5; parts += 3) {
        FUZZ_CHECK(read_in(&n_again, path, parts) == crc && n_again == n_lines);
    }
    check_dataset(path, format, n_lines);
}
