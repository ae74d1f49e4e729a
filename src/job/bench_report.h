/* The result of `finemesh bench`, as tables on the screen and as one line of JSON. All functions are local. */
#ifndef FM_JOB_BENCH_REPORT_H
#define FM_JOB_BENCH_REPORT_H

#include "job/assemble.h"
#include "train/bench.h"

/* What was measured beside the steps. */
typedef struct {
    const fm_job *job;
    const fm_bench_result *result;
    fm_mesh_shape mesh;
    int ranks, threads;
    const char *device;
    char model_type[64];
    enum fm_dtype dtype, master_dtype, state_dtype;
    int64_t parameters;
    double flops_per_token;
    double startup_s;                  /* from exec to the first step, the slowest rank */
    int64_t estimate_bytes;            /* of the largest rank, as it was said before anything was allocated */
} fm_bench_report;

/* Tables on stdout, from the speaker. */
void fm_bench_report_print(const fm_bench_report *report);

/* One JSON object and a newline in `path`; the same names as in tests/bench/peer.py. */
int fm_bench_report_write(const fm_bench_report *report, const char *path);

#endif
