/* A model's list of tensors against what a source holds. */
#ifndef FM_CKPT_MATCH_H
#define FM_CKPT_MATCH_H

#include "ckpt/source.h"

/* tensor_of[i] becomes the source's index of tensors[i], and tensors[i].dtype the source's. Errors: tensors that are missing (the
 * first few are named), another shape, a dtype that is no float. Tensors that the model does not have are named in one warning
 * and ignored; a head beside a tied embedding is ignored without one; groups of optimizer states are no tensors of the model.
 * Local. */
int fm_match_tensors(int *tensor_of, fm_tensor_spec *tensors, int n, const fm_source *source, const char *name);

/* tensor_of[i] becomes the source's index of what tensors[i] is trained to: its master where the checkpoint has one, else the
 * weight. Error: it is not there, or has another shape. Local. */
int fm_match_trained(int *tensor_of, const fm_tensor_spec *tensors, int n, const fm_source *source, const char *name);

#endif
