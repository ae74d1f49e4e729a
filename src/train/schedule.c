#include "train/schedule.h"

#include <math.h>

int64_t fm_schedule_decay_steps(const fm_schedule_options *options, int64_t S)
{
    if (options->decay_steps > 0) {
        return options->decay_steps;
    }
    return S < 10 ? 1 : S / 10;
}

int fm_schedule_check(const fm_schedule_options *options, int64_t n_steps)
{
    if (options->warmup_steps >= n_steps) {
        return fm_fail(FM_ERR_JOB, "fewer than the %lld steps of the run were expected", (long long)n_steps);
    }
    if (options->name == FM_SCHEDULE_WSD && options->decay_steps > n_steps) {
        return fm_fail(FM_ERR_JOB, "at most the %lld steps of the run were expected", (long long)n_steps);
    }
    return FM_OK;
}

double fm_schedule_lr(const fm_schedule_options *options, double lr, int64_t s, int64_t S)
{
    const int64_t w = options->warmup_steps;
    if (s <= w) {
        return lr * (double)s / (double)w;
    }
    const double p = (double)(s - w - 1) / (double)(S - w);
    const double fall = lr - options->min_lr;
    const int64_t D = fm_schedule_decay_steps(options, S);
    switch (options->name) {
    case FM_SCHEDULE_CONSTANT:
        return lr;
    case FM_SCHEDULE_LINEAR:
        return lr - fall * p;
    case FM_SCHEDULE_COSINE:
        return options->min_lr + fall * (1 + cos(M_PI * p)) / 2;
    case FM_SCHEDULE_WSD:
        return s <= S - D ? lr : lr - fall * (double)(s - (S - D) - 1) / (double)D;
    }
    return lr;
}
