/* A quick reader of the one JSON shape that comes in gigabytes: {"input_ids": [integers], "labels": [integers]}. It judges
 * nothing: whatever it does not know at sight is left to the JSON parser, which finds the same or says what is wrong. */
#ifndef FM_DATA_TOKEN_LINE_H
#define FM_DATA_TOKEN_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads a line into ids and labels, each with room for size_bytes / 2 + 1 numbers; *n_labels is -1 where there is no such
 * column. "attention_mask" is read and forgotten. Returns false (the arrays are then undefined) for any other key, a key
 * twice, escapes, numbers of more than 9 digits, and whatever is not such an object. Local. */
bool fm_token_line_scan(int32_t *ids, int64_t *n_ids, int32_t *labels, int64_t *n_labels, const char *line, size_t size_bytes);

#endif
