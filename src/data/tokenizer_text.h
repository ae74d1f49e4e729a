/* Growing bytes: what the steps of a tokenizer write their text and their ids into. Local. */
#ifndef FM_DATA_TOKENIZER_TEXT_H
#define FM_DATA_TOKENIZER_TEXT_H

#include <stddef.h>
#include <string.h>

#include "base/error.h"

/* A struct of zeros is empty. `bytes` is NULL until the first byte; it is owned here and freed by fm_text_free. */
typedef struct {
    char *bytes;
    size_t size_bytes, capacity_bytes;
} fm_text;

/* Makes room for more_bytes after the present ones. Error: memory; the text stays as it was. */
int fm_text_reserve(fm_text *text, size_t more_bytes);

/* Appends without looking at what is appended; `bytes` may not point into the text itself. */
static inline int fm_text_append(fm_text *text, const void *bytes, size_t size_bytes)
{
    if (size_bytes == 0) {
        return FM_OK;
    }
    if (text->capacity_bytes - text->size_bytes < size_bytes) {
        FM_TRY(fm_text_reserve(text, size_bytes));
    }
    memcpy(text->bytes + text->size_bytes, bytes, size_bytes);
    text->size_bytes += size_bytes;
    return FM_OK;
}

void fm_text_free(fm_text *text);

#endif
