/* Formats that need a tokenizer: text and instruction, on a byte-level BPE of six pieces whose template adds a first token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "data/sample.h"
#include "finemesh/tokenizer.h"

enum { A = 0, B = 1, C = 2, BLANK = 3, AB = 4, BLANK_A = 5, FIRST = 6, END = 7, VOCABULARY = 8, MOST = 8 };

static fm_tokenizer *make_tokenizer(void)
{
    char json[] =
        "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"normalizer\": null, \"added_tokens\": ["
        "{\"id\": 6, \"content\": \"<s>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true},"
        "{\"id\": 7, \"content\": \"</s>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}],"
        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true},"
        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}},"
        "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"pair\": [{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, "
        "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}],"
        "\"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [6], \"tokens\": [\"<s>\"]}}},"
        "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true},"
        "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null, "
        "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, "
        "\"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, \"\xc4\xa0\": 3, \"ab\": 4, \"\xc4\xa0" "a\": 5}, "
        "\"merges\": [[\"a\", \"b\"], [\"\xc4\xa0\", \"a\"]]}}";
    char config[] = "{\"tokenizer_class\": \"PreTrainedTokenizerFast\", \"eos_token\": \"</s>\"}";
    const fm_tokenizer_texts texts = { { json, config, NULL }, { sizeof json - 1, sizeof config - 1, 0 } };
    fm_tokenizer *tokenizer;
    if (fm_tokenizer_new(&tokenizer, &texts, "test") != FM_OK) {
        fail_msg("%s", fm_error_message());
    }
    assert_int_equal(fm_tokenizer_eos_id(tokenizer), END);
    return tokenizer;
}

static char question_column[] = "q", context_column[] = "c", answer_column[] = "a";

static fm_data_options options_of(bool mask_prompt)
{
    return (fm_data_options){ .format = FM_FORMAT_AUTO, .question_column = question_column, .context_column = context_column,
                              .answer_column = answer_column, .seq_length = MOST, .mask_prompt = mask_prompt };
}

typedef struct {
    const char *line;
    int64_t tokens;
    int32_t ids[MOST];
    int64_t masked;
} example;

static void assert_examples(const example *examples, size_t n, enum fm_data_format expected, bool mask_prompt)
{
    fm_tokenizer *tokenizer = make_tokenizer();
    const fm_data_options options = options_of(mask_prompt);
    for (size_t i = 0; i < n; i++) {
        const example *e = &examples[i];
        enum fm_data_format format;
        fm_sample_parser *parser;
        fm_sample sample;
        assert_int_equal(fm_sample_format(&format, &options, e->line, strlen(e->line), "line"), FM_OK);
        assert_int_equal(format, expected);
        assert_int_equal(fm_sample_parser_new(&parser, format, &options, VOCABULARY, tokenizer, END), FM_OK);
        if (fm_sample_parse(&sample, parser, e->line, strlen(e->line), "line") != FM_OK) {
            fail_msg("%s: %s", e->line, fm_error_message());
        }
        assert_int_equal(sample.tokens, e->tokens);
        assert_memory_equal(sample.ids, e->ids, (size_t)e->tokens * sizeof *e->ids);
        const int64_t masked = mask_prompt ? e->masked : 0, first = masked > 1 ? masked : 1;
        assert_null(sample.labels);
        assert_int_equal(sample.masked, masked);
        assert_int_equal(sample.label_tokens, e->tokens - first);
        int32_t labels[MOST];
        fm_sample_labels(labels, sample.ids, sample.labels, sample.tokens, sample.masked);
        for (int64_t t = 0; t < e->tokens; t++) {
            assert_int_equal(labels[t], t < masked ? FM_LABEL_IGNORED : e->ids[t]);
        }
        fm_sample_parser_destroy(parser);
    }
    fm_tokenizer_destroy(tokenizer);
}

static void text_ends_once(void **state)
{
    static const example examples[] = {
        { "{\"text\": \"ab c\"}", 5, { FIRST, AB, BLANK, C, END }, 0 },
        { "{\"text\": \"ab</s>\"}", 3, { FIRST, AB, END }, 0 },
        { "{\"text\": \"</s>ab\", \"more\": 1}", 4, { FIRST, END, AB, END }, 0 },
        { "{\"text\": \"\"}", 2, { FIRST, END }, 0 },
        { "{\"text\": \"\\u0061b\"}", 3, { FIRST, AB, END }, 0 },
        { "{\"text\": \"cacacacacaca\"}", MOST, { FIRST, C, A, C, A, C, A, C }, 0 }, /* the cut takes the end token too */
    };
    assert_examples(examples, sizeof examples / sizeof examples[0], FM_FORMAT_TEXT, true);
}

