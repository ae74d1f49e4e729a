/* transformers' tensor-parallel plans (base_model_tp_plan): a style for each module, by name. What a style asks for is turned into the
 * layout here: the half of a block whose modules have an entry is cut over tp, the other is whole on every tp rank, which all compute
 * the same then. All functions are local.
 *
 * The numbers do not depend on the plan. Three things are the same in every plan, because they change no number either: embedding and
 * head are cut along V ("colwise_gather_output" would bring logits together that nobody needs whole), biases follow their weights,
 * and gradients of replicated parameters are summed where ranks saw different parts, whether the plan says so or not. */
#ifndef FM_MODEL_TP_PLAN_H
#define FM_MODEL_TP_PLAN_H

#include <jansson.h>

#include "model/config.h"

/* What a plan comes down to. Zeros: everything is cut, the family's own plan. */
typedef struct {
    bool attention_is_whole, mlp_is_whole;
    bool sequence_parallel;            /* the norms' style */
} fm_tp_plan;

/* The plan of config.json's base_model_tp_plan where `object` has one, else transformers' for the model_type. Errors FM_ERR_JOB, with
 * the key: a module that the model has not, a style that is not known or that the module cannot have, a half block that is neither
 * cut nor whole. `name` stands in errors. */
int fm_tp_plan_resolve(fm_tp_plan *out, const fm_config *config, const json_t *object, const char *name);

/* Undoes the cuts of the halves that are to be whole. */
void fm_tp_plan_apply(fm_tensor_spec *tensors, int n_tensors, const fm_tp_plan *plan);

#endif
