/* The loss of a model over all samples of a data set, once each. */
#ifndef FM_TRAIN_EVALUATE_H
#define FM_TRAIN_EVALUATE_H

#include "data/options.h"
#include "parallel/options.h"
#include "train/step.h"

/* Zeros at first; must stay where it is while it is used. */
typedef struct {
    fm_order order;
    fm_pipeline pipeline;              /* of one global batch */
    fm_pass pass;
} fm_evaluation;

/* Prepares passes over `dataset` in global batches as in training. Model and dataset are borrowed. Local. */
int fm_evaluation_begin(fm_evaluation *evaluation, fm_model *model, const fm_dataset *dataset, const fm_batch_options *batch,
                        const fm_pipeline_options *pipeline);

/* Mean loss over the label tokens of all samples (0 where there is none). Collective on world. */
int fm_evaluation_run(double *loss, int64_t *label_tokens, fm_evaluation *evaluation);

void fm_evaluation_end(fm_evaluation *evaluation);

/* Length to which the rows of a data set are padded at most, on this mesh. Local. */
int64_t fm_longest_row(const fm_model *model, const fm_dataset *dataset);

#endif
