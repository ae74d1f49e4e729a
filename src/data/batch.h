/* Batches: what the model sees of the dataset. A pure function of step and data; the mesh only says whose rows are whose.
 * All functions are local. */
#ifndef FM_DATA_BATCH_H
#define FM_DATA_BATCH_H

#include <stdint.h>

#include "base/error.h"
#include "data/dataset.h"
#include "data/order.h"

/* One microbatch. Zeros are an empty one; fm_batch_fill and fm_batch_cut grow it; fm_batch_clear frees. Arrays are [B][T]. */
typedef struct {
    int64_t B, T;
    int64_t longest;              /* tokens of the longest row, before T was rounded up (of a cut: of the whole row) */
    int64_t tokens;               /* without padding */
    int64_t label_tokens;         /* labels that are not -100 */
    int32_t *ids;                 /* 0 in padding */
    int32_t *labels;              /* shifted: of place t, the label of token t + 1; -100 in the last place and in padding */
    int32_t *positions;           /* from 0 in each document; in padding they go on */
    int32_t *documents;           /* 0, 1, .. within the row; -1 in padding: sees nothing, is seen by nothing */
    int64_t capacity;             /* elements of each array */
} fm_batch;

/* The B samples as rows of a microbatch. T is the longest one's length rounded up to a multiple of t_multiple >= 1.
 * A sample of -1 is a row of padding: the ranks without data in a smaller last batch. */
int fm_batch_fill(fm_batch *batch, const fm_dataset *dataset, const int64_t *samples, int64_t B, int64_t t_multiple);

/* The B rows of n tokens themselves, [B][n]; labels stand beside ids and are shifted here. T is n rounded up to a multiple of
 * t_multiple >= 1. */
int fm_batch_set(fm_batch *batch, const int32_t *ids, const int32_t *labels, int64_t B, int64_t n, int64_t t_multiple);

/* The places of context-parallel rank cp_rank: of 2 cp_size chunks of T the cp_rank-th and the cp_rank-th from the end, so that a
 * causal mask gives every rank the same work. T is a multiple of 2 cp_size. `out` is not `in`. */
int fm_batch_cut(fm_batch *out, const fm_batch *in, int cp_size, int cp_rank);

void fm_batch_clear(fm_batch *batch);

/* Label tokens (the N that a step's loss is divided by) and input tokens of the whole global batch of a step, over all
 * microbatches and ranks. */
int fm_batch_count(int64_t *label_tokens, int64_t *tokens, const fm_order *order, const fm_dataset *dataset, int64_t step);

/* The share of padding, 0 to 1, in the microbatches of the first epoch, or of its first steps where it has more than
 * `most_samples` samples. */
int fm_batch_padding(double *share, const fm_order *order, const fm_dataset *dataset, int64_t local_batch_size,
                     int64_t most_samples);

#endif
