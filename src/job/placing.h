/* A model and where to put it, as command-line options: what load and generate have in common. */
#ifndef FM_JOB_PLACING_H
#define FM_JOB_PLACING_H

#include "job/assemble.h"

enum { FM_PLACING_SIZES = 5, FM_PLACING_OVERRIDE_BYTES = 64 };

/* What the options say. Strings are borrowed from argv. */
typedef struct {
    const char *model;                 /* HF directory; NULL: the embedded tiny model */
    const char *dtype;
    bool use_device_mesh;
    int size[FM_PLACING_SIZES];        /* tp, cp, pp, dp_replicate, dp */
} fm_placing;

/* The defaults. Local. */
fm_placing fm_placing_default(void);

/* A size option alone (--tp-size and the like). Local. */
int fm_placing_size_option(fm_placing *placing, bool *known, int *i, int argc, char **argv);

/* The sizes as overrides of a job. Local. */
void fm_placing_print_sizes(char out[FM_PLACING_SIZES][FM_PLACING_OVERRIDE_BYTES], const fm_placing *placing);

/* Reads the option argv[*i], and its value, which *i moves to; *known: whether it is one of these. Local. */
int fm_placing_option(fm_placing *placing, bool *known, int *i, int argc, char **argv);

/* The options as a person writes them, for messages: all of them, the sizes alone. Static storage. */
const char *fm_placing_list(void);
const char *fm_placing_size_list(void);

/* What costs nothing: the options as a job, the mesh, config.json. Collective on the world. */
int fm_placing_begin(fm_assembly *a, const fm_launch *launch, const fm_placing *placing);

/* After that the model on the mesh, ready to run rows of n_tokens; each rank reads what it keeps. Collective on the world. */
int fm_placing_load(fm_assembly *a, int64_t n_tokens);

#endif
