/* Options of [train], [optimizer], [schedule], [validation] and [log]. Filled in by the job; strings are borrowed from it. */
#ifndef FM_TRAIN_OPTIONS_H
#define FM_TRAIN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/options.h"

/* [train]: one of the two is 0 */
typedef struct {
    int64_t steps;
    int64_t epochs;
} fm_train_options;

enum fm_optimizer_name { FM_OPTIMIZER_ADAMW };

/* [optimizer]: torch.optim.AdamW's meaning */
typedef struct {
    enum fm_optimizer_name name;
    double lr;
    double beta1, beta2;
    double eps;
    double weight_decay;
    char *no_decay;                    /* patterns of tensor names, comma separated; "" where none was given */
    double clip_grad_norm;             /* 0: off */
    enum fm_dtype_choice master_dtype; /* float32 or FM_DTYPE_SAME */
    enum fm_dtype_choice state_dtype;  /* float32 or bfloat16 */
} fm_optimizer_options;

enum fm_schedule_name { FM_SCHEDULE_CONSTANT, FM_SCHEDULE_LINEAR, FM_SCHEDULE_COSINE, FM_SCHEDULE_WSD };

/* [schedule] */
typedef struct {
    enum fm_schedule_name name;
    int64_t warmup_steps;
    double min_lr;
    int64_t decay_steps;               /* wsd; 0: a tenth of the steps */
} fm_schedule_options;

/* [validation] */
typedef struct {
    int64_t every;                     /* steps; 0: at the end */
} fm_validation_options;

/* [log] */
typedef struct {
    int64_t every;                     /* steps between console lines */
    bool traffic;                      /* a table of what the groups have carried, at the end */
    char *gradients;                   /* directory for the gradients of the first step; "" for none */
    bool ranks;                        /* slowest and fastest rank of each step */
} fm_log_options;

#endif
