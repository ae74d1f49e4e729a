/* One row of tokens through a model on its mesh, for its logits: loading, generation, the library's forward pass. */
#ifndef FM_TRAIN_FORWARD_H
#define FM_TRAIN_FORWARD_H

#include "model/model.h"

/* The row as this rank sees it after the cut by cp. Zeros at first; fm_forward_clear frees. */
typedef struct {
    int64_t n;                         /* tokens of the row, without padding */
    int64_t T, row_T;                  /* on this rank; of the padded row */
    int32_t *ids, *labels, *position, *document;   /* [T] */
    int32_t *row_position, *row_document;          /* [row_T] */
    int64_t words;                     /* of the vocabulary on this rank: m->vocabulary */
    float *logits;                     /* [T, words] on ranks of the last stage, else NULL; rows of padding mean nothing */
} fm_forward;

/* What the model must be reserved for to run rows of at most n tokens. Local. */
fm_model_reserve_spec fm_forward_needs(const fm_model *model, int64_t n);

/* Runs ids [n], the same on every rank. Collective on world. */
int fm_forward_run(fm_forward *forward, fm_model *model, const int32_t *ids, int64_t n);

/* Place in the row of local token t; n or more: padding. Local. */
int64_t fm_forward_place(const fm_forward *forward, const fm_model *model, int64_t t);

/* The word with the largest logit after the last token (the lowest of equals), on every rank. Collective on world. */
int fm_forward_next(int32_t *word, const fm_forward *forward, const fm_model *model);

void fm_forward_clear(fm_forward *forward);

#endif
