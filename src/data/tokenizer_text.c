#include "data/tokenizer_text.h"

#include <stdint.h>

#include "base/memory.h"

int fm_text_reserve(fm_text *text, size_t more_bytes)
{
    if (text->capacity_bytes - text->size_bytes >= more_bytes) {
        return FM_OK;
    }
    if (more_bytes > SIZE_MAX / 4 || text->size_bytes > SIZE_MAX / 4) {
        return fm_fail(FM_ERR_MEMORY, "out of memory: %zu more bytes asked for a text", more_bytes);
    }
    size_t capacity_bytes = text->capacity_bytes < 256 ? 256 : text->capacity_bytes * 2;
    if (capacity_bytes < text->size_bytes + more_bytes) {
        capacity_bytes = text->size_bytes + more_bytes;
    }
    char *grown = fm_grow(text->bytes, capacity_bytes, FM_MEMORY_HOST);
    if (grown == NULL) {
        return FM_ERR_MEMORY;
    }
    text->bytes = grown;
    text->capacity_bytes = capacity_bytes;
    return FM_OK;
}

void fm_text_free(fm_text *text)
{
    fm_free(text->bytes);
    *text = (fm_text){ 0 };
}
