#include "data/token_line.h"

#include <string.h>

enum { MOST_DIGITS = 9, COLUMNS = 3 };

/* A line is copied nowhere: `end` bounds every look ahead. */
typedef struct {
    const char *at, *end;
} cursor;

static void skip_space(cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\r')) {
        c->at++;
    }
}

/* White space, then this character. */
static bool take(cursor *c, char wanted)
{
    skip_space(c);
    if (c->at == c->end || *c->at != wanted) {
        return false;
    }
    c->at++;
    return true;
}

static bool take_integer(cursor *c, int32_t *out)
{
    const bool negative = c->at < c->end && *c->at == '-';
    const char *first = c->at + negative;
    const char *p = first;
    int32_t value = 0;
    for (; p < c->end && p - first < MOST_DIGITS; p++) {
        const unsigned digit = (unsigned)*p - '0';
        if (digit > 9) {
            break;
        }
        value = value * 10 + (int32_t)digit;
    }
    if (p == first || (*first == '0' && (p - first > 1 || negative))) {
        return false;
    }
    *out = negative ? -value : value;
    c->at = p;
    return true; /* a tenth digit, a point or an exponent is no separator and ends the scan there */
}

/* "[1, 2, 3]" into out, or nowhere. */
static bool take_integers(cursor *c, int32_t *out, int64_t *n)
{
    *n = 0;
    if (!take(c, '[')) {
        return false;
    }
    if (take(c, ']')) {
        return true;
    }
    do {
        int32_t value;
        skip_space(c);
        if (!take_integer(c, &value)) {
            return false;
        }
        if (out != NULL) {
            out[*n] = value;
        }
        ++*n;
    } while (take(c, ','));
    return take(c, ']');
}

static int take_key(cursor *c)
{
    static const char *const names[COLUMNS] = { "input_ids\"", "labels\"", "attention_mask\"" };
    if (take(c, '"')) {
        for (int i = 0; i < COLUMNS; i++) {
            const size_t length = strlen(names[i]);
            if ((size_t)(c->end - c->at) >= length && memcmp(c->at, names[i], length) == 0) {
                c->at += length;
                return take(c, ':') ? i : -1;
            }
        }
    }
    return -1;
}

bool fm_token_line_scan(int32_t *ids, int64_t *n_ids, int32_t *labels, int64_t *n_labels, const char *line, size_t size_bytes)
{
    cursor c = { line, line + size_bytes };
    int32_t *const out[COLUMNS] = { ids, labels, NULL };
    int64_t n[COLUMNS] = { -1, -1, -1 };
    if (!take(&c, '{')) {
        return false;
    }
    do {
        const int column = take_key(&c);
        if (column < 0 || n[column] >= 0 || !take_integers(&c, out[column], &n[column])) {
            return false;
        }
    } while (take(&c, ','));
    const bool whole = take(&c, '}');
    skip_space(&c);
    *n_ids = n[0];
    *n_labels = n[1];
    return whole && c.at == c.end && n[0] >= 0;
}
