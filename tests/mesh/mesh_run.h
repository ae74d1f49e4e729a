/* A model on a mesh, as a line of mesh_model's table. */
#ifndef TESTS_MESH_MESH_RUN_H
#define TESTS_MESH_MESH_RUN_H

#include "base/file.h"
#include "reference.h"
#include "trial.h"

enum { MAX_WORDS = 48, WORD_BYTES = 2 * FM_PATH_BYTES, ROWS = 8, CONFIG_LIMIT_BYTES = 1 << 20 };

/* The arguments, and what is the same for all models and meshes. */
typedef struct {
    fm_launch launch;
    fm_launch alone;                   /* as if this rank were the only one */
    const char *data, *scratch;
    const char *job;                   /* the job file's path */
    fm_mesh_shape most, only;          /* only: zeros where every mesh is to be tried */
    int64_t local_batch_size;
    const char *keys[MAX_WORDS];
    int n_keys;
    int virtual_stages;                /* that the keys ask for */
    int failures, lines;
} session;

typedef struct {
    session *s;
    const char *model;
    char dir[FM_PATH_BYTES];
    int64_t L, H, V;                   /* of its config.json */
    reference ref;                     /* what transformers computed, where the check asks for it */
    reference alone;                   /* what one rank computed, likewise */
    fm_mesh_shape mesh;
    int64_t local_batch_size;
    trial t;
    tensor_error gradient;
    bool compared;                     /* gradients were */
    char texts[MAX_WORDS][WORD_BYTES];
    char *words[MAX_WORDS];            /* of the job: its file, then overrides */
    int n_words;
} run;

/* Rank 0 prints. Local. */
void session_say(const session *s, const char *format, ...) FM_PRINTF(2, 3);

/* Starts the words of the job anew: its file, model, mesh, microbatch, and the keys of the command line; run_override adds
 * one. Local. */
void run_set_job(run *r, const fm_mesh_shape *mesh);
void run_override(run *r, const char *format, ...) FM_PRINTF(2, 3);

/* Makes r->t. Collective on the launch's world. */
int run_begin(run *r, const fm_launch *launch, trial_on_gradients *on_gradients);

/* A step of r->t. An error that is this rank's own takes all ranks out: others wait for it. Collective on the world. */
int run_step(run *r, int64_t step, fm_step_metrics *metrics);

/* A line of the table. Local. */
void run_report(const run *r, bool good, const char *what);

/* Writes text to SCRATCH/NAME. Collective on the world. */
int session_write(const session *s, const char *name, const char *text, size_t size_bytes);

#endif
