#include "data/tokenizer_regex.h"

#include <string.h>

#include "base/memory.h"
#include "data/tokenizer_regex_program.h"
#include "data/unicode.h"

enum { MAX_DEPTH = 32, MAX_STEPS = 20000, MAX_TIMES = 1000, MAX_CODE_DIGITS = 8 };

/* A recursive descent over the pattern that writes steps as it goes. */
typedef struct {
    fm_regex *regex;
    const char *pattern;
    size_t size_bytes, at;
    const char *name;
    bool ignores_case;
    int depth;
} parser;

/* Where something was compiled and whether it can match nothing. */
typedef struct {
    int first;
    bool may_be_empty;
} piece;

static int parse_alternatives(parser *p, piece *out);

static int unsupported(const parser *p, size_t at, const char *what)
{
    const int shown = (int)(p->size_bytes - at < 12 ? p->size_bytes - at : 12);
    const int all = (int)(p->size_bytes < 200 ? p->size_bytes : 200);
    return fm_fail(FM_ERR_UNSUPPORTED, "%s: the regular expression \"%.*s\" has %s at byte %zu (\"%.*s\"), which finemesh does "
                   "not know; it knows literals, classes, \\s \\d \\w \\p{category}, groups, (?i:), | ? * + {m,n}, lookahead and "
                   "line ends", p->name, all, p->pattern, what, at, shown, p->pattern + at);
}

static int n_steps(const parser *p)
{
    return (int)(p->regex->steps.size_bytes / sizeof(fm_regex_step));
}

static fm_regex_step *step_at(const parser *p, int i)
{
    return (fm_regex_step *)(void *)p->regex->steps.bytes + i;
}

static int emit(parser *p, fm_regex_step step)
{
    if (n_steps(p) >= MAX_STEPS) {
        return unsupported(p, p->at < p->size_bytes ? p->at : 0, "too many parts");
    }
    return fm_bytes_append(&p->regex->steps, &step, sizeof step);
}

/* Puts a step before steps[first]; offsets are relative, so that what moves stays right. */
static int insert(parser *p, int first, fm_regex_step step)
{
    FM_TRY(emit(p, step));
    fm_regex_step *const steps = step_at(p, 0);
    memmove(steps + first + 1, steps + first, (size_t)(n_steps(p) - 1 - first) * sizeof *steps);
    steps[first] = step;
    return FM_OK;
}

static bool more(const parser *p)
{
    return p->at < p->size_bytes;
}

static bool accept(parser *p, const char *text)
{
    const size_t n = strlen(text);
    if (p->size_bytes - p->at < n || memcmp(p->pattern + p->at, text, n) != 0) {
        return false;
    }
    p->at += n;
    return true;
}

static void set_add_cells(fm_regex_set *set, uint64_t cells)
{
    set->cells |= cells;
    for (uint32_t c = 0; c < 128; c++) {
        if (fm_unicode_in(c, cells)) {
            set->ascii[c >> 6] |= 1ull << (c & 63);
        }
    }
}

static int set_add_range(parser *p, fm_regex_set *set, uint32_t low, uint32_t high)
{
    for (uint32_t c = low; c <= high && c < 128; c++) {
        set->ascii[c >> 6] |= 1ull << (c & 63);
    }
    if (high < 128) {
        return FM_OK;
    }
    const fm_regex_range range = { low < 128 ? 128 : low, high };
    set->n_ranges++;
    return fm_bytes_append(&p->regex->ranges, &range, sizeof range);
}

/* One character, with its other case inside (?i:). Long s and the Kelvin sign fold to ASCII letters. */
static int set_add_code(parser *p, fm_regex_set *set, uint32_t code)
{
    enum { LONG_S = 0x17f, KELVIN = 0x212a, CASE_BIT = 0x20 };
    FM_TRY(set_add_range(p, set, code, code));
    const uint32_t lower = code | CASE_BIT;
    if (!p->ignores_case) {
        return FM_OK;
    }
    if (code >= 128) {
        return unsupported(p, p->at, "a character beyond ASCII, in a part that ignores case, before what stands");
    }
    if (lower < 'a' || lower > 'z') {
        return FM_OK;
    }
    FM_TRY(set_add_range(p, set, code ^ CASE_BIT, code ^ CASE_BIT));
    if (lower == 's' || lower == 'k') {
        const uint32_t other = lower == 's' ? LONG_S : KELVIN;
        return set_add_range(p, set, other, other);
    }
    return FM_OK;
}

