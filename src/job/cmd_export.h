/* `finemesh export`: the newest checkpoint of a job (its shards where there is none), or a given one, becomes an HF directory, on
 * any number of ranks. */
#ifndef FM_JOB_CMD_EXPORT_H
#define FM_JOB_CMD_EXPORT_H

#include "job/assemble.h"

/* argv[0] is the job file or a checkpoint; the rest are overrides and -o DIR. Collective on the world. */
int fm_cmd_export(const fm_launch *launch, int argc, char **argv, bool *started);

#endif
