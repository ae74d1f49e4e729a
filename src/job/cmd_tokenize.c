#include "job/cmd_tokenize.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "data/tokenizer_bytes.h"

typedef int convert(FILE *out, const fm_tokenizer *tokenizer, const json_t *line, const char *where);

static int written(const FILE *out)
{
    return ferror((FILE *)out) ? fm_fail(FM_ERR_IO, "standard output: cannot write: %s", strerror(errno)) : FM_OK;
}

static int text_to_ids(FILE *out, const fm_tokenizer *tokenizer, const json_t *line, const char *where)
{
    const json_t *const text = json_object_get(line, "text");
    if (text == NULL && json_object_get(line, "messages") != NULL) {
        return fm_fail(FM_ERR_UNSUPPORTED, "%s: \"messages\" need the model's chat template, which finemesh cannot apply yet; "
                       "give {\"text\": ...}", where);
    }
    if (!json_is_string(text)) {
        return fm_fail(FM_ERR_FORMAT, "%s: {\"text\": \"...\"} was expected", where);
    }
    int32_t *ids;
    int64_t n_ids;
    const int rc = fm_tokenizer_encode(&ids, &n_ids, tokenizer, json_string_value(text), json_string_length(text), true);
    if (rc < 0) {
        return fm_fail_in(rc, "%s", where);
    }
    fputs("{\"input_ids\": [", out);
    for (int64_t i = 0; i < n_ids; i++) {
        fprintf(out, i == 0 ? "%" PRId32 : ", %" PRId32, ids[i]);
    }
    fputs("]}\n", out);
    fm_tokenizer_free(ids);
    return written(out);
}

static int write_text(FILE *out, const char *text, size_t size_bytes)
{
    json_t *const string = json_stringn(text, size_bytes);
    fputs("{\"text\": ", out);
    const bool ok = string != NULL && json_dumpf(string, out, JSON_ENCODE_ANY) == 0;
    json_decref(string);
    fputs("}\n", out);
    return ok ? written(out) : fm_fail(FM_ERR_IO, "standard output: cannot write a text of %zu bytes", size_bytes);
}

static int ids_to_text(FILE *out, const fm_tokenizer *tokenizer, const json_t *line, const char *where)
{
    const json_t *const list = json_object_get(line, "input_ids");
    if (!json_is_array(list)) {
        return fm_fail(FM_ERR_FORMAT, "%s: {\"input_ids\": [...]} was expected", where);
    }
    const int64_t n_ids = (int64_t)json_array_size(list);
    int32_t *const ids = fm_alloc_array(n_ids, sizeof *ids, FM_MEMORY_HOST);
    if (ids == NULL) {
        return FM_ERR_MEMORY;
    }
    int rc = FM_OK;
    const int32_t limit = fm_tokenizer_vocab_size(tokenizer);
    for (int64_t i = 0; i < n_ids && rc == FM_OK; i++) {
        const json_t *const id = json_array_get(list, (size_t)i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= limit) {
            rc = fm_fail(FM_ERR_FORMAT, "%s: input_ids[%" PRId64 "] is no id from 0 to %" PRId32, where, i, limit - 1);
        } else {
            ids[i] = (int32_t)json_integer_value(id);
        }
    }
    char *text = NULL;
    size_t size_bytes;
    if (rc == FM_OK) {
        rc = fm_tokenizer_decode(&text, &size_bytes, tokenizer, ids, n_ids, false);
    }
    if (rc == FM_OK) {
        rc = write_text(out, text, size_bytes);
    }
    fm_tokenizer_free(text);
    fm_free(ids);
    return rc;
}

static bool is_blank(const char *line, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++) {
        if (line[i] == '\0' || strchr(" \t\r\n", line[i]) == NULL) {
            return false;
        }
    }
    return true;
}

static int convert_line(FILE *out, const fm_tokenizer *tokenizer, convert *one, const char *line, size_t size_bytes,
                        const char *where)
{
    if (is_blank(line, size_bytes)) {
        fputc('\n', out);
        return written(out);
    }
    json_t *value;
    FM_TRY(fm_json_parse(&value, line, size_bytes, where));
    const int rc = one(out, tokenizer, value, where);
    json_decref(value);
    return rc;
}

/* A line with its newline, or what is left of the input; false at its end. */
static int read_line(fm_bytes *line, FILE *in, bool *found)
{
    enum { PART_BYTES = 65536 };
    line->size_bytes = 0;
    for (int c = 0; c != '\n' && (c = getc_unlocked(in)) != EOF;) {
        if (line->size_bytes == line->capacity_bytes) {
            FM_TRY(fm_bytes_reserve(line, PART_BYTES));
        }
        line->bytes[line->size_bytes++] = (char)c;
    }
    *found = line->size_bytes > 0;
    return FM_OK;
}

int fm_tokenize_stream(FILE *out, FILE *in, const fm_tokenizer *tokenizer, bool decodes, const char *name)
{
    fm_bytes line = { 0 };
    char where[256];
    bool found = true;
    int rc = FM_OK;
    for (int64_t number = 1; rc == FM_OK && found; number++) {
        snprintf(where, sizeof where, "%s:%" PRId64, name, number);
        rc = read_line(&line, in, &found);
        if (rc == FM_OK && found) {
            rc = convert_line(out, tokenizer, decodes ? ids_to_text : text_to_ids, line.bytes, line.size_bytes, where);
        }
    }
    if (rc == FM_OK && ferror(in)) {
        rc = fm_fail(FM_ERR_IO, "%s: cannot read: %s", name, strerror(errno));
    }
    fm_bytes_free(&line);
    if (rc == FM_OK && fflush(out) != 0) {
        rc = written(out);
    }
    return rc;
}

int fm_cmd_tokenize(int argc, char **argv)
{
    const bool decodes = argc == 2 && strcmp(argv[1], "--decode") == 0;
    if (argc < 1 || argc > 2 || (argc == 2 && !decodes)) {
        return fm_fail(FM_ERR_JOB, "usage: finemesh tokenize MODEL [--decode], with {\"text\": ...} (or {\"input_ids\": [...]}) "
                       "lines on standard input");
    }
    fm_tokenizer *tokenizer;
    FM_TRY(fm_tokenizer_open(&tokenizer, argv[0]));
    const int rc = fm_tokenize_stream(stdout, stdin, tokenizer, decodes, "standard input");
    fm_tokenizer_destroy(tokenizer);
    return rc;
}