static void instructions_mask_their_prompt(void **state)
{
    static const example examples[] = {
        { "{\"q\": \"a\", \"a\": \"b\"}", 5, { FIRST, A, BLANK, B, END }, 3 },
        { "{\"q\": \"a\", \"a\": \"b\", \"c\": \"\"}", 5, { FIRST, A, BLANK, B, END }, 3 },
        { "{\"q\": \"a\", \"a\": \"b\", \"c\": null}", 5, { FIRST, A, BLANK, B, END }, 3 },
        { "{\"q\": \"a\", \"a\": \"c\", \"c\": \"b\"}", 6, { FIRST, B, BLANK_A, BLANK, C, END }, 4 },
        { "{\"q\": \"\", \"a\": \"c\", \"c\": \"b\"}", 5, { FIRST, B, BLANK, C, END }, 3 },
        { "{\"q\": \"\", \"a\": \"c\"}", 4, { FIRST, BLANK, C, END }, 2 },
        { "{\"q\": \"b\", \"a\": \"\"}", 4, { FIRST, B, BLANK, END }, 3 },
        { "{\"q\": \"b\", \"a\": \"a\"}", 4, { FIRST, B, BLANK_A, END }, 3 }, /* the prompt's blank goes into the answer's token */
        { "{\"q\": \"bcbcbcbcbc\", \"a\": \"a\"}", MOST, { FIRST, B, C, B, C, B, C, B }, MOST }, /* nothing is left to learn */
    };
    static const size_t n = sizeof examples / sizeof examples[0];
    assert_examples(examples, n - 1, FM_FORMAT_INSTRUCTION, true);
    assert_examples(examples, n, FM_FORMAT_INSTRUCTION, false);
    fm_tokenizer *tokenizer = make_tokenizer();
    const fm_data_options options = options_of(true);
    fm_sample_parser *parser;
    fm_sample sample;
    const char *line = examples[n - 1].line;
    assert_int_equal(fm_sample_parser_new(&parser, FM_FORMAT_INSTRUCTION, &options, VOCABULARY, tokenizer, END), FM_OK);
    assert_int_equal(fm_sample_parse(&sample, parser, line, strlen(line), "line"), FM_OK);
    assert_int_equal(sample.masked, MOST);
    assert_int_equal(sample.label_tokens, 0);
    assert_true(sample.whole_tokens > MOST);
    fm_sample_parser_destroy(parser);
    fm_tokenizer_destroy(tokenizer);
}

static void wrong_lines_and_tokenizers_are_refused(void **state)
{
    static const struct {
        enum fm_data_format format;
        int64_t vocab_size;
        const char *line, *expected;
    } wrong[] = {
        { FM_FORMAT_TEXT, VOCABULARY, "{\"txt\": \"a\"}", "line: \"text\" is missing, a string was expected" },
        { FM_FORMAT_TEXT, VOCABULARY, "{\"text\": 1}", "line: \"text\" is no string" },
        { FM_FORMAT_TEXT, VOCABULARY, "{\"text\": \"\xff\"}", "line: not valid JSON" },
        { FM_FORMAT_TEXT, VOCABULARY, "\"a\"", "line: a JSON object" },
        { FM_FORMAT_INSTRUCTION, VOCABULARY, "{\"q\": \"a\"}", "line: \"a\" is missing" },
        { FM_FORMAT_INSTRUCTION, VOCABULARY, "{\"q\": null, \"a\": \"a\"}", "line: \"q\" is no string" },
        { FM_FORMAT_INSTRUCTION, VOCABULARY, "{\"q\": \"a\", \"a\": \"a\", \"c\": 1}", "line: \"c\" is no string" },
    };
    fm_tokenizer *tokenizer = make_tokenizer();
    const fm_data_options options = options_of(true);
    fm_sample_parser *parser;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        fm_sample sample;
        assert_int_equal(fm_sample_parser_new(&parser, wrong[i].format, &options, wrong[i].vocab_size, tokenizer, END), FM_OK);
        assert_int_equal(fm_sample_parse(&sample, parser, wrong[i].line, strlen(wrong[i].line), "line"), FM_ERR_FORMAT);
        if (strstr(fm_error_message(), wrong[i].expected) == NULL) {
            fail_msg("\"%s\" was expected, got: %s", wrong[i].expected, fm_error_message());
        }
        fm_sample_parser_destroy(parser);
    }
    /* a model with fewer rows than the tokenizer has ids; its end token is inside */
    fm_sample sample;
    assert_int_equal(fm_sample_parser_new(&parser, FM_FORMAT_TEXT, &options, 6, tokenizer, C), FM_OK);
    assert_int_equal(fm_sample_parse(&sample, parser, "{\"text\": \"a\"}", 13, "line"), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "line: the tokenizer gives the id 6, outside the model's vocabulary: 0 to 5"));
    fm_sample_parser_destroy(parser);
    assert_int_equal(fm_sample_parser_new(&parser, FM_FORMAT_TEXT, &options, VOCABULARY, NULL, END), FM_ERR_JOB);
    assert_non_null(strstr(fm_error_message(), "needs the model's tokenizer.json"));
    assert_int_equal(fm_sample_parser_new(&parser, FM_FORMAT_TEXT, &options, VOCABULARY, tokenizer, -1), FM_ERR_JOB);
    assert_non_null(strstr(fm_error_message(), "eos_token_id"));
    assert_int_equal(fm_sample_parser_new(&parser, FM_FORMAT_TEXT, &options, VOCABULARY, tokenizer, VOCABULARY), FM_ERR_JOB);
    assert_int_equal(fm_sample_parser_new(&parser, FM_FORMAT_CHAT, &options, VOCABULARY, tokenizer, END), FM_ERR_UNSUPPORTED);
    fm_tokenizer_destroy(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_ends_once),
        cmocka_unit_test(instructions_mask_their_prompt),
        cmocka_unit_test(wrong_lines_and_tokenizers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
