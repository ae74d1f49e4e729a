#include "model/rope.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "model/config.h"
#include "model/families/family.h"

static const char *const type_names[FM_ROPE_TYPES] = {
#define ROPE_NAME(name, text) [name] = text,
    FM_ROPE_LIST(ROPE_NAME)
#undef ROPE_NAME
};

/* {"rope_type": ...}, or {"type": ...} as older files say. */
static int parse_type(enum fm_rope_type *out, const json_t *parameters, const char *name)
{
    const char *text = type_names[FM_ROPE_DEFAULT];
    FM_TRY(fm_json_get_string(&text, parameters, "type", name));
    FM_TRY(fm_json_get_string(&text, parameters, "rope_type", name));
    for (int i = 0; i < FM_ROPE_TYPES; i++) {
        if (strcmp(text, type_names[i]) == 0) {
            *out = (enum fm_rope_type)i;
            return FM_OK;
        }
    }
#define ROPE_TEXT(name, text) " " text
    return fm_fail(FM_ERR_UNSUPPORTED, "%s: \"rope_type\" is \"%.100s\"; supported are:" FM_ROPE_LIST(ROPE_TEXT), name, text);
#undef ROPE_TEXT
}

/* A number above `low`; `*out` beforehand is the default, and a default that is not above it means that the key is needed. */
static int get_above(double *out, double low, const json_t *parameters, const char *key, const char *name)
{
    FM_TRY(fm_json_get_double(out, parameters, key, name));
    if (*out > low) {
        return FM_OK;
    }
    if (!json_is_number(json_object_get(parameters, key))) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"%s\" is absent: this type of rope needs it", name, key);
    }
    return fm_fail(FM_ERR_FORMAT, "%s: \"%s\" is %.17g, a number above %.17g was expected", name, key, *out, low);
}

static int parse_llama3(fm_rope_config *rope, const json_t *parameters, const char *name)
{
    FM_TRY(get_above(&rope->factor, 0, parameters, "factor", name));
    FM_TRY(get_above(&rope->low_freq_factor, 0, parameters, "low_freq_factor", name));
    return get_above(&rope->high_freq_factor, rope->low_freq_factor, parameters, "high_freq_factor", name);
}

static int parse_yarn(fm_rope_config *rope, const json_t *parameters, int64_t max_positions, const char *name)
{
    if (json_object_get(parameters, "factor") != NULL) {       /* null means this, absence is an error */
        rope->factor = (double)max_positions / (double)rope->original_max_positions;
    }
    FM_TRY(get_above(&rope->factor, 0, parameters, "factor", name));
    FM_TRY(fm_json_get_double(&rope->attention_factor, parameters, "attention_factor", name));
    FM_TRY(fm_json_get_double(&rope->mscale, parameters, "mscale", name));
    FM_TRY(fm_json_get_double(&rope->mscale_all_dim, parameters, "mscale_all_dim", name));
    FM_TRY(fm_json_get_double(&rope->beta_fast, parameters, "beta_fast", name));
    FM_TRY(fm_json_get_double(&rope->beta_slow, parameters, "beta_slow", name));
    FM_TRY(fm_json_get_bool(&rope->truncate, parameters, "truncate", name));
    rope->beta_fast = rope->beta_fast == 0 ? 32 : rope->beta_fast;
    rope->beta_slow = rope->beta_slow == 0 ? 1 : rope->beta_slow;
    if (rope->beta_fast < 0 || rope->beta_slow < 0 || rope->theta == 1) {
        return fm_fail(FM_ERR_FORMAT, "%s: yarn rope with beta_fast %g, beta_slow %g, rope_theta %g: positive betas and a theta "
                       "other than 1 were expected", name, rope->beta_fast, rope->beta_slow, rope->theta);
    }
    return FM_OK;
}

