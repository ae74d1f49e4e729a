/* `finemesh eval`: loss and perplexity of a model over data. */
#ifndef FM_JOB_CMD_EVAL_H
#define FM_JOB_CMD_EVAL_H

#include "job/assemble.h"

/* argv[0] is the job file, the rest are overrides. The model is read straight from model.path; the data are data.validation, or
 * data.train where there is none. Collective on the world. */
int fm_cmd_eval(const fm_launch *launch, int argc, char **argv, bool *started);

#endif
