/* `finemesh generate`: what a model says after a prompt, word by word the likeliest. */
#ifndef FM_JOB_CMD_GENERATE_H
#define FM_JOB_CMD_GENERATE_H

#include "job/assemble.h"

/* argv: MODEL PROMPT [--max-new-tokens N] and the options of placing.h. Collective on the world. */
int fm_cmd_generate(const fm_launch *launch, int argc, char **argv, bool *started);

#endif