/* How much of a head is rotated. transformers' classes of most families take the whole head, whatever the key says. */
static int parse_rotary_dim(fm_config *config, const json_t *object, const json_t *parameters, const char *name)
{
    double partial = 1;
    FM_TRY(fm_json_get_double(&partial, object, "partial_rotary_factor", name));
    FM_TRY(fm_json_get_double(&partial, parameters, "partial_rotary_factor", name));
    if (!(partial > 0 && partial <= 1)) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"partial_rotary_factor\" is %g, a number above 0 and at most 1 was expected", name, partial);
    }
    if (!config->family->partial_rotary) {
        if (partial != 1 && config->rope.type != FM_ROPE_DEFAULT) {
            return fm_fail(FM_ERR_UNSUPPORTED, "%s: \"partial_rotary_factor\" is %g, but %s rotates whole heads", name, partial,
                           config->family->model_type);
        }
        partial = 1;
    }
    config->rope.rotary_dim = (int)(config->D * partial);
    const int least = config->rope.type == FM_ROPE_DYNAMIC ? 4 : 2;
    if (config->rope.rotary_dim < least || config->rope.rotary_dim % 2 != 0) {
        return fm_fail(FM_ERR_FORMAT, "%s: %d of head_dim %d are rotated: an even number from %d was expected", name,
                       config->rope.rotary_dim, config->D, least);
    }
    return FM_OK;
}

/* transformers 5's rope_parameters, or its forerunner rope_scaling, which wins where both are there. */
static int find_parameters(const json_t **out, const json_t *object, const char *name)
{
    static const char *const keys[] = {"rope_parameters", "rope_scaling"};
    *out = NULL;
    for (int i = 0; i < 2; i++) {
        const json_t *const value = json_object_get(object, keys[i]);
        if (value != NULL && !json_is_null(value) && !json_is_object(value)) {
            return fm_fail(FM_ERR_FORMAT, "%s: \"%s\" is not an object", name, keys[i]);
        }
        if (json_object_size(value) > 0) {
            *out = value;
        }
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)*out, key, value) {
        if (json_is_object(value)) {
            return fm_fail(FM_ERR_UNSUPPORTED, "%s: rope parameters of their own for \"%.100s\"; one set for all layers is supported",
                           name, key);
        }
    }
    return FM_OK;
}

int fm_rope_parse(fm_config *config, const json_t *object, const char *name)
{
    enum { MAX_POSITIONS = 1 << 30 };
    fm_rope_config *const rope = &config->rope;
    const json_t *parameters;
    FM_TRY(find_parameters(&parameters, object, name));
    *rope = (fm_rope_config){.theta = config->family->rope_theta, .attention_factor = -1, .truncate = true};
    FM_TRY(parse_type(&rope->type, parameters, name));
    FM_TRY(fm_json_get_double(&rope->theta, object, "rope_theta", name));
    FM_TRY(get_above(&rope->theta, 0, parameters, "rope_theta", name));
    FM_TRY(parse_rotary_dim(config, object, parameters, name));

    rope->original_max_positions = config->max_positions;
    const char *const original = "original_max_position_embeddings";
    FM_TRY(fm_json_get_int(&rope->original_max_positions, parameters, original, 1, MAX_POSITIONS, name));
    FM_TRY(fm_json_get_int(&rope->original_max_positions, object, original, 1, MAX_POSITIONS, name));
    switch (rope->type) {
    case FM_ROPE_LINEAR:
    case FM_ROPE_DYNAMIC:
        return get_above(&rope->factor, 0, parameters, "factor", name);
    case FM_ROPE_LLAMA3:
        return parse_llama3(rope, parameters, name);
    case FM_ROPE_YARN:
        return parse_yarn(rope, parameters, config->max_positions, name);
    case FM_ROPE_DEFAULT:
    case FM_ROPE_TYPES:
        break;
    }
    return FM_OK;
}

/* theta^(2i / n), rounded to fp32 where torch rounds. */
static float power(float theta, int i, int n)
{
    return (float)pow(theta, (float)(2 * i) / (float)n);
}

/* 1 / theta^(2i / n) */
static void plain(double *inv_freq, float theta, int n)
{
    for (int i = 0; i < n / 2; i++) {
        inv_freq[i] = 1.0f / power(theta, i, n);
    }
}

