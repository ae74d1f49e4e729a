#include "data/sample.h"

#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "data/token_line.h"
#include "finemesh/tokenizer.h"

struct fm_sample_parser {
    enum fm_data_format format;
    const fm_data_options *options;
    int64_t vocab_size;
    const fm_tokenizer *tokenizer;
    int32_t end_token;
    int32_t *ids, *labels;        /* scratch [capacity] */
    int64_t capacity;
    char *text;                   /* scratch [text_bytes]: prompt and answer in one */
    size_t text_bytes;
};

/* Makes room for n ids and as many labels; what they held is lost. */
static int reserve(fm_sample_parser *parser, int64_t n)
{
    if (n <= parser->capacity) {
        return FM_OK;
    }
    const int64_t capacity = 2 * n;
    fm_free(parser->ids);
    fm_free(parser->labels);
    parser->ids = fm_alloc_array(capacity, sizeof *parser->ids, FM_MEMORY_HOST);
    parser->labels = fm_alloc_array(capacity, sizeof *parser->labels, FM_MEMORY_HOST);
    parser->capacity = parser->ids != NULL && parser->labels != NULL ? capacity : 0;
    return parser->capacity > 0 ? FM_OK : FM_ERR_MEMORY;
}

static bool ids_are_inside(const int32_t *ids, int64_t n, int64_t vocab_size)
{
    bool inside = true;
    for (int64_t i = 0; i < n; i++) {
        inside &= ids[i] >= 0 && ids[i] < vocab_size;
    }
    return inside;
}

static bool labels_are_inside(const int32_t *labels, int64_t n, int64_t vocab_size)
{
    bool inside = true;
    for (int64_t i = 0; i < n; i++) {
        inside &= labels[i] == FM_LABEL_IGNORED || (labels[i] >= 0 && labels[i] < vocab_size);
    }
    return inside;
}

/* An array of integers of 0 .. vocab_size - 1, and of -100 where that is allowed. */
static int copy_integers(int32_t *out, const json_t *array, const char *column, bool may_ignore, int64_t vocab_size,
                         const char *name)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *element = json_array_get(array, i);
        if (!json_is_integer(element)) {
            return fm_fail(FM_ERR_FORMAT, "%s: \"%s\"[%zu] is not an integer", name, column, i);
        }
        const json_int_t value = json_integer_value(element);
        if ((value < 0 || value >= vocab_size) && !(may_ignore && value == FM_LABEL_IGNORED)) {
            return fm_fail(FM_ERR_FORMAT, "%s: \"%s\"[%zu] is %lld, outside the vocabulary: 0 to %lld%s", name, column, i,
                           (long long)value, (long long)vocab_size - 1, may_ignore ? ", or -100" : "");
        }
        out[i] = (int32_t)value;
    }
    return FM_OK;
}

/* The tokens format by way of the JSON parser: any legal spelling, and the reason where it is not. */
static int read_token_object(fm_sample_parser *parser, int64_t *n_ids, int64_t *n_labels, const json_t *object, const char *name)
{
    const json_t *ids = json_object_get(object, "input_ids");
    const json_t *labels = json_object_get(object, "labels");
    if (!json_is_array(ids)) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"input_ids\" %s, an array of token ids was expected", name,
                       ids == NULL ? "is missing" : "is no array");
    }
    *n_ids = (int64_t)json_array_size(ids);
    *n_labels = -1;
    if (*n_ids == 0) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"input_ids\" is empty", name);
    }
    FM_TRY(copy_integers(parser->ids, ids, "input_ids", false, parser->vocab_size, name));
    if (labels == NULL || json_is_null(labels)) {
        return FM_OK;
    }
    if (!json_is_array(labels)) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"labels\" is no array", name);
    }
    *n_labels = (int64_t)json_array_size(labels);
    if (*n_labels != *n_ids) {
        return fm_fail(FM_ERR_FORMAT, "%s: %lld labels beside %lld input_ids, as many were expected", name, (long long)*n_labels,
                       (long long)*n_ids);
    }
    return copy_integers(parser->labels, labels, "labels", true, parser->vocab_size, name);
}

