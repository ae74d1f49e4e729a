/* `finemesh load`: a model on a mesh, straight from its HF directory, and one forward pass. */
#ifndef FM_JOB_CMD_LOAD_H
#define FM_JOB_CMD_LOAD_H

#include "job/assemble.h"

/* argv: [MODEL] and the options of NeMo AutoModel's example. Collective on the world. */
int fm_cmd_load(const fm_launch *launch, int argc, char **argv, bool *started);

#endif
