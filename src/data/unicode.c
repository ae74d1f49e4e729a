#include "data/unicode.h"

#include <string.h>

#include "data/unicode_tables.h"

/* Hangul syllables are arithmetic: L (19) x V (21) x T (27 and none). */
enum {
    HANGUL_S = 0xac00, HANGUL_L = 0x1100, HANGUL_V = 0x1161, HANGUL_T = 0x11a7,
    HANGUL_N_L = 19, HANGUL_N_V = 21, HANGUL_N_T = 28, HANGUL_N_S = HANGUL_N_L * HANGUL_N_V * HANGUL_N_T,
    MAY_CHANGE = 0x80, CELL = 0x3f, N_CCC = 256,
    ASCII_WORD = 8,
};

size_t fm_unicode_check(const char *text, size_t size_bytes)
{
    const unsigned char *const p = (const unsigned char *)text;
    size_t at = 0;
    while (at < size_bytes) {
        uint64_t word;
        if (p[at] < 0x80 && size_bytes - at >= ASCII_WORD) {
            memcpy(&word, p + at, ASCII_WORD);
            if ((word & 0x8080808080808080ull) == 0) {
                at += ASCII_WORD;
                continue;
            }
        }
        if (p[at] < 0x80) {
            at++;
            continue;
        }
        const size_t length = fm_unicode_length(p[at]);
        if (p[at] < 0xc2 || p[at] > 0xf4 || length > size_bytes - at) {
            return at;
        }
        for (size_t i = 1; i < length; i++) {
            if ((p[at + i] & 0xc0) != 0x80) {
                return at;
            }
        }
        const unsigned char second = p[at + 1];
        if ((p[at] == 0xe0 && second < 0xa0) || (p[at] == 0xed && second > 0x9f) || (p[at] == 0xf0 && second < 0x90) ||
            (p[at] == 0xf4 && second > 0x8f)) {
            return at;
        }
        at += length;
    }
    return size_bytes;
}

size_t fm_unicode_put(char out[FM_UNICODE_UTF8_BYTES], uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

int fm_unicode_append(fm_bytes *out, uint32_t code)
{
    char bytes[FM_UNICODE_UTF8_BYTES];
    return fm_bytes_append(out, bytes, fm_unicode_put(bytes, code));
}

/* The value of the last run that starts at or before code. */
static unsigned run_value(const uint32_t *runs, int n_runs, uint32_t code)
{
    const uint32_t key = code << 8 | 0xff;
    int low = 0;
    for (int n = n_runs; n > 1;) {
        const int half = n / 2;
        low += runs[low + half] <= key ? half : 0;
        n -= half;
    }
    return runs[low] & 0xff;
}

unsigned fm_unicode_cell(uint32_t code)
{
    return run_value(fm_unicode_runs, fm_unicode_n_runs, code) & CELL;
}

static bool nfc_may_change(uint32_t code)
{
    return (run_value(fm_unicode_runs, fm_unicode_n_runs, code) & MAY_CHANGE) != 0;
}

static unsigned combining_class(uint32_t code)
{
    return code < 0x300 ? 0 : run_value(fm_unicode_ccc_runs, fm_unicode_n_ccc_runs, code);
}

uint64_t fm_unicode_class_cells(const char *name, size_t name_bytes)
{
    for (int i = 0; i < fm_unicode_n_classes; i++) {
        const char *const known = fm_unicode_classes[i].name;
        if (strlen(known) == name_bytes && memcmp(known, name, name_bytes) == 0) {
            return fm_unicode_classes[i].cells;
        }
    }
    return 0;
}

/* A character on its way through normalisation, with its combining class. */
typedef struct {
    uint32_t code;
    uint32_t ccc;
} mark;

static size_t n_marks(const fm_bytes *marks)
{
    return marks->size_bytes / sizeof(mark);
}

static int push_mark(fm_bytes *marks, uint32_t code)
{
    const mark m = { code, combining_class(code) };
    return fm_bytes_append(marks, &m, sizeof m);
}

static const fm_unicode_pair *find_pair(uint32_t code)
{
    int low = 0, high = fm_unicode_n_pairs - 1;
    while (low <= high) {
        const int middle = (low + high) / 2;
        if (fm_unicode_pairs[middle].code == code) {
            return &fm_unicode_pairs[middle];
        }
        if (fm_unicode_pairs[middle].code < code) {
            low = middle + 1;
        } else {
            high = middle - 1;
        }
    }
    return NULL;
}

/* The full decomposition: the first part may decompose again, the second never does. */
static int decompose(fm_bytes *marks, uint32_t code)
{
    if (code - HANGUL_S < HANGUL_N_S) {
        const uint32_t s = code - HANGUL_S;
        FM_TRY(push_mark(marks, HANGUL_L + s / (HANGUL_N_V * HANGUL_N_T)));
        FM_TRY(push_mark(marks, HANGUL_V + s % (HANGUL_N_V * HANGUL_N_T) / HANGUL_N_T));
        return s % HANGUL_N_T == 0 ? FM_OK : push_mark(marks, HANGUL_T + s % HANGUL_N_T);
    }
    const fm_unicode_pair *const pair = code < 0xc0 ? NULL : find_pair(code);
    if (pair == NULL) {
        return push_mark(marks, code);
    }
    FM_TRY(decompose(marks, pair->first));
    return pair->second == 0 ? FM_OK : push_mark(marks, pair->second);
}

/* Stable counting sort by combining class of marks[begin, end), none of which is a starter. */
static void sort_marks(mark *marks, mark *scratch, size_t n)
{
    size_t place[N_CCC + 1] = { 0 };
    for (size_t i = 0; i < n; i++) {
        place[marks[i].ccc + 1]++;
    }
    for (int c = 0; c < N_CCC; c++) {
        place[c + 1] += place[c];
    }
    for (size_t i = 0; i < n; i++) {
        scratch[place[marks[i].ccc]++] = marks[i];
    }
    memcpy(marks, scratch, n * sizeof *marks);
}

/* Insertion sort where it is short, as nearly always. */
static int order_marks(mark *marks, size_t n)
{
    enum { SHORT = 32 };
    if (n > SHORT) {
        fm_bytes scratch = { 0 };
        FM_TRY(fm_bytes_reserve(&scratch, n * sizeof *marks));
        sort_marks(marks, (mark *)(void *)scratch.bytes, n);
        fm_bytes_free(&scratch);
        return FM_OK;
    }
    for (size_t i = 1; i < n; i++) {
        const mark m = marks[i];
        size_t j = i;
        for (; j > 0 && marks[j - 1].ccc > m.ccc; j--) {
            marks[j] = marks[j - 1];
        }
        marks[j] = m;
    }
    return FM_OK;
}

static int order_all(mark *marks, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && marks[end].ccc != 0) {
            end++;
        }
        if (end - i > 1) {
            FM_TRY(order_marks(marks + i, end - i));
        }
        i = end + 1;
    }
    return FM_OK;
}

