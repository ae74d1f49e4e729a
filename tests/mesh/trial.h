/* A model of a job on its mesh, with data and loop: what `finemesh run` makes, for tests that look inside. */
#ifndef TESTS_MESH_TRIAL_H
#define TESTS_MESH_TRIAL_H

#include "job/assemble.h"
#include "train/loop.h"

/* Called between the gradients of a step and its update. Collective on the world. */
typedef int trial_on_gradients(void *context, fm_model *model, int64_t step);

/* Zeros at first. */
typedef struct {
    fm_assembly a;
    fm_source *source;
    fm_dataset *data;
    fm_loop *loop;
} trial;

/* What a trial is made of. Borrowed. */
typedef struct {
    const fm_launch *launch;
    const char *index;                 /* path of the dataset's index */
    int n_words;
    char **words;                      /* the job file's path, then overrides */
    trial_on_gradients *on_gradients;  /* NULL: none */
    void *context;
} trial_spec;

/* Collective on the world; the same result on every rank. trial_end frees, after a failure too. */
int trial_begin(trial *t, const trial_spec *spec);
void trial_end(trial *t);

#endif