static int parse_object(json_t **out, const char *line, size_t size_bytes, const char *name)
{
    FM_TRY(fm_json_parse(out, line, size_bytes, name));
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return fm_fail(FM_ERR_FORMAT, "%s: a JSON object {...} was expected", name);
    }
    return FM_OK;
}

static int parse_tokens(fm_sample *out, fm_sample_parser *parser, const char *line, size_t size_bytes, const char *name)
{
    int64_t n_ids, n_labels;
    FM_TRY(reserve(parser, (int64_t)size_bytes / 2 + 1));
    const bool at_sight = fm_token_line_scan(parser->ids, &n_ids, parser->labels, &n_labels, line, size_bytes) && n_ids > 0 &&
                          (n_labels < 0 || n_labels == n_ids) && ids_are_inside(parser->ids, n_ids, parser->vocab_size) &&
                          labels_are_inside(parser->labels, n_labels, parser->vocab_size);
    if (!at_sight) {
        json_t *object;
        FM_TRY(parse_object(&object, line, size_bytes, name));
        const int rc = read_token_object(parser, &n_ids, &n_labels, object, name);
        json_decref(object);
        FM_TRY(rc);
    }
    *out = (fm_sample){ .ids = parser->ids, .labels = n_labels < 0 ? NULL : parser->labels, .whole_tokens = n_ids };
    return FM_OK;
}

/* tokenizer(text), bos included where that adds one, then the end token, not twice: parser->ids [*n]. */
static int tokenize(fm_sample_parser *parser, int64_t *n, const char *text, size_t size_bytes, const char *name)
{
    int32_t *ids;
    int64_t n_text;
    int rc = fm_tokenizer_encode(&ids, &n_text, parser->tokenizer, text, size_bytes, true);
    if (rc < 0) {
        return rc == FM_ERR_FORMAT ? fm_fail_in(rc, "%s", name) : rc;
    }
    rc = reserve(parser, n_text + 1);
    if (rc == FM_OK) {
        memcpy(parser->ids, ids, (size_t)n_text * sizeof *ids);
    }
    fm_tokenizer_free(ids);
    FM_TRY(rc);
    *n = n_text;
    if (n_text == 0 || parser->ids[n_text - 1] != parser->end_token) {
        parser->ids[(*n)++] = parser->end_token;
    }
    for (int64_t i = 0; i < *n; i++) {
        if (parser->ids[i] < 0 || parser->ids[i] >= parser->vocab_size) {
            return fm_fail(FM_ERR_FORMAT, "%s: the tokenizer gives the id %d, outside the model's vocabulary: 0 to %lld", name,
                           parser->ids[i], (long long)parser->vocab_size - 1);
        }
    }
    return FM_OK;
}

/* A column's text, borrowed from the object. Absent or null: an error, or empty where it is optional. */
static int get_text(const char **out, size_t *size_bytes, const json_t *object, const char *column, bool optional,
                    const char *name)
{
    const json_t *value = json_object_get(object, column);
    *out = "";
    *size_bytes = 0;
    if (json_is_string(value)) {
        *out = json_string_value(value);
        *size_bytes = json_string_length(value);
        return FM_OK;
    }
    if (optional && (value == NULL || json_is_null(value))) {
        return FM_OK;
    }
    return fm_fail(FM_ERR_FORMAT, "%s: \"%s\" %s, a string was expected", name, column,
                   value == NULL ? "is missing" : "is no string");
}

static int parse_text(fm_sample *out, fm_sample_parser *parser, const char *line, size_t size_bytes, const char *name)
{
    json_t *object;
    const char *text;
    size_t text_bytes;
    int64_t n = 0;
    FM_TRY(parse_object(&object, line, size_bytes, name));
    int rc = get_text(&text, &text_bytes, object, "text", false, name);
    if (rc == FM_OK) {
        rc = tokenize(parser, &n, text, text_bytes, name);
    }
    json_decref(object);
    *out = (fm_sample){ .ids = parser->ids, .whole_tokens = n };
    return rc;
}

