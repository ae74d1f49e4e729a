/* config.json -> dimensions. A model family is a row of a table (families/): what it is called, which options its blocks
 * have, how its tensors are named. Nothing else in finemesh knows a family. All functions are local. */
#ifndef FM_MODEL_CONFIG_H
#define FM_MODEL_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "model/rope.h"
#include "parallel/layout.h"

/* What a tensor is used for. Weights of linear layers are [out, in], as HF stores them. */
enum fm_role {
    FM_ROLE_EMBEDDING,                 /* [V, C] */
    FM_ROLE_INPUT_NORM,                /* [C] before attention */
    FM_ROLE_Q, FM_ROLE_K, FM_ROLE_V,   /* [H D, C], [K D, C], [K D, C] */
    FM_ROLE_Q_BIAS, FM_ROLE_K_BIAS, FM_ROLE_V_BIAS,
    FM_ROLE_Q_NORM, FM_ROLE_K_NORM,    /* [D] */
    FM_ROLE_O, FM_ROLE_O_BIAS,         /* [C, H D], [C] */
    FM_ROLE_POST_NORM,                 /* [C] before the MLP */
    FM_ROLE_GATE, FM_ROLE_UP,          /* [F, C] */
    FM_ROLE_GATE_BIAS, FM_ROLE_UP_BIAS,
    FM_ROLE_DOWN, FM_ROLE_DOWN_BIAS,   /* [C, F], [C] */
    FM_ROLE_FINAL_NORM,                /* [C] */
    FM_ROLE_HEAD,                      /* [V, C]; absent where it is tied */
    FM_ROLES
};

typedef struct fm_family fm_family;

/* Dimensions in the shape letters, and the options of the block. */
typedef struct fm_config {
    const fm_family *family;
    char model_type[64];
    int64_t C, F, V;
    int L, H, K, D;
    double norm_eps;
    int64_t max_positions;
    bool tied;                         /* embedding and head are one tensor: config.json's flag, not the family's habit */
    bool qkv_bias, o_bias, mlp_bias, qk_norm;
    int64_t pad_token;                 /* -1: none; a negative one in config.json has been counted from V */
    int64_t bos_token, eos_token;      /* -1: none; the first of a list */
    double initializer_range;
    enum fm_dtype dtype;               /* of the checkpoint as config.json says: dtype or torch_dtype; float32 where absent */
    fm_rope_config rope;
    int64_t *window;                   /* [L] sliding window of each layer, counting the query itself; 0: none */
} fm_config;

/* Parses a config.json object. `name` stands in errors. Unknown model_type: FM_ERR_UNSUPPORTED with the list of those there are.
 * Dropouts that are not 0 give a warning. Every value is checked: positive extents, H a multiple of K, even rotary_dim ...
 * Free with fm_config_clear. */
int fm_config_parse(fm_config *out, const json_t *object, const char *name);
void fm_config_clear(fm_config *config);

/* The tensors that a model of this config has, in the order: embedding, layers ascending, final norm, head.
 * *out [*n] is freed with fm_free. dtype of each is config->dtype until a checkpoint says otherwise. */
int fm_config_tensors(fm_tensor_spec **out, int *n, const fm_config *config);

/* Parameters in all, a tied one once. */
int64_t fm_config_parameters(const fm_config *config);

/* "llama, mistral, ..." for messages. Static storage. */
const char *fm_family_list(void);

#endif