static fm_regex_set new_set(const parser *p)
{
    return (fm_regex_set){ .first_range = (int32_t)(p->regex->ranges.size_bytes / sizeof(fm_regex_range)) };
}

static int emit_set(parser *p, const fm_regex_set *set)
{
    const int index = (int)(p->regex->sets.size_bytes / sizeof *set);
    FM_TRY(fm_bytes_append(&p->regex->sets, set, sizeof *set));
    return emit(p, (fm_regex_step){ .op = FM_REGEX_SET, .set = index });
}

/* \p{Name}, \P{Name}, \p{^Name}: *at stands behind the p. */
static int parse_property(parser *p, uint64_t *cells, bool negated)
{
    const size_t start = p->at;
    if (!accept(p, "{")) {
        return unsupported(p, start, "\\p without {");
    }
    negated = negated != accept(p, "^");
    const size_t name = p->at;
    while (more(p) && p->pattern[p->at] != '}') {
        p->at++;
    }
    const size_t name_bytes = p->at - name;
    if (!accept(p, "}")) {
        return fm_fail(FM_ERR_FORMAT, "%s: the regular expression has an unclosed \\p{ at byte %zu", p->name, start);
    }
    enum { CATEGORY_BYTES = 2 };              /* longer names in the table are not Unicode's */
    *cells = name_bytes <= CATEGORY_BYTES ? fm_unicode_class_cells(p->pattern + name, name_bytes) : 0;
    if (*cells == 0 || p->ignores_case) {
        return unsupported(p, start, p->ignores_case ? "a property in a part that ignores case" : "a property");
    }
    *cells = negated ? ~*cells : *cells;
    return FM_OK;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

/* The digits of \xHH, \x{H...} and \uHHHH. */
static int parse_code(parser *p, uint32_t *code, char kind)
{
    const size_t start = p->at;
    const bool braced = kind == 'x' && accept(p, "{");
    const int most = braced ? MAX_CODE_DIGITS : kind == 'x' ? 2 : 4;
    int n = 0;
    *code = 0;
    for (int digit; n < most && more(p) && (digit = hex_digit(p->pattern[p->at])) >= 0; n++, p->at++) {
        *code = *code << 4 | (uint32_t)digit;
    }
    if (n == 0 || (braced && !accept(p, "}")) || (kind == 'u' && n != 4) || *code >= FM_UNICODE_LIMIT) {
        return fm_fail(FM_ERR_FORMAT, "%s: the regular expression has no character number at byte %zu", p->name, start);
    }
    return FM_OK;
}

/* An escape that stands for one character (*is_class false) or for a class. The backslash is behind. */
static int parse_escape(parser *p, uint32_t *code, uint64_t *cells, bool *is_class)
{
    static const struct {
        char letter;
        const char *class_name;
    } classes[] = { { 's', "space" }, { 'd', "Nd" }, { 'w', "word" } };
    static const char controls[][2] = { { 'n', '\n' }, { 'r', '\r' }, { 't', '\t' }, { 'f', '\f' }, { 'v', '\v' }, { 'a', '\a' },
                                        { 'e', 0x1b } };
    const size_t start = p->at - 1;
    if (!more(p)) {
        return fm_fail(FM_ERR_FORMAT, "%s: the regular expression ends in a backslash", p->name);
    }
    const char c = p->pattern[p->at];
    *is_class = true;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        if ((c | 0x20) == classes[i].letter) {
            p->at++;
            *cells = fm_unicode_class_cells(classes[i].class_name, strlen(classes[i].class_name));
            *cells = c == classes[i].letter ? *cells : ~*cells;
            return FM_OK;
        }
    }
    if (c == 'p' || c == 'P') {
        p->at++;
        return parse_property(p, cells, c == 'P');
    }
    *is_class = false;
    for (size_t i = 0; i < sizeof controls / sizeof *controls; i++) {
        if (c == controls[i][0]) {
            p->at++;
            *code = (uint32_t)controls[i][1];
            return FM_OK;
        }
    }
    if (c == 'x' || c == 'u') {
        p->at++;
        return parse_code(p, code, c);
    }
    if ((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')) {
        return unsupported(p, start, "an escape");
    }
    *code = fm_unicode_next(p->pattern, &p->at);
    return FM_OK;
}

/* One member of a [class]: a character, a class, or the two ends of a range. */
static int parse_class_member(parser *p, fm_regex_set *set)
{
    const size_t start = p->at;
    uint32_t low = 0, high = 0;
    uint64_t cells = 0;
    bool is_class = false;
    if (p->pattern[p->at] == '[' || (p->size_bytes - p->at > 1 && memcmp(p->pattern + p->at, "&&", 2) == 0)) {
        return unsupported(p, start, "a class within a class");
    }
    if (accept(p, "\\")) {
        FM_TRY(parse_escape(p, &low, &cells, &is_class));
    } else {
        low = fm_unicode_next(p->pattern, &p->at);
    }
    if (is_class) {
        set_add_cells(set, cells);
        return FM_OK;
    }
    if (p->size_bytes - p->at < 2 || p->pattern[p->at] != '-' || p->pattern[p->at + 1] == ']') {
        return set_add_code(p, set, low);
    }
    p->at++;
    if (accept(p, "\\")) {
        FM_TRY(parse_escape(p, &high, &cells, &is_class));
    } else {
        high = fm_unicode_next(p->pattern, &p->at);
    }
    if (is_class || high < low) {
        return fm_fail(FM_ERR_FORMAT, "%s: the regular expression has a range without ascending ends: byte %zu", p->name,
                       start);
    }
    if (p->ignores_case && high >= 128) {
        return unsupported(p, start, "a range beyond ASCII in a part that ignores case");
    }
    for (uint32_t c = low; p->ignores_case && c <= high; c++) {
        FM_TRY(set_add_code(p, set, c));
    }
    return set_add_range(p, set, low, high);
}

/* [...]; the bracket is behind. A ] that comes first is a literal. */
static int parse_class(parser *p)
{
    const size_t start = p->at - 1;
    fm_regex_set set = new_set(p);
    set.negated = accept(p, "^");
    bool first = true;
    while (more(p) && (first || p->pattern[p->at] != ']')) {
        first = false;
        FM_TRY(parse_class_member(p, &set));
    }
    if (!accept(p, "]")) {
        return fm_fail(FM_ERR_FORMAT, "%s: the regular expression has an unclosed [ at byte %zu", p->name, start);
    }
    if (set.negated) {
        set.ascii[0] = ~set.ascii[0];
        set.ascii[1] = ~set.ascii[1];
    }
    return emit_set(p, &set);
}

/* What stands behind an opening parenthesis. */
static int parse_group(parser *p, piece *out)
{
    static const struct {
        const char *text;
        int op;
    } kinds[] = { { "?=", FM_REGEX_LOOK }, { "?!", FM_REGEX_LOOK_NOT }, { "?>", FM_REGEX_ATOMIC } };
    const size_t start = p->at - 1;
    const bool ignored = p->ignores_case;
    int op = -1;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && op < 0; i++) {
        op = accept(p, kinds[i].text) ? kinds[i].op : -1;
    }
    if (op < 0 && accept(p, "?i:")) {
        p->ignores_case = true;
    } else if (op < 0 && !accept(p, "?:") && more(p) && p->pattern[p->at] == '?') {
        return unsupported(p, start, "a kind of group");
    }
    if (++p->depth > MAX_DEPTH) {
        return unsupported(p, start, "groups nested too deep");
    }
    FM_TRY(parse_alternatives(p, out));
    p->depth--;
    p->ignores_case = ignored;
    if (!accept(p, ")")) {
        return fm_fail(FM_ERR_FORMAT, "%s: the regular expression has an unclosed ( at byte %zu", p->name, start);
    }
    if (op < 0) {
        return FM_OK;
    }
    out->may_be_empty = out->may_be_empty || op != FM_REGEX_ATOMIC;
    FM_TRY(emit(p, (fm_regex_step){ .op = FM_REGEX_ACCEPT }));
    const int length = n_steps(p) - out->first;
    return insert(p, out->first, (fm_regex_step){ .op = op, .to = length + 1 });
}