/* The character that first and second make, or 0. */
static uint32_t composition(uint32_t first, uint32_t second)
{
    if (first - HANGUL_L < HANGUL_N_L && second - HANGUL_V < HANGUL_N_V) {
        return HANGUL_S + ((first - HANGUL_L) * HANGUL_N_V + (second - HANGUL_V)) * HANGUL_N_T;
    }
    if (first - HANGUL_S < HANGUL_N_S && (first - HANGUL_S) % HANGUL_N_T == 0 && second - HANGUL_T - 1 < HANGUL_N_T - 1) {
        return first + (second - HANGUL_T);
    }
    int low = 0, high = fm_unicode_n_compositions - 1;
    while (low <= high) {
        const int middle = (low + high) / 2;
        const fm_unicode_pair *const pair = &fm_unicode_pairs[fm_unicode_compositions[middle]];
        if (pair->first == first && pair->second == second) {
            return pair->code;
        }
        if (pair->first < first || (pair->first == first && pair->second < second)) {
            low = middle + 1;
        } else {
            high = middle - 1;
        }
    }
    return 0;
}

/* Canonical composition in place (Unicode Standard, 3.11): each character joins the last starter unless something between them
 * has the same or a higher class. Returns the new length. */
static size_t compose(mark *marks, size_t n)
{
    size_t kept = 0, starter = 0;
    bool has_starter = false;
    for (size_t i = 0; i < n; i++) {
        const mark m = marks[i];
        const bool next_to = has_starter && starter + 1 == kept;
        const bool blocked = !has_starter || (!next_to && (marks[kept - 1].ccc >= m.ccc));
        const uint32_t joined = blocked ? 0 : composition(marks[starter].code, m.code);
        if (joined != 0) {
            marks[starter].code = joined;
            continue;
        }
        if (m.ccc == 0) {
            starter = kept;
            has_starter = true;
        }
        marks[kept++] = m;
    }
    return kept;
}

static int append_marks(fm_bytes *out, const mark *marks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        FM_TRY(fm_unicode_append(out, marks[i].code));
    }
    return FM_OK;
}

/* One stretch, decomposed, ordered and, for NFC, composed. `marks` is scratch that is kept between calls. */
static int normalise(fm_bytes *out, fm_bytes *marks, const char *text, size_t size_bytes, bool composes)
{
    marks->size_bytes = 0;
    for (size_t at = 0; at < size_bytes;) {
        FM_TRY(decompose(marks, fm_unicode_next(text, &at)));
    }
    mark *const list = (mark *)(void *)marks->bytes;
    FM_TRY(order_all(list, n_marks(marks)));
    return append_marks(out, list, composes ? compose(list, n_marks(marks)) : n_marks(marks));
}

int fm_unicode_nfd(fm_bytes *out, const char *text, size_t size_bytes)
{
    fm_bytes marks = { 0 };
    const int rc = normalise(out, &marks, text, size_bytes, false);
    fm_bytes_free(&marks);
    return rc;
}

/* NFC changes nothing between two characters that it leaves alone, so that only what lies from the last such character before a
 * suspect to the next one after it is taken apart. */
int fm_unicode_nfc(fm_bytes *out, const char *text, size_t size_bytes)
{
    fm_bytes marks = { 0 };
    int rc = FM_OK;
    size_t done = 0, last_safe = 0;
    for (size_t at = 0; at < size_bytes;) {
        const size_t begin = at;
        if ((unsigned char)text[at] < 0x80 || !nfc_may_change(fm_unicode_next(text, &at))) {
            at = begin + fm_unicode_length((unsigned char)text[begin]);
            last_safe = begin;
            continue;
        }
        size_t end = at;
        while (end < size_bytes) {
            size_t next = end;
            if (!nfc_may_change(fm_unicode_next(text, &next))) {
                break;
            }
            end = next;
        }
        FM_TRY_TO(out, rc, fm_bytes_append(out, text + done, last_safe - done));
        FM_TRY_TO(out, rc, normalise(out, &marks, text + last_safe, end - last_safe, true));
        done = last_safe = at = end;
    }
    rc = fm_bytes_append(out, text + done, size_bytes - done);
out:
    fm_bytes_free(&marks);
    return rc;
}
