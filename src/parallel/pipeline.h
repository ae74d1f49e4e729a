/* Pipeline schedules. A schedule is a table of (rank, tick, action, microbatch, chunk), emitted by pure functions; one executor
 * (train/step.c) runs any table. Everything here is local and pure.
 *
 * A rank has `chunks` model chunks (virtual stages); chunk c of rank r is virtual stage c * ranks + r. The forward pass of
 * virtual stage s and microbatch m needs that of s - 1; its backward input part needs its own forward and the backward input
 * part of s + 1; its weight part needs its own input part. Gradients of a chunk are added in ascending order of microbatches. */
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

/* `tick` is when the row begins, in units of time in which a forward pass, an input part and a weight part take 1 each and
 * messages nothing. */
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

/* Whether a schedule can have so many chunks a rank. Error FM_ERR_JOB where it must be 1 and is not. Local. */
int fm_pipeline_check_chunks(enum fm_pipeline_schedule schedule, int chunks);

/* Emits the table for P ranks, C chunks and M microbatches; all are at least 1, and any M will do. With idle units of a rank
 * (forward, input and weight part 1 unit each, M >= P) and the most activations that rank r holds:
 *   gpipe            3 (P-1)    C M                                      several chunks: breadth first
 *   1f1b             3 (P-1)    min(M, P-r)                              C = 1
 *   interleaved1f1b  3 (P-1)    min(C M, 2 (P-1-r) + (C-1) g + 1)        units of a chunk, so C times less; g = P where P
 *                                                                        divides M, else less than twice that; C = 1 is 1f1b
 *   zb               P-1        min(M, P)                                C = 1; as many as 1f1b's first rank, on every rank
 * One rank: forward and backward of each microbatch in turn, whatever the schedule. Error FM_ERR_JOB where C must be 1 and
 * is not. Local. Free with fm_pipeline_clear. */
int fm_pipeline_emit(fm_pipeline *out, enum fm_pipeline_schedule schedule, int ranks, int chunks, int microbatches);
void fm_pipeline_clear(fm_pipeline *pipeline);

/* Proves a table: every action once, after what it needs; microbatches ascending per chunk and part, so that gradients are
 * added in ascending order and messages of one chunk and direction are sent in the order in which they are received; no
 * deadlock where a rank runs its rows in order and sends do not block. Error FM_ERR_INTERNAL with the offending row. Local. */
int fm_pipeline_check(const fm_pipeline *pipeline);

/* The most (microbatch, chunk) activations that `rank` holds at a time: from the forward pass to the end of the backward pass
 * (of the weight part where the two are apart). */
int fm_pipeline_peak(const fm_pipeline *pipeline, int rank);

/* Slots for activations that `rank` needs so that no rank waits for ever: the peak, and one more where a rank has several chunks,
 * because its neighbours form a ring. A slot is taken again, the one that has been free for the longest time first, when what it sent
 * has been received: large messages are not delivered before that. */
int fm_pipeline_slots(const fm_pipeline *pipeline, int rank);

/* Share of the time in which a rank waits, by the table's ticks. */
double fm_pipeline_bubble(const fm_pipeline *pipeline);

/* Divides layers over the virtual stages so that the dearest stage is as cheap as can be, and the next dearest after it: a
 * layer costs 1, the first stage also first_cost, the last last_cost (embedding and head in units of a layer; not negative).
 * out [n_stages + 1]: stage s has layers out[s] .. out[s+1]-1. Every stage has at least one layer where there are enough.
 * Local. */
void fm_pipeline_divide(int *out, int n_layers, int n_stages, double first_cost, double last_cost);

#endif
