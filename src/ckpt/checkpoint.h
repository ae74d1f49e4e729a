/* The folder of a run's checkpoints: which are complete, which are kept, and the links to them.
 *
 *   step-NNNNNN/        a complete checkpoint: a shard set whose manifest.json has a member "checkpoint"; nothing is written
 *                       into it
 *   .step-NNNNNN.tmp/   one that is being written, or whose writer died
 *   step-NNNNNN-hf/     what was exported from one; not ours to remove
 *   latest, best        links: the newest; the one with the lowest validation loss
 *   set-aside/          checkpoints behind a step to which a run went back
 *
 * All functions are local: rank 0 calls them. */
#ifndef FM_CKPT_CHECKPOINT_H
#define FM_CKPT_CHECKPOINT_H

#include <jansson.h>

#include "base/file.h"

/* DIR/step-NNNNNN and DIR/.step-NNNNNN.tmp, into out[FM_PATH_BYTES]. */
int fm_checkpoint_path(char *out, const char *dir, int64_t step);
int fm_checkpoint_temporary(char *out, const char *dir, int64_t step);

/* PATH-hf, into out[FM_PATH_BYTES]: where the checkpoint PATH is exported to. */
int fm_checkpoint_export_path(char *out, const char *path);

/* The steps of the complete checkpoints, newest first; *n = 0 also where the folder is not there. The caller frees *steps with
 * fm_free. */
int fm_checkpoints_list(int64_t **steps, int *n, const char *dir);

/* The state that a checkpoint carries, the member "checkpoint" of its manifest.json: an object with "step", "updates" and
 * "identity", where one was measured "val_loss" (of the last validation at or before it). The caller releases *out with
 * json_decref. Errors: unreadable; no checkpoint. */
int fm_checkpoint_state(json_t **out, const char *path);

/* After a checkpoint was published: `latest` and `best` are set, and of the others the `keep` newest stay. `best` stays too,
 * and so does everything in the folder that is no complete checkpoint. */
int fm_checkpoints_settle(const char *dir, int64_t keep);

/* Removes what writers that died have left. No other process may be writing. */
int fm_checkpoints_clean(const char *dir);

/* Moves the checkpoints of steps after `step` to DIR/set-aside: a run goes back and will take those steps again. *n: how many. */
int fm_checkpoints_set_aside(int *n, const char *dir, int64_t step);

#endif
