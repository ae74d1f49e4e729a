/* Rotary position embeddings: what config.json says of them, and the frequencies that follow. */
#ifndef FM_MODEL_ROPE_H
#define FM_MODEL_ROPE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct fm_family fm_family;
typedef struct fm_config fm_config;

/* X(name, config.json's name) */
#define FM_ROPE_LIST(X) \
    X(FM_ROPE_DEFAULT, "default") \
    X(FM_ROPE_LINEAR, "linear") \
    X(FM_ROPE_DYNAMIC, "dynamic") \
    X(FM_ROPE_LLAMA3, "llama3") \
    X(FM_ROPE_YARN, "yarn")

enum fm_rope_type {
#define FM_ROPE_ENUM(name, text) name,
    FM_ROPE_LIST(FM_ROPE_ENUM)
#undef FM_ROPE_ENUM
    FM_ROPE_TYPES
};

/* transformers' modeling_rope_utils, all its parameters after defaults. */
typedef struct {
    enum fm_rope_type type;
    double theta;
    double factor;
    double low_freq_factor, high_freq_factor;            /* llama3 */
    double beta_fast, beta_slow, mscale, mscale_all_dim; /* yarn; mscale 0: absent */
    double attention_factor;                             /* yarn; < 0: computed */
    bool truncate;                                       /* yarn */
    int64_t original_max_positions;
    int rotary_dim;                                      /* elements of a head that are rotated: int(D * partial_rotary_factor) */
} fm_rope_config;

/* Reads rope_parameters, or rope_theta and rope_scaling, of a config.json object into config->rope; config->family, D and
 * max_positions are there already. `name` stands in errors. Local. */
int fm_rope_parse(fm_config *config, const json_t *object, const char *name);

/* The inverse frequencies [rotary_dim / 2] for a padded row of T tokens (only `dynamic` depends on T), and the factor on cos and
 * sin (1 but for yarn). They are computed in fp32, step by step as transformers does, and widened: angles are meant to be fp32
 * products of position and frequency, as there. Source: transformers.modeling_rope_utils. Local. */
void fm_rope_frequencies(double *inv_freq, double *scale, const fm_config *config, int64_t T);

#endif
