/* `finemesh reshard SET --tp-size N ... -o DIR`: a shard set or checkpoint of one mesh -> another. */
#ifndef FM_JOB_CMD_RESHARD_H
#define FM_JOB_CMD_RESHARD_H

#include "job/assemble.h"

/* The arguments after the subcommand's name. Collective on the world. */
int fm_cmd_reshard(const fm_launch *launch, int argc, char **argv, bool *started);

#endif
