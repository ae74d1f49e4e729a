/* `finemesh run`: convert if needed, train, validate, export. */
#ifndef FM_JOB_CMD_RUN_H
#define FM_JOB_CMD_RUN_H

#include "job/assemble.h"

/* argv[0] is the job file, the rest are overrides. Sets *started when the first step has begun. Collective on the world. */
int fm_cmd_run(const fm_launch *launch, int argc, char **argv, bool *started);

#endif
