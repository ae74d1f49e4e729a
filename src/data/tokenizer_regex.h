/* The regular expressions of tokenizer.json: as much of Oniguruma's syntax as split patterns use, matched by backtracking on a
 * heap of its own, so that no run of text is too long, with the character classes of data/unicode.h.
 *
 * Understood: literals, escapes (\r \n \t \f \v \xHH \x{H} \uHHHH), \s \d \w \p{General_Category} and their negations, [classes]
 * with ranges, (groups), (?:groups), (?i:groups) of ASCII letters, | , ? * + {m,n} with their lazy forms and possessive ?+ *+ ++,
 * (?=lookahead), (?!lookahead), (?>atomic), ^ $ as line ends and \A \z as text ends. Anything else is an error that names it.
 * All functions are local; a compiled expression is constant and may be used by many threads. */
#ifndef FM_DATA_TOKENIZER_REGEX_H
#define FM_DATA_TOKENIZER_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "data/tokenizer_bytes.h"

typedef struct fm_regex fm_regex;

/* Attempts at one place of a text, a tenth of Oniguruma's default: (a|a)*b would take as many as there are ways through a text. */
enum { FM_REGEX_RETRIES = 1000000 };

/* Compiles a pattern of valid UTF-8; the caller destroys it. `name` stands in errors.
 * Errors: FM_ERR_UNSUPPORTED for syntax beyond the above, FM_ERR_FORMAT for a pattern that is none. */
int fm_regex_new(fm_regex **out, const char *pattern, size_t size_bytes, const char *name);
void fm_regex_destroy(fm_regex *regex);

/* The first match at or after *begin in valid UTF-8: 1 with [*begin, *end) set, 0 where there is none, or an error (memory;
 * FM_ERR_FORMAT after FM_REGEX_RETRIES attempts at one place).
 * `stack` is scratch that the caller keeps between calls and frees. */
int fm_regex_find(size_t *begin, size_t *end, const fm_regex *regex, const char *text, size_t size_bytes, fm_bytes *stack);

#endif
