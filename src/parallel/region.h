/* The tensor-parallel region: what happens at its two ends. Outside it, activations are whole on every tp rank, or (sequence
 * parallelism) cut along the tokens; inside, every rank has all tokens and a part of the heads or of F.
 *   enter:  nothing, or an all-gather of token rows;        backward: a sum over tp (fm_region_sum)
 *   leave:  a sum over tp: an all-reduce, or a reduce-scatter;  backward: enter again
 * Source: Korthikanti et al. 2022. */
#ifndef FM_PARALLEL_REGION_H
#define FM_PARALLEL_REGION_H

#include "mesh/comm.h"

/* Rows (tokens) of a microbatch on this rank. rows_local = rows but under sequence parallelism, where the rows are padded to a
 * multiple of tp and cut in equal runs. */
typedef struct {
    fm_comm *tp;                       /* NULL: one rank */
    bool sequence_parallel;
    int64_t rows, rows_local, rows_padded;
} fm_region;

/* Fills in the row counts. Local. */
void fm_region_plan(fm_region *region, int64_t rows);

/* The rows of all tp ranks: `local` [rows_local, n] itself, or gathered into `buffer` [rows_padded, n]. Collective on tp. */
int fm_region_enter(const fm_region *region, const void **all, void *buffer, const void *local, int64_t n, enum fm_dtype dtype);

/* Sums partial results [rows_padded, n] over tp into out [rows_local, n]; without sequence parallelism `out` is `partial`.
 * Collective on tp. */
int fm_region_sum(const fm_region *region, void *out, void *partial, int64_t n, enum fm_dtype dtype);

/* Where to write partial results so that fm_region_sum leaves them in `out`: `buffer` under sequence parallelism, else `out`. Local. */
void *fm_region_partial(const fm_region *region, void *out, void *buffer);

#endif
