/* INI files, as iniparser reads them, with the line of every entry. A scan of the same text refuses what iniparser would swallow
 * in silence: repeated keys, keys without '=', lines that are too long, continuation lines, quotes left open, text after a quote.
 * All functions are local. */
#ifndef FM_BASE_INI_H
#define FM_BASE_INI_H

#include <stddef.h>

#include "base/complaints.h"

/* Longest line with its newline: iniparser's limit. */
enum { FM_INI_LINE_BYTES = 1023 };

typedef struct {
    char *section;                     /* lower case; "" before the first section */
    char *key;                         /* lower case; NULL: the line opens the section */
    char *value;                       /* trimmed, unquoted; "" where nothing stands after '='; NULL with key */
    int line;                          /* from 1 */
} fm_ini_entry;

/* In the order of the file. Start from a struct of zeros. */
typedef struct {
    fm_ini_entry *entries;             /* [n] */
    int n;
} fm_ini;

/* Parses a text of size_bytes that came from `file_name`. What is wrong with it goes to `complaints` as "FILE:LINE: ...", and the
 * rest of the file is parsed all the same. Returns an error only where it could not work at all (memory, a temporary file).
 * Free with fm_ini_clear, after an error too. */
int fm_ini_parse(fm_ini *out, fm_complaints *complaints, const char *text, size_t size_bytes, const char *file_name);
void fm_ini_clear(fm_ini *ini);

/* `value` as it must be written after "key = " so that fm_ini_parse gives it back; quotes are added where they are needed.
 * False where no way of writing does it (control characters, both kinds of quotes, no room on a line with this key). */
bool fm_ini_write_value(fm_text *out, const char *key, const char *value);

#endif