/* Puts a text behind what is in parser->text, `used` bytes, and after it a blank where `then_blank`. Room was made. */
static size_t put_text(fm_sample_parser *parser, size_t used, const char *text, size_t size_bytes, bool then_blank)
{
    memcpy(parser->text + used, text, size_bytes);
    used += size_bytes;
    if (then_blank) {
        parser->text[used++] = ' ';
    }
    return used;
}

/* Context and question, the non-empty ones joined by one blank, then one blank, then the answer: parser->text. */
static int join_instruction(fm_sample_parser *parser, size_t *prompt_bytes, size_t *size_bytes, const json_t *object,
                            const char *name)
{
    const fm_data_options *o = parser->options;
    const char *context, *question, *answer;
    size_t context_bytes, question_bytes, answer_bytes;
    FM_TRY(get_text(&context, &context_bytes, object, o->context_column, true, name));
    FM_TRY(get_text(&question, &question_bytes, object, o->question_column, false, name));
    FM_TRY(get_text(&answer, &answer_bytes, object, o->answer_column, false, name));
    const size_t room = context_bytes + question_bytes + answer_bytes + 2;
    if (room > parser->text_bytes) {
        char *text = fm_grow(parser->text, 2 * room, FM_MEMORY_HOST);
        if (text == NULL) {
            return FM_ERR_MEMORY;
        }
        parser->text = text;
        parser->text_bytes = 2 * room;
    }
    size_t used = put_text(parser, 0, context, context_bytes, context_bytes > 0 && question_bytes > 0);
    used = put_text(parser, used, question, question_bytes, true);
    *prompt_bytes = used;
    *size_bytes = put_text(parser, used, answer, answer_bytes, false);
    return FM_OK;
}

static int parse_instruction(fm_sample *out, fm_sample_parser *parser, const char *line, size_t size_bytes, const char *name)
{
    json_t *object;
    size_t prompt_bytes, text_bytes;
    FM_TRY(parse_object(&object, line, size_bytes, name));
    const int rc = join_instruction(parser, &prompt_bytes, &text_bytes, object, name);
    json_decref(object);
    FM_TRY(rc);
    int64_t n, n_prompt = 0;
    FM_TRY(tokenize(parser, &n, parser->text, text_bytes, name));
    if (parser->options->mask_prompt) {
        int32_t *ids;
        FM_TRY(fm_tokenizer_encode(&ids, &n_prompt, parser->tokenizer, parser->text, prompt_bytes, true));
        fm_tokenizer_free(ids);
    }
    *out = (fm_sample){ .ids = parser->ids, .whole_tokens = n, .masked = n_prompt };
    return FM_OK;
}

typedef int parse_line(fm_sample *out, fm_sample_parser *parser, const char *line, size_t size_bytes, const char *name);

/* One row a format; `parse` is NULL where a format is known and not there yet. */
static const struct {
    const char *name;
    bool needs_tokenizer;
    parse_line *parse;
} formats[] = {
    [FM_FORMAT_AUTO] = { "auto", false, NULL },
    [FM_FORMAT_TOKENS] = { "tokens", false, parse_tokens },
    [FM_FORMAT_TEXT] = { "text", true, parse_text },
    [FM_FORMAT_INSTRUCTION] = { "instruction", true, parse_instruction },
    [FM_FORMAT_CHAT] = { "chat", true, NULL },
};

const char *fm_sample_format_name(enum fm_data_format format)
{
    return formats[format].name;
}