static int parse_atom(parser *p, piece *out)
{
    static const struct {
        const char *text;
        int op;
    } borders[] = { { "^", FM_REGEX_LINE_BEGIN }, { "$", FM_REGEX_LINE_END }, { "\\A", FM_REGEX_TEXT_BEGIN },
                    { "\\z", FM_REGEX_TEXT_END } };
    *out = (piece){ n_steps(p), false };
    for (size_t i = 0; i < sizeof borders / sizeof *borders; i++) {
        if (accept(p, borders[i].text)) {
            out->may_be_empty = true;
            return emit(p, (fm_regex_step){ .op = borders[i].op });
        }
    }
    if (accept(p, "(")) {
        return parse_group(p, out);
    }
    if (accept(p, "[")) {
        return parse_class(p);
    }
    fm_regex_set set = new_set(p);
    if (accept(p, ".")) {
        set.negated = true;
        set.ascii[0] = ~(1ull << '\n');
        set.ascii[1] = ~0ull;
        return emit_set(p, &set);
    }
    uint32_t code = 0;
    uint64_t cells = 0;
    bool is_class = false;
    if (p->pattern[p->at] == '*' || p->pattern[p->at] == '+' || p->pattern[p->at] == '?') {
        return fm_fail(FM_ERR_FORMAT, "%s: the regular expression repeats nothing at byte %zu", p->name, p->at);
    }
    if (accept(p, "\\")) {
        FM_TRY(parse_escape(p, &code, &cells, &is_class));
    } else {
        code = fm_unicode_next(p->pattern, &p->at);
    }
    if (is_class) {
        set_add_cells(&set, cells);
    } else {
        FM_TRY(set_add_code(p, &set, code));
    }
    return emit_set(p, &set);
}

