/* The generated tables behind data/unicode.h: what the tokenizers library thinks of each character. */
#ifndef FM_DATA_UNICODE_TABLES_H
#define FM_DATA_UNICODE_TABLES_H

#include <stdint.h>

/* A named class as a set of cells (bit i: cell i belongs to it). Characters that are in the same classes share a cell. */
typedef struct {
    const char *name;
    uint64_t cells;
} fm_unicode_class;

/* One step of canonical decomposition: code -> first, second; second is 0 where code becomes one other character. */
typedef struct {
    uint32_t code, first, second;
} fm_unicode_pair;

/* First code point << 8 | value, ascending; a value holds until the next entry. In fm_unicode_runs it is the cell in bits 0 to 5
 * and, in bit 7, whether NFC may change the character or what stands next to it. */
extern const uint32_t fm_unicode_runs[];
extern const int fm_unicode_n_runs;

/* The same for canonical combining classes. */
extern const uint32_t fm_unicode_ccc_runs[];
extern const int fm_unicode_n_ccc_runs;

/* Ascending by name: general categories (L, Lu, ...), "space" and "word" as \s and \w see them, "numeric" as the Digits
 * pre-tokenizer does, "single_word" as added tokens do. */
extern const fm_unicode_class fm_unicode_classes[];
extern const int fm_unicode_n_classes;

/* Ascending by code; Hangul syllables are left to arithmetic. */
extern const fm_unicode_pair fm_unicode_pairs[];
extern const int fm_unicode_n_pairs;

/* Indices of the pairs that compose again, ascending by (first, second). */
extern const uint16_t fm_unicode_compositions[];
extern const int fm_unicode_n_compositions;

#endif
