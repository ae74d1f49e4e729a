/* Pipeline schedules. A schedule is a table of (rank, tick, action, microbatch, chunk), emitted by pure functions; one executor
 * (train/step.c) runs any table. Everything here is local and pure.
 *
 * A rank has `chunks` model chunks (virtual stages); chunk c of rank r is virtual stage c * ranks + r. The forward pass of virtual
 * stage s and microbatch m needs that of s - 1; its backward input part needs its own forward and the backward input part of s + 1;
 * its weight part needs its own input part. Gradients of a chunk are added in ascending order of microbatches. */
#ifndef FM_PARALLEL_PIPELINE_H
#define FM_PARALLEL_PIPELINE_H

#include "base/error.h"
#include "parallel/options.h"

enum fm_action {
    FM_ACTION_FORWARD,
    FM_ACTION_BACKWARD,                /* input part and weight part at once */
    FM_ACTION_BACKWARD_INPUT,
    FM_ACTION_BACKWARD_WEIGHT
};

typedef struct {
    int rank, tick;
    enum fm_action action;
    int microbatch, chunk;
} fm_pipeline_row;

/* A table; rows are ordered by rank, then tick. Rows of rank r: rows[first[r]] .. rows[first[r + 1] - 1]. */
typedef struct {
    enum fm_pipeline_schedule schedule;
    int ranks, chunks, microbatches;
    int n_rows;
    fm_pipeline_row *rows;
    int *first;                        /* [ranks + 1] */
} fm_pipeline;

/* Emits the table. Error FM_ERR_JOB where the schedule cannot run with these numbers (what, and what to choose). Free with
 * fm_pipeline_clear. ranks = 1 gives, for every schedule, forward and backward of each microbatch in turn. */
int fm_pipeline_emit(fm_pipeline *out, enum fm_pipeline_schedule schedule, int ranks, int chunks, int microbatches);
void fm_pipeline_clear(fm_pipeline *pipeline);

/* Proves a table: every action once, after what it needs; microbatches ascending per chunk and action; executable without deadlock.
 * Error FM_ERR_INTERNAL with the offending row. */
int fm_pipeline_check(const fm_pipeline *pipeline);

/* The most (microbatch, chunk) activations that `rank` holds at a time: from the forward pass to the end of the backward pass
 * (of the weight part where the two are apart). */
int fm_pipeline_peak(const fm_pipeline *pipeline, int rank);

/* Share of the time in which a rank waits, with forward = 1, input part = 1, weight part = 1 (2 together) time units. */
double fm_pipeline_bubble(const fm_pipeline *pipeline);

/* Divides L layers over the virtual stages so that the dearest stage is as cheap as can be: a layer costs 1, the first stage also
 * first_cost, the last last_cost (embedding and head in units of a layer). out [n_stages + 1]: stage s has layers out[s] .. out[s+1]-1.
 * Every stage has at least one layer while there are enough. */
void fm_pipeline_divide(int *out, int n_layers, int n_stages, double first_cost, double last_cost);

#endif
