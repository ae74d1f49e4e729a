/* Growing arrays of bytes: what the steps of a tokenizer write their text, words and ids into. (base/text.h formats sentences;
 * this appends millions of small pieces, which may hold 0 bytes.) Local. */
#ifndef FM_DATA_TOKENIZER_BYTES_H
#define FM_DATA_TOKENIZER_BYTES_H

#include <stddef.h>
#include <string.h>

#include "base/error.h"

/* A struct of zeros is empty. `bytes` is NULL until the first byte; it is owned here and freed by fm_bytes_free. */
typedef struct {
    char *bytes;
    size_t size_bytes, capacity_bytes;
} fm_bytes;

/* Makes room for more_bytes after the present ones. Error: memory; the buffer stays as it was. */
int fm_bytes_reserve(fm_bytes *buffer, size_t more_bytes);

/* Appends without looking at what is appended; `bytes` may not point into the buffer itself. */
static inline int fm_bytes_append(fm_bytes *buffer, const void *bytes, size_t size_bytes)
{
    if (size_bytes == 0) {
        return FM_OK;
    }
    if (buffer->capacity_bytes - buffer->size_bytes < size_bytes) {
        FM_TRY(fm_bytes_reserve(buffer, size_bytes));
    }
    memcpy(buffer->bytes + buffer->size_bytes, bytes, size_bytes);
    buffer->size_bytes += size_bytes;
    return FM_OK;
}

void fm_bytes_free(fm_bytes *buffer);

#endif
