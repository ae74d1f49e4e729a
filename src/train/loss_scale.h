/* Dynamic loss scaling: float16 gradients are computed some powers of two too large, so that small ones do not vanish; infinite ones mean
 * too large a scale. Every rank keeps the same numbers, because every rank sees the same norm. Source: torch.amp.GradScaler's defaults. */
#ifndef FM_TRAIN_LOSS_SCALE_H
#define FM_TRAIN_LOSS_SCALE_H

#include <stdbool.h>

#include "tensor/dtype.h"

/* Plain. */
typedef struct {
    double factor;                     /* 1 but for float16 */
    int64_t good_steps;                /* updates since the factor last changed */
    int64_t skipped;                   /* steps without an update, in all */
} fm_loss_scale;

/* Whether a factor is one that these functions can come to: what a file says may be anything. Local. */
bool fm_loss_scale_is_legal(double factor);

/* The start: 65,536 for float16. Local. */
fm_loss_scale fm_loss_scale_begin(enum fm_dtype dtype);

/* After an update: doubles the factor every 2,000 updates. Local. */
void fm_loss_scale_keep(fm_loss_scale *scale);

/* After a step whose gradients were infinite or NaN: halves the factor, counts the step and says so. FM_ERR_NUMERIC where the factor has
 * become so small that the model itself must be at fault. Local. */
int fm_loss_scale_skip(fm_loss_scale *scale, int64_t step);

#endif