int fm_sample_format(enum fm_data_format *out, const fm_data_options *options, const char *line, size_t size_bytes,
                     const char *name)
{
    json_t *object;
    FM_TRY(parse_object(&object, line, size_bytes, name));
    const struct {
        const char *first, *second;
        enum fm_data_format format;
    } columns[] = {
        { "input_ids", NULL, FM_FORMAT_TOKENS },
        { "messages", NULL, FM_FORMAT_CHAT },
        { options->question_column, options->answer_column, FM_FORMAT_INSTRUCTION },
        { "text", NULL, FM_FORMAT_TEXT },
    };
    *out = FM_FORMAT_AUTO;
    for (size_t i = 0; *out == FM_FORMAT_AUTO && i < sizeof columns / sizeof columns[0]; i++) {
        if (json_object_get(object, columns[i].first) != NULL &&
            (columns[i].second == NULL || json_object_get(object, columns[i].second) != NULL)) {
            *out = columns[i].format;
        }
    }
    json_decref(object);
    if (*out == FM_FORMAT_AUTO) {
        return fm_fail(FM_ERR_FORMAT, "%s: no format has such columns: \"input_ids\" (tokens), \"messages\" (chat), "
                       "\"%s\" and \"%s\" (instruction) or \"text\" (text) were expected", name,
                       options->question_column, options->answer_column);
    }
    return FM_OK;
}

int fm_sample_parser_new(fm_sample_parser **out, enum fm_data_format format, const fm_data_options *options, int64_t vocab_size,
                         const struct fm_tokenizer *tokenizer, int64_t end_token)
{
    FM_ASSERT(format != FM_FORMAT_AUTO && options->seq_length >= 1);
    *out = NULL;
    if (formats[format].parse == NULL) {
        return fm_fail(FM_ERR_UNSUPPORTED, "data.format = %s is not supported yet", formats[format].name);
    }
    if (formats[format].needs_tokenizer && tokenizer == NULL) {
        return fm_fail(FM_ERR_JOB, "data.format = %s needs the model's tokenizer.json, and there is none", formats[format].name);
    }
    if (formats[format].needs_tokenizer && (end_token < 0 || end_token >= vocab_size)) {
        return fm_fail(FM_ERR_JOB, "data.format = %s ends each sample with the model's end token, and %s: "
                       "tokenizer_config.json's eos_token or config.json's eos_token_id must name one of the vocabulary",
                       formats[format].name, end_token < 0 ? "there is none" : "it lies outside the vocabulary");
    }
    *out = fm_alloc(sizeof **out, FM_MEMORY_HOST);
    if (*out == NULL) {
        return FM_ERR_MEMORY;
    }
    **out = (fm_sample_parser){ .format = format, .options = options, .vocab_size = vocab_size, .tokenizer = tokenizer,
                                  .end_token = (int32_t)end_token };
    return FM_OK;
}

void fm_sample_parser_destroy(fm_sample_parser *parser)
{
    if (parser != NULL) {
        fm_free(parser->ids);
        fm_free(parser->labels);
        fm_free(parser->text);
        fm_free(parser);
    }
}

/* The cut comes before the shift: the first label is nobody's prediction. */
static int64_t count_labels(const fm_sample *sample)
{
    if (sample->labels == NULL) {
        const int64_t first = sample->masked > 1 ? sample->masked : 1;
        return sample->tokens > first ? sample->tokens - first : 0;
    }
    int64_t n = 0;
    for (int64_t i = 1; i < sample->tokens; i++) {
        n += sample->labels[i] != FM_LABEL_IGNORED;
    }
    return n;
}

int fm_sample_parse(fm_sample *out, fm_sample_parser *parser, const char *line, size_t size_bytes, const char *name)
{
    FM_TRY(formats[parser->format].parse(out, parser, line, size_bytes, name));
    out->tokens = out->whole_tokens < parser->options->seq_length ? out->whole_tokens : parser->options->seq_length;
    out->masked = out->masked < out->tokens ? out->masked : out->tokens;
    out->label_tokens = count_labels(out);
    return FM_OK;
}

void fm_sample_labels(int32_t *out, const int32_t *ids, const int32_t *labels, int64_t tokens, int64_t masked)
{
    for (int64_t i = 0; i < tokens; i++) {
        out[i] = labels != NULL ? labels[i] : i < masked ? FM_LABEL_IGNORED : ids[i];
    }
}
