/* Characters as the tokenizers library sees them: UTF-8, classes, canonical decomposition and composition. All functions are
 * local and thread-safe. */
#ifndef FM_DATA_UNICODE_H
#define FM_DATA_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data/tokenizer_bytes.h"

enum { FM_UNICODE_LIMIT = 0x110000, FM_UNICODE_UTF8_BYTES = 4 };

/* Offset of the first byte that is not valid UTF-8 (overlong forms and surrogates are not), or size_bytes where all is. */
size_t fm_unicode_check(const char *text, size_t size_bytes);

/* Bytes of the character that starts with `lead`, in valid UTF-8. */
static inline size_t fm_unicode_length(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* The character at text[*at], which must be valid UTF-8; *at moves past it. */
static inline uint32_t fm_unicode_next(const char *text, size_t *at)
{
    const unsigned char *p = (const unsigned char *)text + *at;
    if (p[0] < 0x80) {
        *at += 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *at += 2;
        return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    }
    if (p[0] < 0xf0) {
        *at += 3;
        return (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    }
    *at += 4;
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

/* Where the character before text[at] starts; at > 0. */
static inline size_t fm_unicode_back(const char *text, size_t at)
{
    do {
        at--;
    } while (((unsigned char)text[at] & 0xc0) == 0x80);
    return at;
}

/* UTF-8 of a code point; returns its length. */
size_t fm_unicode_put(char out[FM_UNICODE_UTF8_BYTES], uint32_t code);

/* Appends a code point as UTF-8. */
int fm_unicode_append(fm_bytes *out, uint32_t code);

/* The cell of a code point: characters of one cell are in the same classes. */
unsigned fm_unicode_cell(uint32_t code);

/* The cells of a named class ("L", "Lu", "space", "word", "numeric", "single_word"; name_bytes long), or 0 where there is none
 * of that name. */
uint64_t fm_unicode_class_cells(const char *name, size_t name_bytes);

static inline bool fm_unicode_in(uint32_t code, uint64_t cells)
{
    return (cells >> fm_unicode_cell(code) & 1) != 0;
}

/* Appends the canonical composition (NFC) or decomposition (NFD) of valid UTF-8. Linear time, long runs of marks too.
 * Error: memory. */
int fm_unicode_nfc(fm_bytes *out, const char *text, size_t size_bytes);
int fm_unicode_nfd(fm_bytes *out, const char *text, size_t size_bytes);

#endif
