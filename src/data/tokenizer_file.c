#include "data/tokenizer_file.h"

#include <string.h>

#include "data/unicode.h"

/* A place in the file. Only what stands between the spans is parsed here; jansson judges everything else. */
typedef struct {
    const char *text;
    size_t size_bytes, at;
    const char *name;
    fm_bytes left, right;      /* strings without their escapes */
} reader;

typedef struct {
    size_t begin, end;        /* of the value; equal where there is none */
} span;

static int wrong(const reader *r, const char *expected)
{
    int line = 1;
    for (size_t i = 0; i < r->at && i < r->size_bytes; i++) {
        line += r->text[i] == '\n';
    }
    return fm_fail(FM_ERR_FORMAT, "%s: line %d, byte %zu: %s was expected", r->name, line, r->at, expected);
}

static inline bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static inline void skip_blanks(reader *r)
{
    while (r->at < r->size_bytes && is_blank(r->text[r->at])) {
        r->at++;
    }
}

static bool next_is(reader *r, char c)
{
    skip_blanks(r);
    if (r->at < r->size_bytes && r->text[r->at] == c) {
        r->at++;
        return true;
    }
    return false;
}

/* Moves past a string, whose escapes are looked at only as far as its end needs. */
static int skip_string(reader *r, span *inside)
{
    if (!next_is(r, '"')) {
        return wrong(r, "a string");
    }
    inside->begin = r->at;
    while (r->at < r->size_bytes && r->text[r->at] != '"') {
        r->at += r->text[r->at] == '\\' ? 2 : 1;
    }
    if (r->at >= r->size_bytes) {
        return wrong(r, "the end of a string");
    }
    inside->end = r->at++;
    return FM_OK;
}

static bool ends_scalar(char c)
{
    return c == ',' || c == '}' || c == ']' || is_blank(c);
}

static int skip_value(reader *r, span *value)
{
    skip_blanks(r);
    value->begin = r->at;
    int depth = 0;
    do {
        skip_blanks(r);
        if (r->at >= r->size_bytes) {
            return wrong(r, "the end of a value");
        }
        const char c = r->text[r->at];
        span inside;
        if (c == '"') {
            FM_TRY(skip_string(r, &inside));
            continue;
        }
        depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
        r->at++;
        while (depth == 0 && c != '}' && c != ']' && r->at < r->size_bytes && !ends_scalar(r->text[r->at])) {
            r->at++;
        }
    } while (depth > 0);
    value->end = r->at;
    return depth < 0 ? wrong(r, "a value") : FM_OK;
}

static bool is_key(const reader *r, span key, const char *name)
{
    return strlen(name) == key.end - key.begin && memcmp(name, r->text + key.begin, key.end - key.begin) == 0;
}

/* The large parts of the file. */
enum { VOCAB, MERGES, N_PARTS };

/* Finds model.vocab and model.merges in one pass; `in_model` says which object the reader stands at. */
static int find_parts(reader *r, span parts[N_PARTS], bool in_model)
{
    static const char *const names[N_PARTS] = { "vocab", "merges" };
    if (!next_is(r, '{')) {
        return wrong(r, "an object");
    }
    if (next_is(r, '}')) {
        return FM_OK;
    }
    do {
        span key = { 0 }, value = { 0 };
        FM_TRY(skip_string(r, &key));
        if (!next_is(r, ':')) {
            return wrong(r, "a colon");
        }
        skip_blanks(r);
        if (!in_model && is_key(r, key, "model") && r->at < r->size_bytes && r->text[r->at] == '{') {
            FM_TRY(find_parts(r, parts, true));
            continue;
        }
        FM_TRY(skip_value(r, &value));
        for (int i = 0; in_model && i < N_PARTS; i++) {
            if (is_key(r, key, names[i])) {
                parts[i] = value;
            }
        }
    } while (next_is(r, ','));
    return next_is(r, '}') ? FM_OK : wrong(r, "a comma or the end of an object");
}

