/* One global batch through the model: runs this rank's rows of a pipeline table once. */
#ifndef FM_TRAIN_STEP_H
#define FM_TRAIN_STEP_H

#include "data/batch.h"
#include "model/model.h"
#include "parallel/pipeline.h"

/* A batch in memory: the rows of this data-parallel rank, [B, T]. Labels stand beside ids. */
typedef struct {
    const int32_t *ids, *labels;
    int64_t B, T;
} fm_rows;

/* What a pass works with. Borrowed. */
typedef struct {
    fm_model *model;
    const fm_dataset *dataset;
    const fm_order *order;
    const fm_rows *rows;               /* instead of dataset and order, which are NULL then; NULL: none */
    const fm_pipeline *pipeline;       /* its microbatches are those of a global batch on one dp rank */
    int64_t local_batch_size;
    fm_batch whole, cut;               /* buffers; zeros at first, fm_pass_clear frees */
} fm_pass;

void fm_pass_clear(fm_pass *pass);

/* Runs step `step` of the order: *loss = sum of cross entropy over the label tokens of the global batch, on every rank. With
 * with_gradients each token's loss weighs `scale`, and gradients are added to the shards; else it is a validation.
 * Collective on world. */
int fm_pass_run(double *loss, fm_pass *pass, int64_t step, bool with_gradients, float scale);

/* The multiple that T is padded to on this mesh (cp cuts rows in 2 cp chunks). Local. */
int64_t fm_pass_t_multiple(const fm_model *model);
int64_t fm_pass_padded(const fm_model *model, int64_t T);

#endif
