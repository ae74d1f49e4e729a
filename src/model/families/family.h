/* A model family is a row: the defaults of its transformers config class, the options of its blocks, the names of its tensors.
 * To add one, add a row to families.c and its name to FM_FAMILIES; nothing else in finemesh knows a family. */
#ifndef FM_MODEL_FAMILIES_FAMILY_H
#define FM_MODEL_FAMILIES_FAMILY_H

#include <stdbool.h>
#include <stdint.h>

#include "model/config.h"

/* How config.json says which layers look back only so far. */
enum fm_window_rule {
    FM_WINDOW_NEVER,
    FM_WINDOW_EVERY_LAYER,             /* sliding_window; null: none */
    FM_WINDOW_LAYER_TYPES              /* use_sliding_window, sliding_window, and layer_types or max_window_layers */
};

/* An option of the block: NULL never has it, FM_ALWAYS has it, any other text is the key of config.json that says (absent: no). */
#define FM_ALWAYS ""

struct fm_family {
    const char *model_type;
    const char *architecture;          /* transformers' causal language model class */

    /* What the config class takes for an absent key. */
    int64_t C, F, V, L, H;
    int64_t K;                         /* 0: H. An explicit null is H in every family */
    int64_t D;                         /* 0: C / H. An explicit null is C / H in every family */
    int64_t max_positions;
    double norm_eps, initializer_range, rope_theta;
    int64_t bos_token, eos_token;      /* -1: none */
    bool tied;
    int64_t sliding_window;            /* 0: none */
    int64_t max_window_layers;

    const char *qkv_bias, *o_bias, *mlp_bias, *qk_norm;
    enum fm_window_rule window_rule;
    bool partial_rotary;               /* the model's code obeys partial_rotary_factor */

    const char *const *tensor_names;   /* [FM_ROLES], '*' stands for the layer; NULL where the family has no such tensor */
};

/* NULL where there is none. Local. */
const fm_family *fm_family_find(const char *model_type);

#endif
