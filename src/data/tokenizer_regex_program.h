/* What the compiler of data/tokenizer_regex.h hands to its matcher. */
#ifndef FM_DATA_TOKENIZER_REGEX_PROGRAM_H
#define FM_DATA_TOKENIZER_REGEX_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "data/tokenizer_bytes.h"
#include "data/tokenizer_regex.h"

/* RUN repeats one set between min and max times; SPLIT tries `to` and then `other`; LOOK and ATOMIC match the program between
 * themselves and `to` on its own, ended by FM_REGEX_ACCEPT. */
enum fm_regex_op {
    FM_REGEX_SET, FM_REGEX_RUN, FM_REGEX_RUN_LAZY, FM_REGEX_RUN_POSSESSIVE, FM_REGEX_SPLIT, FM_REGEX_JUMP, FM_REGEX_LOOK,
    FM_REGEX_LOOK_NOT, FM_REGEX_ATOMIC, FM_REGEX_LINE_BEGIN, FM_REGEX_LINE_END, FM_REGEX_TEXT_BEGIN, FM_REGEX_TEXT_END,
    FM_REGEX_ACCEPT
};

enum { FM_REGEX_NO_LIMIT = INT32_MAX };

typedef struct {
    int32_t op;
    int32_t set;              /* SET, RUN: which */
    int32_t min, max;         /* RUN: times */
    int32_t to, other;        /* where to go on, relative to the step itself, so that compiled pieces can be moved and copied */
} fm_regex_step;

typedef struct {
    uint32_t low, high;
} fm_regex_range;

/* Characters below 128 by `ascii` alone; the rest by cells and ranges, then `negated`. */
typedef struct {
    uint64_t ascii[2];
    uint64_t cells;
    int32_t first_range, n_ranges;
    bool negated;
} fm_regex_set;

struct fm_regex {
    fm_bytes steps;            /* fm_regex_step */
    fm_bytes sets;             /* fm_regex_set */
    fm_bytes ranges;           /* fm_regex_range */
};

static inline const fm_regex_step *fm_regex_steps(const fm_regex *regex)
{
    return (const fm_regex_step *)(const void *)regex->steps.bytes;
}

static inline const fm_regex_set *fm_regex_sets(const fm_regex *regex)
{
    return (const fm_regex_set *)(const void *)regex->sets.bytes;
}

static inline const fm_regex_range *fm_regex_ranges(const fm_regex *regex)
{
    return (const fm_regex_range *)(const void *)regex->ranges.bytes;
}

/* Whether a character of 128 or more is in the set. */
bool fm_regex_set_has(const fm_regex *regex, const fm_regex_set *set, uint32_t code);

#endif
