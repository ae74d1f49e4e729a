/* Weights into a model: from any source of tensors, or from the seed. */
#ifndef FM_CKPT_LOAD_H
#define FM_CKPT_LOAD_H

#include "ckpt/source.h"
#include "model/model.h"

/* Sets the dtype of each tensor to the source's, and checks that it is there with the right shape and a floating type. All that is
 * wrong is reported at once (the first few by name). Local. */
int fm_load_take_dtypes(fm_tensor_spec *tensors, int n_tensors, const fm_source *source);

/* Reads what this rank holds. Collective on tp. */
int fm_load_model(fm_model *model, fm_source *source);

/* HF's initialiser: normal with config.initializer_range for matrices (the padding row of the embedding 0), 1 for norms, 0 for biases;
 * every number a function of seed, tensor and element, whatever the mesh. Local. */
int fm_load_random(fm_model *model, uint64_t seed);

#endif
