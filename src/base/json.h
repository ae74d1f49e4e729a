/* JSON through jansson, with limits for hostile files and errors that name file, line and key. All functions are local. */
#ifndef FM_BASE_JSON_H
#define FM_BASE_JSON_H

#include <jansson.h>

#include "base/error.h"

/* Levels of nesting, and arrays and objects in one text: each takes some hundred bytes of memory, however short it is. */
enum { FM_JSON_DEPTH = 512, FM_JSON_CONTAINERS = 1 << 22 };

/* Parses a text. `name` stands in errors ("FILE" or "FILE:LINE"). Duplicate keys, invalid UTF-8, 0 bytes (the six characters of an escaped
 * one are none), nesting deeper than FM_JSON_DEPTH, more than FM_JSON_CONTAINERS and anything after the value are errors; an integer beyond
 * 64 bits becomes a real (and whole reals beside it integers). The caller releases *out with json_decref. */
int fm_json_parse(json_t **out, const char *text, size_t size_bytes, const char *name);

/* Reads and parses a file of at most limit_bytes. */
int fm_json_read(json_t **out, const char *path, size_t limit_bytes);

/* The text of a value of any type: on one line where indent is 0, else indented by so many blanks; keys in their order, reals
 * with the 17 digits that round-trip. *size_bytes (NULL: not wanted) does not count the 0 byte at the end. The caller frees *out
 * with fm_free. */
int fm_json_print(char **out, size_t *size_bytes, const json_t *value, int indent);

/* Typed look-ups in an object. An absent key, or null, leaves *out as it is (the default) and is no error; a value of another
 * type or an integer outside [low, high] is one, which names `name` and the key. Strings are borrowed from the object. */
int fm_json_get_int(int64_t *out, const json_t *object, const char *key, int64_t low, int64_t high, const char *name);
int fm_json_get_double(double *out, const json_t *object, const char *key, const char *name);
int fm_json_get_bool(bool *out, const json_t *object, const char *key, const char *name);
int fm_json_get_string(const char **out, const json_t *object, const char *key, const char *name);

#endif
