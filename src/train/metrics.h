/* What a run writes about its steps: metrics.jsonl, TensorBoard events and the lines on the screen. One rank opens it; all
 * functions are local. */
#ifndef FM_TRAIN_METRICS_H
#define FM_TRAIN_METRICS_H

#include <stdint.h>

#include "base/error.h"

/* One training step. A number that is NaN or infinite is written as null. */
typedef struct {
    int64_t step;                      /* from 1 */
    double loss;                       /* mean over the label tokens, before the update */
    double grad_norm;                  /* before clipping */
    double lr;
    int64_t tokens;                    /* input tokens of the global batch after the cut, without padding */
    int64_t label_tokens;
    double tokens_per_s;
    double step_ms;
    int64_t memory_bytes;              /* this rank's peak since the first step: parameters to workspaces; 0: not known */
    int slowest_rank, fastest_rank;    /* equal: not asked for */
    double slowest_ms, fastest_ms;     /* their own time in the step, without waiting for others */
} fm_step_metrics;

typedef struct fm_metrics fm_metrics;

/* Opens DIR/metrics.jsonl and a new event file in DIR, and prints the header line. Of an earlier run the steps up to kept_steps
 * stay (temporary file, rename), later ones and a torn last line go; kept_steps = 0 begins a new file. The run ends with step
 * n_steps; the screen gets every `every`-th step, the first and the last; the files get all. */
int fm_metrics_open(fm_metrics **out, const char *dir, int64_t kept_steps, int64_t n_steps, int64_t every);

int fm_metrics_step(fm_metrics *metrics, const fm_step_metrics *step);

/* Validation after step `step`: mean loss over val_tokens label tokens. */
int fm_metrics_validation(fm_metrics *metrics, int64_t step, double val_loss, int64_t val_tokens);

/* Everything written so far reaches the disk: before a checkpoint is complete. */
int fm_metrics_sync(fm_metrics *metrics);

/* Syncs and frees; NULL is allowed. */
int fm_metrics_close(fm_metrics *metrics);

#endif
