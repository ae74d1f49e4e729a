/* `finemesh inspect`: what a checkpoint holds. */
#ifndef FM_JOB_CMD_INSPECT_H
#define FM_JOB_CMD_INSPECT_H

#include "job/assemble.h"

/* argv are paths of HF directories, shard sets, .h5 or .safetensors files. Rank 0 looks. Collective on the world. */
int fm_cmd_inspect(const fm_launch *launch, int argc, char **argv, bool *started);

#endif