/* {m}, {m,}, {,n}, {m,n}; anything else in braces is literal text and leaves *found false. */
static int parse_times(parser *p, int *min, int *max, bool *found)
{
    const size_t start = p->at;
    long bounds[2] = { -1, -1 };
    bool comma = false;
    *found = false;
    p->at++;
    for (; more(p) && p->pattern[p->at] != '}'; p->at++) {
        const char c = p->pattern[p->at];
        if (c == ',' && !comma) {
            comma = true;
        } else if (c >= '0' && c <= '9' && bounds[comma] <= MAX_TIMES) {
            bounds[comma] = (bounds[comma] < 0 ? 0 : bounds[comma]) * 10 + (c - '0');
        } else {
            p->at = start;
            return FM_OK;
        }
    }
    if (!more(p) || (bounds[0] < 0 && bounds[1] < 0)) {
        p->at = start;
        return FM_OK;
    }
    p->at++;
    *min = bounds[0] < 0 ? 0 : (int)bounds[0];
    *max = !comma ? *min : bounds[1] < 0 ? FM_REGEX_NO_LIMIT : (int)bounds[1];
    *found = true;
    if (*min > MAX_TIMES || (*max != FM_REGEX_NO_LIMIT && *max > MAX_TIMES) || *max < *min) {
        return unsupported(p, start, "a number of repetitions");
    }
    /* Oniguruma reads {n}? as an optional {n}, and {m,n}+ as a repeated {m,n} */
    if (more(p) && (p->pattern[p->at] == '+' || p->pattern[p->at] == '*' || (p->pattern[p->at] == '?' && !comma))) {
        return unsupported(p, start, "a repetition behind {m,n}");
    }
    return FM_OK;
}

static int append_copy(parser *p, const fm_regex_step *steps, int n)
{
    for (int i = 0; i < n; i++) {
        FM_TRY(emit(p, steps[i]));
    }
    return FM_OK;
}

/* body* (min copies first), or body optional up to max times: each copy behind a SPLIT that can leave it out. */
static int emit_repeat(parser *p, const fm_regex_step *body, int n, int min, int max, bool lazy)
{
    for (int i = 0; i < min; i++) {
        FM_TRY(append_copy(p, body, n));
    }
    const bool unbounded = max == FM_REGEX_NO_LIMIT;
    for (int left = unbounded ? 1 : max - min; left > 0; left--) {
        const int over = unbounded ? n + 2 : left * (n + 1);
        FM_TRY(emit(p, (fm_regex_step){ .op = FM_REGEX_SPLIT, .to = lazy ? over : 1, .other = lazy ? 1 : over }));
        FM_TRY(append_copy(p, body, n));
    }
    return unbounded ? emit(p, (fm_regex_step){ .op = FM_REGEX_JUMP, .to = -(n + 1) }) : FM_OK;
}

static int repeat_group(parser *p, int first, int min, int max, char mode)
{
    const int n = n_steps(p) - first;
    fm_bytes body = { 0 };
    int rc = fm_bytes_append(&body, step_at(p, first), (size_t)n * sizeof(fm_regex_step));
    if (rc == FM_OK) {
        p->regex->steps.size_bytes -= (size_t)n * sizeof(fm_regex_step);
        rc = emit_repeat(p, (const fm_regex_step *)(const void *)body.bytes, n, min, max, mode == '?');
    }
    if (rc == FM_OK && mode == '+') {
        rc = emit(p, (fm_regex_step){ .op = FM_REGEX_ACCEPT });
        if (rc == FM_OK) {
            rc = insert(p, first, (fm_regex_step){ .op = FM_REGEX_ATOMIC, .to = n_steps(p) - first + 1 });
        }
    }
    fm_bytes_free(&body);
    return rc;
}

