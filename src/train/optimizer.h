/* From gradients to new weights: the sums between ranks that are still due, the norm over all parameters, clipping, AdamW. */
#ifndef FM_TRAIN_OPTIMIZER_H
#define FM_TRAIN_OPTIMIZER_H

#include "model/model.h"
#include "train/options.h"

/* Plain. */
typedef struct {
    const fm_optimizer_options *options;   /* borrowed */
    int64_t updates;                   /* AdamW's own step count: updates made so far */
} fm_optimizer;

/* Makes the gradients of a step's beginning: nothing is there yet. Local. */
void fm_optimizer_begin(fm_model *model);

/* Finishes the gradients: waits for FSDP's, then the sums over tp, key/value replicas, pipeline ends and dp_replicate, then takes back the
 * loss scale (1: none). Collective on those groups, in the same order everywhere. */
int fm_optimizer_finish_gradients(fm_model *model, double loss_scale);

/* *norm = sqrt of the sum of squares over all trained parameters of the model, each once. FM_ERR_NUMERIC, on every rank, where it is
 * not finite: the message names a tensor. Collective on world. */
int fm_optimizer_norm(double *norm, fm_model *model);

/* One AdamW step with the gradients times min(1, clip / (norm + 1e-6)). Source: torch.optim.AdamW, torch.nn.utils.clip_grad_norm_.
 * Local. */
int fm_optimizer_update(fm_optimizer *optimizer, fm_model *model, double lr, double norm);

/* Whether a tensor decays: no pattern of `no_decay` (fnmatch, comma separated) matches its name. Local. */
bool fm_optimizer_decays(const fm_optimizer_options *options, const char *name);

#endif
