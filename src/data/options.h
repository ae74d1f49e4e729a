/* Options of [data] and [batch]. Filled in by the job; strings are borrowed from it. */
#ifndef FM_DATA_OPTIONS_H
#define FM_DATA_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum fm_data_format { FM_FORMAT_AUTO, FM_FORMAT_TOKENS, FM_FORMAT_TEXT, FM_FORMAT_INSTRUCTION, FM_FORMAT_CHAT };

/* [data] */
typedef struct {
    char *train;                       /* absolute paths or globs, comma separated without blanks; "" where none was given */
    char *validation;
    enum fm_data_format format;
    char *question_column, *context_column, *answer_column;
    int64_t seq_length;                /* tokens of a row */
    bool packing;
    bool shuffle;
    bool mask_prompt;
} fm_data_options;

/* [batch] */
typedef struct {
    int64_t global_batch_size;         /* G: samples a step */
    int64_t local_batch_size;          /* samples a microbatch and dp rank */
} fm_batch_options;

#endif