/* An atom and the quantifiers behind it. */
static int parse_repeated(parser *p, piece *out)
{
    FM_TRY(parse_atom(p, out));
    while (more(p)) {
        const size_t start = p->at;
        int min = 0, max = FM_REGEX_NO_LIMIT;
        bool found = true;
        if (accept(p, "?")) {
            max = 1;
        } else if (accept(p, "+")) {
            min = 1;
        } else if (p->pattern[p->at] == '{') {
            FM_TRY(parse_times(p, &min, &max, &found));
        } else if (!accept(p, "*")) {
            found = false;
        }
        if (!found) {
            return FM_OK;
        }
        const char mode = accept(p, "?") ? '?' : p->pattern[start] != '{' && accept(p, "+") ? '+' : '\0';
        if (out->may_be_empty && max == FM_REGEX_NO_LIMIT) {
            return unsupported(p, start, "a repetition of what may be empty");
        }
        out->may_be_empty = out->may_be_empty || min == 0;
        fm_regex_step *const step = step_at(p, out->first);
        if (n_steps(p) == out->first + 1 && step->op == FM_REGEX_SET) {
            step->op = mode == '?' ? FM_REGEX_RUN_LAZY : mode == '+' ? FM_REGEX_RUN_POSSESSIVE : FM_REGEX_RUN;
            step->min = min;
            step->max = max;
        } else {
            FM_TRY(repeat_group(p, out->first, min, max, mode));
        }
    }
    return FM_OK;
}

static int parse_sequence(parser *p, piece *out)
{
    *out = (piece){ n_steps(p), true };
    while (more(p) && p->pattern[p->at] != '|' && p->pattern[p->at] != ')') {
        if (accept(p, "(?i)")) {
            p->ignores_case = true;
            continue;
        }
        piece one;
        FM_TRY(parse_repeated(p, &one));
        out->may_be_empty = out->may_be_empty && one.may_be_empty;
    }
    return FM_OK;
}

/* a|b|c: SPLIT a JUMP SPLIT b JUMP c. Each JUMP remembers the one before it in `other` until the end is known. */
static int parse_alternatives(parser *p, piece *out)
{
    FM_TRY(parse_sequence(p, out));
    int first = out->first, last_jump = -1;
    while (accept(p, "|")) {
        const int length = n_steps(p) - first;
        FM_TRY(insert(p, first, (fm_regex_step){ .op = FM_REGEX_SPLIT, .to = 1, .other = length + 2 }));
        const int jump = n_steps(p);
        FM_TRY(emit(p, (fm_regex_step){ .op = FM_REGEX_JUMP, .other = last_jump }));
        last_jump = jump;
        piece rest;
        FM_TRY(parse_sequence(p, &rest));
        out->may_be_empty = out->may_be_empty || rest.may_be_empty;
        first = rest.first;
    }
    while (last_jump >= 0) {
        fm_regex_step *const step = step_at(p, last_jump);
        step->to = n_steps(p) - last_jump;
        last_jump = step->other;
    }
    return FM_OK;
}

int fm_regex_new(fm_regex **out, const char *pattern, size_t size_bytes, const char *name)
{
    *out = fm_alloc(sizeof **out, FM_MEMORY_HOST);
    if (*out == NULL) {
        return FM_ERR_MEMORY;
    }
    parser p = { .regex = *out, .pattern = pattern, .size_bytes = size_bytes, .name = name };
    piece whole;
    int rc = parse_alternatives(&p, &whole);
    if (rc == FM_OK && more(&p)) {
        rc = fm_fail(FM_ERR_FORMAT, "%s: the regular expression has a ) too many at byte %zu", name, p.at);
    }
    if (rc == FM_OK) {
        rc = emit(&p, (fm_regex_step){ .op = FM_REGEX_ACCEPT });
    }
    if (rc < 0) {
        fm_regex_destroy(*out);
        *out = NULL;
    }
    return rc;
}

void fm_regex_destroy(fm_regex *regex)
{
    if (regex == NULL) {
        return;
    }
    fm_bytes_free(&regex->steps);
    fm_bytes_free(&regex->sets);
    fm_bytes_free(&regex->ranges);
    fm_free(regex);
}
