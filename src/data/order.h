/* Which samples a step sees: a pure function of seed and step, never of the mesh. All functions are local. */
#ifndef FM_DATA_ORDER_H
#define FM_DATA_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Set by one of the two functions below; plain, to be read by anyone. */
typedef struct {
    int64_t n_samples;         /* M */
    int64_t global_batch_size; /* G */
    int64_t steps_per_epoch;   /* floor(M / G); of a whole pass ceil(M / G) */
    uint64_t seed;
    bool shuffle;
} fm_order;

/* The order of training: each epoch has floor(M / G) batches, its remainder is dropped; shuffled anew in each epoch, or in file
 * order. Error FM_ERR_JOB, with the numbers: M < G. */
int fm_order_train(fm_order *out, int64_t n_samples, int64_t global_batch_size, uint64_t seed, bool shuffle);

/* The order of validation: one epoch in file order, every sample once; the last batch may be smaller. */
fm_order fm_order_pass(int64_t n_samples, int64_t global_batch_size);

/* The sample of place i (0 <= i < G) of step s >= 1, or -1 where a smaller last batch has none. */
int64_t fm_order_sample(const fm_order *order, int64_t step, int64_t i);

/* The samples of one microbatch: rank `dp_index` of `dp_size` takes places [dp_index * G / dp + microbatch * local, + local)
 * of the step's batch, which local_batch_size * dp_size must divide; -1 as above. */
void fm_order_microbatch(int64_t *samples, const fm_order *order, int64_t step, int64_t microbatch, int64_t local_batch_size,
                         int dp_index, int dp_size);

/* The place of `index` in a permutation of 0 .. n - 1 that belongs to (seed, epoch). */
int64_t fm_order_permute(uint64_t seed, int64_t epoch, int64_t n, int64_t index);

#endif
