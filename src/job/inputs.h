/* What a job reads besides the model: its tokenizer and its data sets. */
#ifndef FM_JOB_INPUTS_H
#define FM_JOB_INPUTS_H

#include "data/dataset.h"
#include "finemesh/tokenizer.h"
#include "job/assemble.h"

/* Zeros at first; fm_inputs_end frees what is there. */
typedef struct {
    fm_tokenizer *tokenizer;           /* NULL: the model's directory has none */
    char identity[32];                 /* differs where the tokenizer's files do */
} fm_inputs;

/* The tokenizer of the model's directory, its files read by rank 0. Collective on the world. */
int fm_inputs_begin(fm_inputs *inputs, const fm_assembly *a);
void fm_inputs_end(fm_inputs *inputs);

/* A data set of the job; its index is kept as OUTPUT_DIR/INDEX_NAME, whose directory is made. Collective on the world. */
int fm_inputs_open(fm_dataset **out, const fm_inputs *inputs, const fm_assembly *a, const char *files, const char *index_name);

#endif
