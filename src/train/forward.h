/* Rows of tokens through a model on its mesh, for their logits: loading, generation, the library's forward pass. */
#ifndef FM_TRAIN_FORWARD_H
#define FM_TRAIN_FORWARD_H

#include "model/model.h"

/* The rows as this rank sees them after the cut by cp. Zeros at first; fm_forward_clear frees. */
typedef struct {
    int64_t B;                         /* rows */
    int64_t n;                         /* tokens of a row, without padding */
    int64_t T, row_T;                  /* on this rank; of the padded row */
    int32_t *ids, *labels, *position, *document;   /* [B, T] */
    int32_t *row_position, *row_document;          /* [B, row_T] */
    int64_t words;                     /* of the vocabulary on this rank: m->vocabulary */
    float *logits;                     /* [B, T, words] on ranks of the last stage, else NULL; rows of padding mean nothing */
} fm_forward;

/* What the model must be reserved for to run one row, or B rows, of at most n tokens. Local. */
fm_model_reserve_spec fm_forward_needs(const fm_model *model, int64_t n);
fm_model_reserve_spec fm_forward_needs_rows(const fm_model *model, int64_t B, int64_t n);

/* Runs ids [n], the same on every rank. Collective on world. */
int fm_forward_run(fm_forward *forward, fm_model *model, const int32_t *ids, int64_t n);

/* Runs ids [B, n]: the same on all ranks of a dp coordinate; B and n are the same everywhere. Collective on world. */
int fm_forward_run_rows(fm_forward *forward, fm_model *model, const int32_t *ids, int64_t B, int64_t n);

/* Place in the row of local token t; n or more: padding. Local. */
int64_t fm_forward_place(const fm_forward *forward, const fm_model *model, int64_t t);

/* The word with the largest logit after the last token of one row (the lowest of equals), on every rank. Collective on world. */
int fm_forward_next(int32_t *word, const fm_forward *forward, const fm_model *model);

void fm_forward_clear(fm_forward *forward);

#endif
