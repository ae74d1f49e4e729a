#include "base/json.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

/* jansson's own depth limit is 2,048; lower ones are checked before it recurses or allocates. Strings are skipped. */
static int check_limits(const char *text, size_t size_bytes, const char *name)
{
    int depth = 0;
    int64_t containers = 0;
    bool in_string = false;
    for (size_t i = 0; i < size_bytes; i++) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            containers++;
            if (++depth > FM_JSON_DEPTH) {
                return fm_fail(FM_ERR_FORMAT, "%s: JSON nested deeper than %d levels", name, FM_JSON_DEPTH);
            }
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return containers <= FM_JSON_CONTAINERS ? FM_OK
        : fm_fail(FM_ERR_FORMAT, "%s: JSON of %lld arrays and objects, at most %d were expected", name, (long long)containers,
                  FM_JSON_CONTAINERS);
}

/* Whole numbers of a text that was read with all its integers as reals are integers again, as far as a double holds them: a value
 * is judged by itself, not by another one that is too large. */
static json_t *restored(json_t *value)
{
    static const double exact = 9007199254740992.0;      /* 2^53 */
    size_t index;
    const char *key;
    json_t *child;
    if (json_is_real(value) && json_real_value(value) == floor(json_real_value(value)) && fabs(json_real_value(value)) < exact) {
        json_t *const integer = json_integer((json_int_t)json_real_value(value));
        json_decref(value);
        return integer;
    }
    json_array_foreach(value, index, child) {
        json_array_set_new(value, index, restored(json_incref(child)));
    }
    json_object_foreach(value, key, child) {
        json_object_iter_set_new(value, json_object_key_to_iter(key), restored(json_incref(child)));
    }
    return value;
}

int fm_json_parse(json_t **out, const char *text, size_t size_bytes, const char *name)
{
    *out = NULL;
    /* jansson passes over a 0 byte behind a number */
    const char *const zero = size_bytes == 0 ? NULL : memchr(text, '\0', size_bytes);
    if (zero != NULL) {
        return fm_fail(FM_ERR_FORMAT, "%s: not valid JSON: byte %zu is 0", name, (size_t)(zero - text));
    }
    FM_TRY(check_limits(text, size_bytes, name));
    json_error_t error;
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY;
    *out = json_loadb(text, size_bytes, flags, &error);
    if (*out == NULL && json_error_code(&error) == json_error_numeric_overflow) {
        /* transformers writes model_max_length 1000000000000000019884624838656 where a tokenizer has no limit */
        *out = json_loadb(text, size_bytes, flags | JSON_DECODE_INT_AS_REAL, &error);
        *out = *out == NULL ? NULL : restored(*out);
    }
    if (*out == NULL) {
        return fm_fail(FM_ERR_FORMAT, "%s: not valid JSON at line %d, column %d: %s", name, error.line, error.column, error.text);
    }
    return FM_OK;
}

int fm_json_read(json_t **out, const char *path, size_t limit_bytes)
{
    char *text;
    size_t size_bytes;
    *out = NULL;
    FM_TRY(fm_file_read(&text, &size_bytes, path, limit_bytes));
    const int rc = fm_json_parse(out, text, size_bytes, path);
    fm_free(text);
    return rc;
}

int fm_json_print(char **out, size_t *size_bytes, const json_t *value, int indent)
{
    const size_t flags = JSON_ENCODE_ANY | (indent == 0 ? JSON_COMPACT : JSON_INDENT((size_t)indent));
    const size_t length = json_dumpb(value, NULL, 0, flags);
    *out = length == 0 ? NULL : fm_alloc(length + 1, FM_MEMORY_HOST);
    if (*out == NULL) {
        return length == 0 ? fm_fail(FM_ERR_INTERNAL, "a JSON value has no text") : FM_ERR_MEMORY;
    }
    json_dumpb(value, *out, length, flags);
    if (size_bytes != NULL) {
        *size_bytes = length;
    }
    return FM_OK;
}

static const json_t *look_up(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static int wrong_type(const json_t *value, const char *key, const char *name, const char *expected)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    const int rc = fm_fail(FM_ERR_FORMAT, "%s: \"%s\" is %.100s, %s was expected", name, key, text != NULL ? text : "?", expected);
    free(text);
    return rc;
}

int fm_json_get_int(int64_t *out, const json_t *object, const char *key, int64_t low, int64_t high, const char *name)
{
    const json_t *value = look_up(object, key);
    if (value == NULL) {
        return FM_OK;
    }
    char expected[96];
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)low, (long long)high);
    if (!json_is_integer(value) || json_integer_value(value) < low || json_integer_value(value) > high) {
        return wrong_type(value, key, name, expected);
    }
    *out = json_integer_value(value);
    return FM_OK;
}

int fm_json_get_double(double *out, const json_t *object, const char *key, const char *name)
{
    const json_t *value = look_up(object, key);
    if (value == NULL) {
        return FM_OK;
    }
    if (!json_is_number(value)) {
        return wrong_type(value, key, name, "a number");
    }
    *out = json_number_value(value);
    return FM_OK;
}

int fm_json_get_bool(bool *out, const json_t *object, const char *key, const char *name)
{
    const json_t *value = look_up(object, key);
    if (value == NULL) {
        return FM_OK;
    }
    if (!json_is_boolean(value)) {
        return wrong_type(value, key, name, "true or false");
    }
    *out = json_is_true(value);
    return FM_OK;
}

int fm_json_get_string(const char **out, const json_t *object, const char *key, const char *name)
{
    const json_t *value = look_up(object, key);
    if (value == NULL) {
        return FM_OK;
    }
    if (!json_is_string(value)) {
        return wrong_type(value, key, name, "a string");
    }
    *out = json_string_value(value);
    return FM_OK;
}
