#include "data/tokenizer_bytes.h"

#include <stdint.h>

#include "base/memory.h"

int fm_bytes_reserve(fm_bytes *buffer, size_t more_bytes)
{
    if (buffer->capacity_bytes - buffer->size_bytes >= more_bytes) {
        return FM_OK;
    }
    if (more_bytes > SIZE_MAX / 4 || buffer->size_bytes > SIZE_MAX / 4) {
        return fm_fail(FM_ERR_MEMORY, "out of memory: %zu more bytes asked for a tokenizer's buffer", more_bytes);
    }
    size_t capacity_bytes = buffer->capacity_bytes < 256 ? 256 : buffer->capacity_bytes * 2;
    if (capacity_bytes < buffer->size_bytes + more_bytes) {
        capacity_bytes = buffer->size_bytes + more_bytes;
    }
    char *grown = fm_grow(buffer->bytes, capacity_bytes, FM_MEMORY_HOST);
    if (grown == NULL) {
        return FM_ERR_MEMORY;
    }
    buffer->bytes = grown;
    buffer->capacity_bytes = capacity_bytes;
    return FM_OK;
}

void fm_bytes_free(fm_bytes *buffer)
{
    fm_free(buffer->bytes);
    *buffer = (fm_bytes){ 0 };
}
