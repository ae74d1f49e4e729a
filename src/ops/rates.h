/* What a device reaches in arithmetic and in moving memory: the measures that a step is held against. Every rank measures its own; those
 * that share a device or cores should measure at the same time. All functions are local. */
#ifndef FM_OPS_RATES_H
#define FM_OPS_RATES_H

#include "ops/compute.h"

/* Best multiplications and additions a second of one kind of product (its pointers are not looked at), on numbers of the kind's own,
 * within about seconds of trying. */
int fm_rate_gemm(double *flops_per_s, fm_compute *compute, const fm_gemm_args *kind, double seconds);

/* The same for square products in `dtype`: the best side, doubled from 256 up to 8192 while one product takes less than seconds / 4. */
int fm_rate_square(double *flops_per_s, int64_t *side, fm_compute *compute, enum fm_dtype dtype, double seconds);

/* Best bytes a second, read and written, of a copy on the device that no cache holds: the faster one of the device's own and of an
 * operation's. */
int fm_rate_copy(double *bytes_per_s, fm_compute *compute, double seconds);

#endif
