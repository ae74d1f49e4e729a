#include "base/text.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static bool reserve(fm_text *text, size_t more_bytes)
{
    if (text->failed) {
        return false;
    }
    const size_t needed = text->size_bytes + more_bytes + 1;
    if (needed <= text->capacity_bytes) {
        return true;
    }
    const size_t capacity = needed < 256 ? 256 : 2 * needed;
    char *data = fm_grow(text->data, capacity, FM_MEMORY_HOST);
    if (data == NULL) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity_bytes = capacity;
    return true;
}

void fm_text_add(fm_text *text, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int length = vsnprintf(NULL, 0, format, args);
    if (length >= 0 && reserve(text, (size_t)length)) {
        vsnprintf(text->data + text->size_bytes, (size_t)length + 1, format, again);
        text->size_bytes += (size_t)length;
    }
    va_end(again);
    va_end(args);
}

const char *fm_text_get(const fm_text *text)
{
    return text->data != NULL ? text->data : "";
}

int fm_text_take(char **out, size_t *size_bytes, fm_text *text)
{
    *out = NULL;
    if (!reserve(text, 0)) {
        fm_text_clear(text);
        return FM_ERR_MEMORY;
    }
    *out = text->data;
    if (size_bytes != NULL) {
        *size_bytes = text->size_bytes;
    }
    *text = (fm_text){ 0 };
    return FM_OK;
}

void fm_text_clear(fm_text *text)
{
    fm_free(text->data);
    *text = (fm_text){ 0 };
}

void fm_double_print(char out[FM_DOUBLE_BYTES], double value)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, FM_DOUBLE_BYTES, "%.*g", digits, value);
        if (strtod(out, NULL) == value) {
            return;
        }
    }
}

enum { DISTANCE_BYTES = 64 };

static int least(int a, int b)
{
    return a < b ? a : b;
}

int fm_edit_distance(const char *a, const char *b)
{
    const int n = (int)strnlen(a, DISTANCE_BYTES - 1);
    const int m = (int)strnlen(b, DISTANCE_BYTES - 1);
    int d[DISTANCE_BYTES][DISTANCE_BYTES];          /* d[i][j]: from the first i bytes of a to the first j of b */
    for (int i = 0; i <= n; i++) {
        for (int j = 0; j <= m; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = i + j;
                continue;
            }
            const int x = tolower((unsigned char)a[i - 1]);
            const int y = tolower((unsigned char)b[j - 1]);
            d[i][j] = least(d[i - 1][j - 1] + (x != y), 1 + least(d[i - 1][j], d[i][j - 1]));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) && y == tolower((unsigned char)a[i - 2])) {
                d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
            }
        }
    }
    return d[n][m];
}
