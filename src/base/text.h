/* Texts that grow, and small questions about texts. All functions are local. */
#ifndef FM_BASE_TEXT_H
#define FM_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* A text under construction: start from a struct of zeros. After a failed allocation it is marked and stays as it is. */
typedef struct {
    char *data;                        /* 0-terminated; NULL while empty */
    size_t size_bytes;                 /* without the 0 */
    size_t capacity_bytes;
    bool failed;
} fm_text;

/* Appends formatted text. */
void fm_text_add(fm_text *text, const char *format, ...) FM_PRINTF(2, 3);

/* What was collected ("" where nothing was). Borrowed. */
const char *fm_text_get(const fm_text *text);

/* Hands the text over: *out is freed with fm_free; `text` is empty again. Error FM_ERR_MEMORY if any append failed. */
int fm_text_take(char **out, size_t *size_bytes, fm_text *text);

void fm_text_clear(fm_text *text);

enum { FM_DOUBLE_BYTES = 32 };

/* The shortest of %.1g .. %.17g that reads back as the same double; "nan", "inf" and "-inf" for what is no number. */
void fm_double_print(char out[FM_DOUBLE_BYTES], double value);

/* Least number of insertions, deletions, replacements and swaps of neighbours that turn a into b, without regard to case.
 * Only the first 63 bytes count. Source: Damerau-Levenshtein distance, optimal string alignment. */
int fm_edit_distance(const char *a, const char *b);

#endif