static int parse_hex4(reader *r, size_t at, uint32_t *code)
{
    *code = 0;
    for (size_t i = at; i < at + 4; i++) {
        const char c = i < r->size_bytes ? r->text[i] : '\0';
        const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
        if (digit < 0) {
            return wrong(r, "four hexadecimal digits after \\u");
        }
        *code = *code << 4 | (uint32_t)digit;
    }
    return FM_OK;
}

/* One escape at `at` (its backslash); returns through *at where it ends. */
static int unescape_one(reader *r, fm_bytes *out, size_t *at)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char c = r->text[*at + 1];
    const char *const found = c == '\0' ? NULL : strchr(from, c);
    if (found != NULL) {
        *at += 2;
        return fm_bytes_append(out, &to[found - from], 1);
    }
    uint32_t code, low;
    if (c != 'u') {
        return wrong(r, "a known escape in the string before");
    }
    FM_TRY(parse_hex4(r, *at + 2, &code));
    *at += 6;
    if (code >= 0xd800 && code < 0xe000) {
        if (code >= 0xdc00 || r->size_bytes - *at < 6 || memcmp(r->text + *at, "\\u", 2) != 0) {
            return wrong(r, "a pair of surrogates in the string before");
        }
        FM_TRY(parse_hex4(r, *at + 2, &low));
        if (low < 0xdc00 || low >= 0xe000) {
            return wrong(r, "a pair of surrogates in the string before");
        }
        code = 0x10000 + ((code - 0xd800) << 10 | (low - 0xdc00));
        *at += 6;
    }
    return fm_unicode_append(out, code);
}

/* A string, its escapes resolved. *bytes points into the file or into `scratch`. */
static int parse_string(reader *r, const char **bytes, size_t *size_bytes, fm_bytes *scratch)
{
    span inside = { 0 };
    FM_TRY(skip_string(r, &inside));
    *bytes = r->text + inside.begin;
    *size_bytes = inside.end - inside.begin;
    if (memchr(*bytes, '\\', *size_bytes) == NULL) {
        return FM_OK;
    }
    scratch->size_bytes = 0;
    for (size_t at = inside.begin; at < inside.end;) {
        if (r->text[at] == '\\') {
            FM_TRY(unescape_one(r, scratch, &at));
        } else {
            FM_TRY(fm_bytes_append(scratch, r->text + at, 1));
            at++;
        }
    }
    *bytes = scratch->bytes;
    *size_bytes = scratch->size_bytes;
    return FM_OK;
}

static int parse_id(reader *r, int64_t *id)
{
    skip_blanks(r);
    const size_t begin = r->at;
    *id = 0;
    while (r->at < r->size_bytes && r->text[r->at] >= '0' && r->text[r->at] <= '9' && *id <= FM_BPE_MAX_ID) {
        *id = *id * 10 + (r->text[r->at++] - '0');
    }
    return r->at > begin ? FM_OK : wrong(r, "a token's id");
}

static int parse_vocab(reader *r, fm_bpe *bpe)
{
    if (!next_is(r, '{')) {
        return wrong(r, "model.vocab as an object (model BPE)");
    }
    if (next_is(r, '}')) {
        return FM_OK;
    }
    do {
        const char *token;
        size_t size_bytes;
        int64_t id;
        FM_TRY(parse_string(r, &token, &size_bytes, &r->left));
        if (!next_is(r, ':')) {
            return wrong(r, "a colon");
        }
        FM_TRY(parse_id(r, &id));
        FM_TRY(fm_bpe_add_token(bpe, token, size_bytes, id));
    } while (next_is(r, ','));
    return next_is(r, '}') ? FM_OK : wrong(r, "a comma or the end of model.vocab");
}

