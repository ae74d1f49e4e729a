/* `finemesh bench`: what a job's training steps cost on this machine, on rows of made-up ids. */
#ifndef FM_JOB_CMD_BENCH_H
#define FM_JOB_CMD_BENCH_H

#include "job/assemble.h"

/* argv: JOB.ini, overrides, and the options --steps, --warmup, --split and --json anywhere. Collective. */
int fm_cmd_bench(const fm_launch *launch, int argc, char **argv, bool *started);

#endif
