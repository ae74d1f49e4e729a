/* The learning rate of each step. Pure arithmetic; all functions are local. */
#ifndef FM_TRAIN_SCHEDULE_H
#define FM_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "base/error.h"
#include "train/options.h"

/* Whether the schedule fits into a run of n_steps: warmup_steps < n_steps, decay_steps <= n_steps. FM_ERR_JOB says what was
 * expected, without the key's name. */
int fm_schedule_check(const fm_schedule_options *options, int64_t n_steps);

/* The learning rate of step s (from 1) of S with the highest rate lr and w = warmup_steps:
 *     s <= w     lr s / w
 * then, with p = (s - w - 1) / (S - w),
 *     constant   lr
 *     linear     lr - (lr - min_lr) p
 *     cosine     min_lr + (lr - min_lr) (1 + cos(pi p)) / 2
 *     wsd        lr while s <= S - D, then lr - (lr - min_lr) (s - (S - D) - 1) / D, D = decay_steps or max(1, floor(S / 10)) */
double fm_schedule_lr(const fm_schedule_options *options, double lr, int64_t s, int64_t S);

/* D of wsd. */
int64_t fm_schedule_decay_steps(const fm_schedule_options *options, int64_t S);

#endif