/* "left right" as one string, or ["left", "right"]. */
static int parse_merge(reader *r, fm_bpe *bpe)
{
    const char *left, *right;
    size_t left_bytes, right_bytes;
    if (next_is(r, '[')) {
        FM_TRY(parse_string(r, &left, &left_bytes, &r->left));
        if (!next_is(r, ',')) {
            return wrong(r, "a comma");
        }
        FM_TRY(parse_string(r, &right, &right_bytes, &r->right));
        if (!next_is(r, ']')) {
            return wrong(r, "the end of a pair");
        }
        return fm_bpe_add_merge(bpe, left, left_bytes, right, right_bytes);
    }
    static const char version[] = "#version";
    FM_TRY(parse_string(r, &left, &left_bytes, &r->left));
    if (left_bytes >= sizeof version - 1 && memcmp(left, version, sizeof version - 1) == 0) {
        return FM_OK;
    }
    const char *const space = memchr(left, ' ', left_bytes);
    if (space == NULL || memchr(space + 1, ' ', left_bytes - (size_t)(space + 1 - left)) != NULL) {
        return wrong(r, "before this, two tokens with one space between them");
    }
    return fm_bpe_add_merge(bpe, left, (size_t)(space - left), space + 1, left_bytes - (size_t)(space + 1 - left));
}

static int parse_merges(reader *r, fm_bpe *bpe)
{
    if (!next_is(r, '[')) {
        return wrong(r, "model.merges as a list (model BPE)");
    }
    if (next_is(r, ']')) {
        return FM_OK;
    }
    do {
        FM_TRY(parse_merge(r, bpe));
    } while (next_is(r, ','));
    return next_is(r, ']') ? FM_OK : wrong(r, "a comma or the end of model.merges");
}

/* The file with the spans' values replaced by empty ones. */
static int cut_spans(fm_bytes *out, const reader *r, const span *spans, int n_spans)
{
    size_t at = 0;
    for (int i = 0; i < n_spans; i++) {
        if (spans[i].end > spans[i].begin) {
            FM_TRY(fm_bytes_append(out, r->text + at, spans[i].begin - at));
            FM_TRY(fm_bytes_append(out, "null", 4));
            at = spans[i].end;
        }
    }
    return fm_bytes_append(out, r->text + at, r->size_bytes - at);
}

static int parse_parts(json_t **rest, fm_bpe *bpe, reader *r)
{
    span parts[N_PARTS] = { { 0 } };
    FM_TRY(find_parts(r, parts, false));
    fm_bytes cut = { 0 };
    const bool swapped = parts[MERGES].end > 0 && parts[MERGES].begin < parts[VOCAB].begin;
    const span ordered[] = { parts[swapped ? MERGES : VOCAB], parts[swapped ? VOCAB : MERGES] };
    int rc = cut_spans(&cut, r, ordered, N_PARTS);
    if (rc == FM_OK) {
        rc = fm_json_parse(rest, cut.bytes, cut.size_bytes, r->name);
    }
    fm_bytes_free(&cut);
    for (int i = 0; i < N_PARTS && rc == FM_OK; i++) {
        if (parts[i].end > parts[i].begin) {
            r->at = parts[i].begin;
            rc = i == VOCAB ? parse_vocab(r, bpe) : parse_merges(r, bpe);
        }
    }
    return rc;
}

int fm_tokenizer_file_parse(json_t **rest, fm_bpe *bpe, const char *text, size_t size_bytes, const char *name)
{
    *rest = NULL;
    const size_t invalid = fm_unicode_check(text, size_bytes);
    if (invalid < size_bytes) {
        return fm_fail(FM_ERR_FORMAT, "%s: byte %zu is not UTF-8", name, invalid);
    }
    reader r = { .text = text, .size_bytes = size_bytes, .name = name };
    const int rc = parse_parts(rest, bpe, &r);
    fm_bytes_free(&r.left);
    fm_bytes_free(&r.right);
    if (rc < 0) {
        json_decref(*rest);
        *rest = NULL;
    }
    return rc;
}
