/* finemesh verify DIR ... */
#ifndef FM_JOB_CMD_VERIFY_H
#define FM_JOB_CMD_VERIFY_H

#include "job/assemble.h"

/* Reads every byte of shard sets and checkpoints and compares the CRCs. Collective on the world. */
int fm_cmd_verify(const fm_launch *launch, int argc, char **argv, bool *started);

#endif
