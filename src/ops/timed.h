/* Operations, measured: a compute's table of operations is replaced by one that calls it, adds up time by operation on a stopwatch, and
 * counts bytes and arithmetic by formula. Where nobody measures, nothing of this is on the way. All functions are local. */
#ifndef FM_OPS_TIMED_H
#define FM_OPS_TIMED_H

#include "ops/compute.h"
#include "tensor/stopwatch.h"

/* The parts of a step's time. */
enum fm_part {
    FM_PART_GEMM,
    FM_PART_ATTENTION,
    FM_PART_KERNELS,                   /* all other operations of the passes */
    FM_PART_OPTIMIZER,
    FM_PARTS
};

typedef struct fm_ops_timing fm_ops_timing;

/* One operation since the last fm_stopwatch_clear. */
typedef struct {
    const char *name;
    enum fm_part part;
    int64_t calls;
    double seconds;
    double bytes;                      /* that must be read and written, each once; 0: not counted */
} fm_op_cost;

/* Products of one kind (of the same arguments but for the pointers, which are NULL here), and what they took together. */
typedef struct {
    fm_gemm_args args;
    int64_t calls;
    double seconds;
} fm_gemm_cost;

/* Rows of the stopwatch that this module takes: 0 .. FM_OPS_TIMED_ROWS - 1. Products of more than FM_GEMM_SHAPES kinds are counted in the
 * sum only. */
enum { FM_GEMM_SHAPES = 48, FM_OPS_TIMED_ROWS = 96 };

/* From now on the operations of `compute` are measured. Borrows both. */
int fm_ops_timing_begin(fm_ops_timing **out, fm_compute *compute, fm_stopwatch *stopwatch);

/* Puts the compute's own table back and frees; NULL is allowed. */
void fm_ops_timing_end(fm_ops_timing *timing);

/* Forgets counts and times. */
void fm_ops_timing_clear(fm_ops_timing *timing);

/* Operation 0 <= op < fm_ops_timing_count(). Of the products, all kinds together. */
int fm_ops_timing_count(void);
fm_op_cost fm_ops_timing_get(const fm_ops_timing *timing, int op);

/* Kind 0 <= kind < fm_ops_timing_gemms of products, in the order of their first call. */
int fm_ops_timing_gemms(const fm_ops_timing *timing);
fm_gemm_cost fm_ops_timing_gemm(const fm_ops_timing *timing, int kind);

/* Multiplications and additions of a product: 2 m n k. */
double fm_gemm_flops(const fm_gemm_args *args);

#endif
