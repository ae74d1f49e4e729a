/* From a line of a data file to a sample: token ids and labels by the rules of its format. */
#ifndef FM_DATA_SAMPLE_H
#define FM_DATA_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "data/options.h"

struct fm_tokenizer;

enum { FM_LABEL_IGNORED = -100 };

/* A sample after the cut to seq_length; the arrays belong to the parser and last until its next line. */
typedef struct {
    const int32_t *ids;           /* [tokens] */
    const int32_t *labels;        /* [tokens], not shifted; NULL: the ids, but -100 in the first `masked` places */
    int64_t tokens;
    int64_t whole_tokens;         /* before the cut */
    int64_t masked;
    int64_t label_tokens;         /* labels 1 .. tokens - 1 that are not -100: what is left after the shift */
} fm_sample;

typedef struct fm_sample_parser fm_sample_parser;

/* What FM_FORMAT_AUTO means for data that begin with this line: decided by its columns. `name` stands in errors.
 * Error: not a JSON object; no format has such columns. Local. */
int fm_sample_format(enum fm_data_format *out, const fm_data_options *options, const char *line, size_t size_bytes,
                     const char *name);

/* "tokens", "text", ...; static storage. Local. */
const char *fm_sample_format_name(enum fm_data_format format);

/* A parser of one format (not FM_FORMAT_AUTO). `options` and `tokenizer` are borrowed; end_token is what ends a text (-1: none).
 * Errors: a format that needs a tokenizer and an end token and got none; one that is not there yet. Local. Free with
 * fm_sample_parser_destroy (NULL is allowed). */
int fm_sample_parser_new(fm_sample_parser **out, enum fm_data_format format, const fm_data_options *options, int64_t vocab_size,
                         const struct fm_tokenizer *tokenizer, int64_t end_token);
void fm_sample_parser_destroy(fm_sample_parser *parser);

/* One line, which holds no newline. `name` ("FILE:LINE") stands in errors: not JSON, columns missing or of another type, empty
 * input_ids, labels of another length, ids outside 0 .. vocab_size - 1, labels outside that and -100. Local. */
int fm_sample_parse(fm_sample *out, fm_sample_parser *parser, const char *line, size_t size_bytes, const char *name);

/* labels[tokens] of a sample, whichever way they are kept. Local. */
void fm_sample_labels(int32_t *out, const int32_t *ids, const int32_t *labels, int64_t tokens, int64_t masked);

#endif
