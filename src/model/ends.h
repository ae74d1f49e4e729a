/* The two ends of a model: the embedding, and the final norm with the head and its loss. Vocabulary rows are cut over tp and come in
 * FSDP chunks; logits exist for a few rows and one chunk at a time. */
#ifndef FM_MODEL_ENDS_H
#define FM_MODEL_ENDS_H

#include "model/model.h"

/* Buffers of the head, for n labelled rows at most. */
typedef struct fm_head_workspace {
    int64_t rows;                      /* capacity in labelled rows */
    int64_t chunk_rows;                /* rows whose logits exist at a time */
    int64_t chunk_words;               /* words of the largest vocabulary chunk */
    void *h;                           /* [N padded, C] final norm's output, all rows */
    void *h_local;                     /* [S, C] */
    void *x;                           /* [rows, C] labelled rows of it */
    float *dx;                         /* [rows, C] gradient of them */
    float *dh_all;                     /* [N padded, C] scattered back */
    void *dh;                          /* [N padded, C] in the compute dtype */
    float *logits;                     /* [chunk_rows, chunk_words] */
    void *dlogits;                     /* the same in the compute dtype; logits itself where that is fp32 */
    float *max, *global_max, *sum_label, *lse;   /* [rows], [rows], [2 rows]: sums, then label logits; [rows] */
} fm_head_workspace;

/* Allocates, for N tokens. Local. */
int fm_head_workspace_new(fm_head_workspace **out, fm_model *model, int64_t N, int64_t N_padded, int64_t S);
void fm_head_workspace_destroy(fm_head_workspace *head, fm_device *device);

/* blocks[0].x [S, C] = embedding of the slot's ids. Collective on tp and fsdp. */
int fm_embedding_forward(fm_model *model, fm_slot *slot);

/* Adds the embedding's gradient from dx[0]. Collective on tp and fsdp. */
int fm_embedding_backward(fm_model *model, fm_slot *slot);

/* slot->loss from slot->out; where the model trains also dx[n_layers] and the gradients of norm and head, each token weighing `scale`.
 * Collective on tp and fsdp. */
int fm_head_forward(fm_model *model, fm_slot *slot, int n_layers, float scale);

/* Logits of all tokens of the slot for this rank's words: [N, words of this tp rank] fp32, to the host. For generation and tests.
 * Collective on tp and fsdp. */
int fm_head_logits(fm_model *model, fm_slot *slot, float *logits);

#endif
