/* `finemesh convert`: an HF directory becomes the shards of the job's mesh, on any number of ranks. */
#ifndef FM_JOB_CMD_CONVERT_H
#define FM_JOB_CMD_CONVERT_H

#include "job/assemble.h"

/* argv[0] is the job file, the rest are overrides. Collective on the world. */
int fm_cmd_convert(const fm_launch *launch, int argc, char **argv, bool *started);

#endif
