/* Arrays of a model into a shard set: gradients, weights, optimizer states. */
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

#endif
