/* A model and where to put it, as command-line options: what load and generate have in common. */
#ifndef FM_JOB_PLACING_H
#define FM_JOB_PLACING_H

#include "job/assemble.h"

/* What the options say. Strings are borrowed from argv. */
typedef struct {
    const char *model;                 /* HF directory; NULL: the embedded tiny model */
    const char *dtype;
    bool use_device_mesh;
    int size[5];                       /* tp, cp, pp, dp_replicate, dp */
} fm_placing;

/* The defaults. Local. */
fm_placing fm_placing_default(void);

/* Reads the option argv[*i], and its value, which *i moves to; *known: whether it is one of these. Local. */
int fm_placing_option(fm_placing *placing, bool *known, int *i, int argc, char **argv);

/* The options as a person writes them, for messages. Static storage. */
const char *fm_placing_list(void);

/* The model on the mesh, ready to run rows of n_tokens; each rank reads what it keeps. Collective on the world. */
int fm_placing_load(fm_assembly *a, const fm_launch *launch, const fm_placing *placing, int64_t n_tokens);

#endif
