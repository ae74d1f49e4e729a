/* The two ends of a model: the embedding, and the final norm with the head and its loss. Vocabulary rows are cut over tp and come in
 * FSDP chunks; logits exist for a few rows and one chunk at a time. */
#ifndef FM_MODEL_ENDS_H
#define FM_MODEL_ENDS_H

#include "model/model.h"

/* Sets the pointers of the head's workspace into memory (NULL: none) for N tokens, N_padded and S of the region; returns the bytes that it
 * takes. Local. */
size_t fm_head_workspace_bind(fm_head_workspace *head, const fm_model *model, int64_t N, int64_t N_padded, int64_t S, void *memory);

/* blocks[0].x [S, C] = embedding of the slot's ids. Collective on tp and fsdp. */
int fm_embedding_forward(fm_model *model, fm_slot *slot);

/* Adds the embedding's gradient from dx[0]. Collective on tp and fsdp. */
int fm_embedding_backward(fm_model *model, fm_slot *slot);

/* *m->loss += the loss of slot->out; where the model trains also dx[n_layers] and the gradients of norm and head, each token
 * weighing `scale`. Collective on tp and fsdp. */
int fm_head_forward(fm_model *model, fm_slot *slot, int n_layers, float scale);

/* Logits of all tokens of the slot for this rank's words: [N, words of this tp rank] fp32, to the host. For generation and tests.
 * Collective on tp and fsdp. */
int fm_head_logits(fm_model *model, fm_slot *slot, float *logits);

#endif
