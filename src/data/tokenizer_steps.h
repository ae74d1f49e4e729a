/* The steps that data/tokenizer_pipeline.h compiles components into. */
#ifndef FM_DATA_TOKENIZER_STEPS_H
#define FM_DATA_TOKENIZER_STEPS_H

#include "data/tokenizer_pipeline.h"

/* What a step looks for: a regular expression, a fixed text or one character of some classes. */
typedef struct {
    fm_regex *regex;
    fm_bytes literal;
    uint64_t cells;
} fm_pattern;

enum fm_split_behavior {
    FM_SPLIT_REMOVED, FM_SPLIT_ISOLATED, FM_SPLIT_MERGED_WITH_PREVIOUS, FM_SPLIT_MERGED_WITH_NEXT, FM_SPLIT_CONTIGUOUS
};

/* Always and first: only where it is not there already; first: only at the start of the whole text. */
enum fm_prefix_scheme { FM_PREFIX_ALWAYS, FM_PREFIX_FIRST, FM_PREFIX_UNCONDITIONAL };

typedef struct fm_step fm_step;

/* Reads words->text and words->words; what it writes takes their place. */
typedef int fm_step_run(const fm_step *step, fm_words *words);

struct fm_step {
    fm_step_run *run;
    fm_pattern pattern;             /* replace, split */
    fm_bytes content;                /* replace, prefix, strip_content */
    int behavior;                   /* split: fm_split_behavior; prefix: fm_prefix_scheme */
    bool invert;                    /* split: what lies between matches is the match */
    int left, right;                /* strip_content: how many at most; strip_blanks: which ends */
};

/* Text of every word. */
fm_step_run fm_step_nfc, fm_step_nfd, fm_step_prefix, fm_step_replace, fm_step_bytes, fm_step_strip_blanks;

/* Borders of words. */
fm_step_run fm_step_split;

/* Decoders: a word is a token. */
fm_step_run fm_step_from_bytes, fm_step_byte_fallback, fm_step_fuse, fm_step_strip_content, fm_step_drop_in_first;

/* The next match at or after *begin: 1 with [*begin, *end), which may be empty, or 0, or an error. */
int fm_pattern_find(size_t *begin, size_t *end, const fm_pattern *pattern, const char *text, size_t size_bytes, fm_bytes *stack);

#endif
