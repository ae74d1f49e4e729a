#include "data/tokenizer_regex_program.h"

#include "base/memory.h"
#include "data/unicode.h"

/* A place to go back to. For a RUN, [low, at) can still be given back (or, lazily, `at` can still grow). */
typedef struct {
    int32_t step;
    int32_t count;            /* RUN_LAZY: times taken so far */
    size_t at, low;
} choice;

/* What stays the same during one search. */
typedef struct {
    const fm_regex *regex;
    const char *text;
    size_t size_bytes;
    fm_bytes *stack;
    int *retries;             /* taken so far from the place where the search stands */
} search;

bool fm_regex_set_has(const fm_regex *regex, const fm_regex_set *set, uint32_t code)
{
    bool found = set->cells != 0 && fm_unicode_in(code, set->cells);
    const fm_regex_range *const ranges = fm_regex_ranges(regex) + set->first_range;
    for (int i = 0; i < set->n_ranges && !found; i++) {
        found = ranges[i].low <= code && code <= ranges[i].high;
    }
    return found != set->negated;
}

/* Moves *at past one character of the set, if there is one. */
static inline bool take(const search *s, int set_index, size_t *at)
{
    if (*at >= s->size_bytes) {
        return false;
    }
    const fm_regex_set *const set = &fm_regex_sets(s->regex)[set_index];
    const unsigned char c = (unsigned char)s->text[*at];
    if (c < 0x80) {
        const bool found = (set->ascii[c >> 6] >> (c & 63) & 1) != 0;
        *at += found;
        return found;
    }
    size_t next = *at;
    if (!fm_regex_set_has(s->regex, set, fm_unicode_next(s->text, &next))) {
        return false;
    }
    *at = next;
    return true;
}

static int push(const search *s, int step, size_t at, size_t low, int count)
{
    const choice c = { step, count, at, low };
    return fm_bytes_append(s->stack, &c, sizeof c);
}

/* Takes the longest run; *low is the shortest end that would do. False where there are fewer than min. */
static bool take_run(const search *s, const fm_regex_step *step, size_t *at, size_t *low)
{
    int n = 0;
    while (n < step->min && take(s, step->set, at)) {
        n++;
    }
    *low = *at;
    if (n < step->min) {
        return false;
    }
    while (n < step->max && take(s, step->set, at)) {
        n++;
    }
    return true;
}

static bool at_border(const search *s, int op, size_t at)
{
    switch (op) {
    case FM_REGEX_LINE_BEGIN:
        return at == 0 || (s->text[at - 1] == '\n' && at < s->size_bytes);
    case FM_REGEX_LINE_END:
        return at == s->size_bytes || s->text[at] == '\n';
    case FM_REGEX_TEXT_BEGIN:
        return at == 0;
    default:
        return at == s->size_bytes;
    }
}

/* Resumes the newest choice above `floor`: sets where to go on. False where none is left. */
static bool go_back(const search *s, size_t floor_bytes, int *pc, size_t *at)
{
    while (s->stack->size_bytes > floor_bytes) {
        choice *const c = (choice *)(void *)(s->stack->bytes + s->stack->size_bytes - sizeof(choice));
        const fm_regex_step *const step = &fm_regex_steps(s->regex)[c->step];
        if (step->op == FM_REGEX_RUN) {
            c->at = fm_unicode_back(s->text, c->at);
            *at = c->at;
            *pc = c->step + 1;
            if (c->at <= c->low) {
                s->stack->size_bytes -= sizeof(choice);
            }
            return true;
        }
        if (step->op == FM_REGEX_RUN_LAZY) {
            if (c->count < step->max && take(s, step->set, &c->at)) {
                c->count++;
                *at = c->at;
                *pc = c->step + 1;
                return true;
            }
            s->stack->size_bytes -= sizeof(choice);
            continue;
        }
        *at = c->at;
        *pc = c->step + step->other;
        s->stack->size_bytes -= sizeof(choice);
        return true;
    }
    return false;
}

static int match_from(const search *s, int pc, size_t at, size_t *end);

static int too_many_retries(void)
{
    return fm_fail(FM_ERR_FORMAT, "a regular expression of tokenizer.json needs more than %d attempts at one place of the text: one "
                   "that does not repeat what repeats was expected", FM_REGEX_RETRIES);
}

/* One step that can fail: 1 and *pc, *at moved on, 0, or an error. */
static int advance(const search *s, const fm_regex_step *step, int *pc, size_t *at)
{
    size_t low;
    switch (step->op) {
    case FM_REGEX_SET:
        *pc += 1;
        return take(s, step->set, at);
    case FM_REGEX_RUN:
        if (!take_run(s, step, at, &low)) {
            return 0;
        }
        if (low < *at) {
            FM_TRY(push(s, *pc, *at, low, 0));
        }
        *pc += 1;
        return 1;
    case FM_REGEX_RUN_POSSESSIVE:
        *pc += 1;
        return take_run(s, step, at, &low);
    case FM_REGEX_RUN_LAZY: {
        int n = 0;
        while (n < step->min && take(s, step->set, at)) {
            n++;
        }
        if (n < step->min) {
            return 0;
        }
        FM_TRY(push(s, *pc, *at, *at, n));
        *pc += 1;
        return 1;
    }
    case FM_REGEX_LOOK:
    case FM_REGEX_LOOK_NOT:
    case FM_REGEX_ATOMIC: {
        size_t inner_end;
        const int found = match_from(s, *pc + 1, *at, &inner_end);
        if (found < 0) {
            return found;
        }
        if (step->op == FM_REGEX_ATOMIC && found != 0) {
            *at = inner_end;
        }
        *pc += step->to;
        return found != (step->op == FM_REGEX_LOOK_NOT);
    }
    default:
        *pc += 1;
        return at_border(s, step->op, *at);
    }
}

/* Runs the program from step pc at one place. Its depth is that of the nested lookaheads, which the compiler limits. */
static int match_from(const search *s, int pc, size_t at, size_t *end)
{
    const size_t floor_bytes = s->stack->size_bytes;
    const fm_regex_step *const steps = fm_regex_steps(s->regex);
    for (;;) {
        const fm_regex_step *const step = &steps[pc];
        int ok = 1;
        if (step->op == FM_REGEX_ACCEPT) {
            s->stack->size_bytes = floor_bytes;
            *end = at;
            return 1;
        }
        if (step->op == FM_REGEX_JUMP) {
            pc += step->to;
        } else if (step->op == FM_REGEX_SPLIT) {
            FM_TRY(push(s, pc, at, 0, 0));
            pc += step->to;
        } else {
            ok = advance(s, step, &pc, &at);
        }
        if (ok < 0) {
            return ok;
        }
        if (ok == 0 && ++*s->retries > FM_REGEX_RETRIES) {
            return too_many_retries();
        }
        if (ok == 0 && !go_back(s, floor_bytes, &pc, &at)) {
            return 0;
        }
    }
}

int fm_regex_find(size_t *begin, size_t *end, const fm_regex *regex, const char *text, size_t size_bytes, fm_bytes *stack)
{
    int retries = 0;
    const search s = { regex, text, size_bytes, stack, &retries };
    for (size_t at = *begin; at <= size_bytes; at += at < size_bytes ? fm_unicode_length((unsigned char)text[at]) : 1) {
        stack->size_bytes = 0;
        retries = 0;
        const int found = match_from(&s, 0, at, end);
        if (found < 0) {
            return found;
        }
        if (found != 0) {
            *begin = at;
            return 1;
        }
    }
    return 0;
}
