#include "train/loss_scale.h"

#include <math.h>

#include "base/log.h"

enum { GROWTH_INTERVAL = 2000 };

static const double first_factor = 65536.0, largest_factor = 16777216.0, least_factor = 1.0 / 65536.0;

bool fm_loss_scale_is_legal(double factor)
{
    int exponent;
    return factor >= least_factor && factor <= largest_factor && frexp(factor, &exponent) == 0.5;
}

fm_loss_scale fm_loss_scale_begin(enum fm_dtype dtype)
{
    return (fm_loss_scale){ .factor = dtype == FM_F16 ? first_factor : 1.0 };
}

void fm_loss_scale_keep(fm_loss_scale *scale)
{
    if (++scale->good_steps >= GROWTH_INTERVAL && scale->factor < largest_factor) {
        scale->factor *= 2.0;
        scale->good_steps = 0;
    }
}

int fm_loss_scale_skip(fm_loss_scale *scale, int64_t step)
{
    scale->factor /= 2.0;
    scale->good_steps = 0;
    scale->skipped++;
    fm_log_print("# step %lld skipped: float16 gradients were infinite; loss scale %g, %lld skipped so far\n", (long long)step,
                 scale->factor, (long long)scale->skipped);
    if (scale->factor < least_factor) {
        return fm_fail(FM_ERR_NUMERIC, "step %lld: gradients are infinite or NaN however small the loss scale (%g)", (long long)step,
                       scale->factor);
    }
    return FM_OK;
}