/* The same divided by the factor. */
static void linear(double *inv_freq, const fm_rope_config *rope)
{
    plain(inv_freq, (float)rope->theta, rope->rotary_dim);
    for (int i = 0; i < rope->rotary_dim / 2; i++) {
        inv_freq[i] = (float)inv_freq[i] / (float)rope->factor;
    }
}

/* theta' = theta (factor T / max - (factor - 1))^(n / (n - 2)) for rows of T > max positions. */
static void dynamic(double *inv_freq, const fm_rope_config *rope, int64_t max_positions, int64_t T)
{
    const int n = rope->rotary_dim;
    float theta = (float)rope->theta;
    if (T > max_positions) {
        const float stretch = (float)T * (float)rope->factor / (float)max_positions - (float)(rope->factor - 1);
        theta = theta * (float)pow(stretch, n / (n - 2.0));
    }
    plain(inv_freq, theta, n);
}

/* Long waves are divided by the factor, short ones kept, those between blended by where they lie. */
static void llama3(double *inv_freq, const fm_rope_config *rope)
{
    plain(inv_freq, (float)rope->theta, rope->rotary_dim);
    const double length = (double)rope->original_max_positions;
    const float longest = (float)(length / rope->low_freq_factor), shortest = (float)(length / rope->high_freq_factor);
    const float factor = (float)rope->factor, low = (float)rope->low_freq_factor;
    const float width = (float)(rope->high_freq_factor - rope->low_freq_factor);
    for (int i = 0; i < rope->rotary_dim / 2; i++) {
        const float kept = (float)inv_freq[i], wave = (float)(2 * M_PI) / kept;
        if (wave > longest) {
            inv_freq[i] = kept / factor;
        } else if (wave >= shortest) {
            const float smooth = ((float)length / wave - low) / width;
            inv_freq[i] = (1 - smooth) * kept / factor + smooth * kept;
        }
    }
}

/* The index of the frequency that turns `turns` times within the original length: where yarn's ramp begins and ends. */
static double yarn_index(double turns, const fm_rope_config *rope)
{
    return rope->rotary_dim * log((double)rope->original_max_positions / (turns * 2 * M_PI)) / (2 * log(rope->theta));
}

/* Fast frequencies are kept, slow ones divided by the factor, with a linear ramp over the index between (arXiv 2309.00071). */
static void yarn(double *inv_freq, const fm_rope_config *rope)
{
    const int n = rope->rotary_dim;
    double low = yarn_index(rope->beta_fast, rope), high = yarn_index(rope->beta_slow, rope);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low > 0 ? low : 0;
    high = high < n - 1 ? high : n - 1;
    high = low == high ? high + 0.001 : high;
    for (int i = 0; i < n / 2; i++) {
        const float turn = power((float)rope->theta, i, n);
        const float ramp = fminf(fmaxf(((float)i - (float)low) / (float)(high - low), 0), 1);
        const float kept = 1 - ramp;
        inv_freq[i] = 1.0f / ((float)rope->factor * turn) * (1 - kept) + 1.0f / turn * kept;
    }
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double yarn_scale(const fm_rope_config *rope)
{
    if (rope->attention_factor >= 0) {
        return rope->attention_factor;
    }
    if (rope->mscale != 0 && rope->mscale_all_dim != 0) {
        return yarn_mscale(rope->factor, rope->mscale) / yarn_mscale(rope->factor, rope->mscale_all_dim);
    }
    return yarn_mscale(rope->factor, 1);
}

void fm_rope_frequencies(double *inv_freq, double *scale, const fm_config *config, int64_t T)
{
    const fm_rope_config *const rope = &config->rope;
    *scale = 1;
    switch (rope->type) {
    case FM_ROPE_LINEAR:
        linear(inv_freq, rope);
        return;
    case FM_ROPE_DYNAMIC:
        dynamic(inv_freq, rope, config->max_positions, T);
        return;
    case FM_ROPE_LLAMA3:
        llama3(inv_freq, rope);
        return;
    case FM_ROPE_YARN:
        yarn(inv_freq, rope);
        *scale = yarn_scale(rope);
        return;
    case FM_ROPE_DEFAULT:
    case FM_ROPE_TYPES:
        break;
    }
    plain(inv_freq, (float)rope->theta, rope->rotary_dim);
}
