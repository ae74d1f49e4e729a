/* What training steps cost: their speed, where their time goes, and what the device could do. */
#ifndef FM_TRAIN_BENCH_H
#define FM_TRAIN_BENCH_H

#include "ops/timed.h"
#include "train/loop.h"

/* The parts of a step's time, as a person reads them. A rank's parts and the rest make its step.
 * X(name, key, what it is called in tables) */
#define FM_BENCH_PART_LIST(X) \
    X(FM_BENCH_GEMM, "gemm", "matrix products") \
    X(FM_BENCH_ATTENTION, "attention", "attention") \
    X(FM_BENCH_KERNELS, "kernels", "other kernels") \
    X(FM_BENCH_OPTIMIZER, "optimizer", "optimizer") \
    X(FM_BENCH_COMMUNICATION, "communication", "communication") \
    X(FM_BENCH_WAITING, "waiting", "waiting for ranks") \
    X(FM_BENCH_REST, "rest", "copies, host, gaps")

enum fm_bench_part {
#define FM_BENCH_PART_ENUM(name, key, text) name,
    FM_BENCH_PART_LIST(FM_BENCH_PART_ENUM)
#undef FM_BENCH_PART_ENUM
    FM_BENCH_PARTS
};

const char *fm_bench_part_key(enum fm_bench_part part);
const char *fm_bench_part_name(enum fm_bench_part part);

typedef struct {
    int64_t warmup, steps;             /* not timed; timed */
    int64_t split_steps;               /* timed again, operation by operation */
} fm_bench_options;

/* Operations and kinds of products of rank 0, calls and seconds a step; best: what the kind reaches alone. */
typedef struct {
    fm_gemm_cost cost;
    double best_flops_per_s;           /* 0: not measured */
} fm_bench_gemm;

enum { FM_BENCH_OPS = 64 };

/* Numbers of all ranks are the same on each of them. */
typedef struct {
    fm_bench_options options;
    int64_t tokens;                    /* of a step */
    double loss;                       /* of the last step */
    double step_s, least_step_s, most_step_s;   /* median and extremes; a step takes what the slowest rank takes */
    double split_step_s;               /* mean over ranks and steps, while operations were timed */
    double part_s[FM_BENCH_PARTS], most_part_s[FM_BENCH_PARTS];   /* a step; mean and most over ranks */
    double step_gemm_flops_per_s;      /* of the products within the steps; sum over ranks */
    double gemm_flops_per_s;           /* GEMM rate: best of the model's own products alone and of square ones; sum over ranks */
    double square_flops_per_s;         /* sum over ranks */
    int64_t square_side;               /* this rank's */
    double copy_bytes_per_s;           /* sum over ranks, read and written */
    int64_t peak_bytes[FM_MEMORY_KINDS];   /* most over ranks, from the first step on */
    int64_t host_bytes;                /* resident memory of a process at its peak, most over ranks */
    int n_ops, n_gemms;
    fm_op_cost ops[FM_BENCH_OPS];
    fm_bench_gemm gemms[FM_GEMM_SHAPES];
} fm_bench_result;

/* Runs the steps. Rates stay 0. Collective on world. */
int fm_bench_steps(fm_bench_result *out, fm_loop *loop, fm_model *model, const fm_bench_options *options);

/* Measures the rates, all ranks at once, with the products that fm_bench_steps has seen. The model need not be there any more.
 * Collective on world. */
int fm_bench_rates(fm_bench_result *result, fm_compute *compute, enum fm_dtype dtype, fm_comm *world);

/* Share of the GEMM rate that the steps' causal FLOPs make, 0 to 1. Source of the formula: fm_loop_flops_per_token. Local. */
double fm_bench_mfu(const fm_bench_result *result, double flops_per_token);

#endif
