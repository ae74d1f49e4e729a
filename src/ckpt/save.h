/* Arrays of a model into a shard set: gradients, weights, optimizer states; at once, or while training goes on. */
#ifndef FM_CKPT_SAVE_H
#define FM_CKPT_SAVE_H

#include <jansson.h>

#include "model/model.h"

/* Which of a parameter's arrays. */
enum fm_array { FM_ARRAY_WEIGHT, FM_ARRAY_MASTER, FM_ARRAY_EXP_AVG, FM_ARRAY_EXP_AVG_SQ, FM_ARRAY_GRADIENT };

/* One array of every parameter, under a group of dataset names ("" for the tensors' own names). */
typedef struct {
    enum fm_array array;
    const char *group;
} fm_save_item;

/* Writes the set DIR, complete or not at all; `extra` as in fm_shards_finish. Collective on world. */
int fm_save(const char *dir, const fm_model *model, const fm_save_item *what, int n_what, const json_t *extra);

/* The same in two parts, for who publishes the folder. `model` and `what` are borrowed until the end. */
typedef struct fm_saving fm_saving;

/* Bytes that a copy of what this rank writes takes. Local. */
size_t fm_saving_bytes(const fm_model *model, const fm_save_item *what, int n_what);

/* Makes this rank's file in the folder TEMPORARY, which is there. `copy` [fm_saving_bytes]: the arrays are copied into it, and
 * a thread writes and syncs the file from there while the model changes. NULL: written and synced on return. The error is this
 * rank's own (agree on it); then *out is NULL. Local; main thread. */
int fm_saving_begin(fm_saving **out, const char *temporary, const fm_model *model, const fm_save_item *what, int n_what,
                    void *copy);

/* Whether fm_saving_end would not wait for the disk here. Local. */
bool fm_saving_is_written(const fm_saving *saving);

/* Waits for the thread, writes checksums, model.h5 and manifest.json. Frees the saving, after an error too (NULL is allowed
 * with rc < 0). `rc` is what this rank has found so far. *written_s (NULL: not wanted): seconds that writing and syncing this
 * rank's data took. Collective on world; the agreed code is returned. */
int fm_saving_end(fm_saving *saving, double *written_s, int rc, const fm_model *model, const json_t *extra);

/* Waits for the thread and frees; NULL is allowed. The half-written file stays. Local. */
void fm_saving_abandon(fm_saving *saving);

#endif
