/* From which checkpoint a run goes on. */
#ifndef FM_JOB_RESUME_H
#define FM_JOB_RESUME_H

#include <jansson.h>

#include "base/file.h"
#include "job/assemble.h"
#include "train/loop.h"

/* Plain. */
typedef struct {
    int64_t step;                      /* steps done; 0: from the beginning */
    fm_loop_state loop;
    double val_loss;                   /* the last that was measured, after step val_step; NAN: none */
    int64_t val_step;
    double checkpoint_s;               /* what writing it took; 0: not known */
    char dir[FM_PATH_BYTES];           /* the checkpoint; "": none */
} fm_resume;

/* By checkpoint.resume: auto takes the newest complete checkpoint of OUTPUT_DIR whose every byte is as it was written (the
 * ranks share the reading; damaged ones are named and passed over), a directory must be one. Nothing is changed. `identity`: rank
 * 0's; a checkpoint of other inputs is refused. Errors: FM_ERR_JOB; no checkpoint is intact. Collective on the world. */
int fm_resume_choose(fm_resume *out, const fm_assembly *a, const json_t *identity);

/* For a run that begins there and that nothing refuses any more: checkpoints of later steps are set aside, as those steps will be taken
 * again, half-written ones and those that `keep` no longer keeps are removed, the links are set. Collective on the world. */
int fm_resume_settle(const fm_resume *resume, const fm_assembly *a);

/* The newest intact checkpoint of OUTPUT_DIR, without any of the rest; out->dir is "" where there is none. Collective on the
 * world. */
int fm_resume_newest(fm_resume *out, const fm_assembly *a);

/* Weights, masters and moments into the model. Collective on the world. */
int fm_resume_load(const fm_resume *resume, fm_assembly *a);

#endif
