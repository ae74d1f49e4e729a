/* The training loop: steps, validation, metrics. */
#ifndef FM_TRAIN_LOOP_H
#define FM_TRAIN_LOOP_H

#include "data/dataset.h"
#include "data/options.h"
#include "model/model.h"
#include "parallel/options.h"
#include "train/loss_scale.h"
#include "train/metrics.h"
#include "train/options.h"
#include "train/step.h"

typedef struct fm_loop fm_loop;

/* What a run is made of; everything is borrowed while the loop lives. */
typedef struct {
    fm_model *model;
    const fm_dataset *train, *validation;  /* validation NULL: none */
    const fm_rows *rows;               /* instead of `train`: every step has these, the whole batch of this dp rank; all labelled */
    uint64_t seed;
    const fm_data_options *data;
    const fm_batch_options *batch;
    const fm_train_options *train_options;
    const fm_optimizer_options *optimizer;
    const fm_schedule_options *schedule;
    const fm_validation_options *validate;
    const fm_pipeline_options *pipeline;
    bool report_ranks;                 /* the slowest and fastest rank of each step */
    /* Called after the gradients of a step are finished and before the update; NULL: not. Collective on world. */
    int (*on_gradients)(void *context, fm_model *model, int64_t step);
    void *context;
} fm_loop_spec;

/* Checks batch sizes and steps against the data and makes pipeline tables; allocates nothing large. Errors FM_ERR_JOB. Local. */
int fm_loop_new(fm_loop **out, const fm_loop_spec *spec);

/* What the model must be reserved for (fm_model_estimate, fm_model_reserve) before the first step. Local. */
fm_model_reserve_spec fm_loop_needs(const fm_loop *loop);
void fm_loop_destroy(fm_loop *loop);

/* Share of padding in the microbatches, 0 to 1. Local. */
int fm_loop_padding(double *share, const fm_loop *loop);

/* Number of steps of the run. Local. */
int64_t fm_loop_steps(const fm_loop *loop);

/* All that a run keeps from step to step beside its tensors and what follows from the step's number. Plain. */
typedef struct {
    int64_t updates;                   /* AdamW's own step count */
    fm_loss_scale scale;               /* of float16; factor 0: not known (another dtype's run) */
} fm_loop_state;

/* The state after the last step; going on from one. Local. */
fm_loop_state fm_loop_get_state(const fm_loop *loop);
void fm_loop_resume(fm_loop *loop, const fm_loop_state *state);

/* One step; the metrics are complete on every rank. FM_ERR_NUMERIC is agreed upon by all ranks; any other error is this rank's own.
 * Collective on world. */
int fm_loop_step(fm_loop *loop, int64_t step, fm_step_metrics *metrics);

/* Whether validation is due after this step. Local. */
bool fm_loop_must_validate(const fm_loop *loop, int64_t step);

/* Mean loss over the label tokens of all validation samples. Collective on world. */
int fm_loop_validate(fm_loop *loop, double *val_loss, int64_t *val_tokens);

/* Causal FLOPs of one token in a row of T, forward and backward: 6 P of the matrices (head, not look-up) + 6 L H D T. What is computed
 * again for want of memory does not count. Local. */
double fm_loop_flops_per_token(const fm_config *config, int64_t T);

#endif
