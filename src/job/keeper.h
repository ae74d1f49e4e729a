/* The checkpoints of a run: when they are due, writing them, in the background where memory allows a copy, and exporting them
 * from their files while training goes on. */
#ifndef FM_JOB_KEEPER_H
#define FM_JOB_KEEPER_H

#include <jansson.h>

#include "job/resume.h"

typedef struct fm_keeper fm_keeper;

/* Everything is borrowed. */
typedef struct {
    const fm_assembly *a;
    const fm_loop *loop;
    const json_t *identity;            /* rank 0's (fm_identity_make) */
    const fm_resume *resume;           /* where the run goes on from */
    double deadline_s;                 /* of the system's clock; 0: none */
} fm_keeper_spec;

/* Decides whether checkpoints are written in the background, by the memory that is left beside the model, and says so.
 * Collective on the world. */
int fm_keeper_new(fm_keeper **out, const fm_keeper_spec *spec);

/* After step `step` and its validation (val_loss NAN: none; a checkpoint carries the last that was measured): finishes a
 * checkpoint whose bytes are written, begins one that is due. *stop: a signal or the time limit asks for an end; then, unless the
 * run is at its last step, the checkpoint of this step is complete (and not exported). `metrics` (rank 0's, else NULL) are on the
 * disk before a checkpoint is complete. The error is agreed. Collective on the world. */
int fm_keeper_step(bool *stop, fm_keeper *keeper, const fm_step_metrics *step, double val_loss, fm_metrics *metrics);

/* Gives up what is being written; NULL is allowed. Local. */
void fm_keeper_destroy(fm_keeper *keeper);

#endif
