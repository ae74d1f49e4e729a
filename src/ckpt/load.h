/* Weights into a model: from any source of tensors, or from the seed. */
#ifndef FM_CKPT_LOAD_H
#define FM_CKPT_LOAD_H

#include "ckpt/source.h"
#include "model/model.h"

/* Reads what this rank holds. Collective on tp. */
int fm_load_model(fm_model *model, fm_source *source);

/* Weights, masters and moments of a checkpoint that any mesh wrote. Error: it holds no moments. Collective on tp. */
int fm_load_states(fm_model *model, fm_source *source);

/* HF's initialiser: normal with config.initializer_range for matrices (the padding row of the embedding 0), 1 for norms, 0 for biases;
 * every number a function of seed, tensor and element, whatever the mesh. Local. */
int fm_load_random(fm_model *model, uint64_t seed);

#endif
