#include "model/config.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/families/family.h"

/* Beyond any model there is, and small enough that no product of extents overflows 64 bits. */
enum {
    MAX_WIDTH = 1 << 20,
    MAX_FEED_FORWARD = 1 << 22,
    MAX_VOCABULARY = 1 << 24,
    MAX_LAYERS = 1 << 12,
    MAX_HEADS = 1 << 14,
    MAX_HEAD_DIM = 1 << 12,
    MAX_POSITIONS = 1 << 30
};

static bool is_null(const json_t *object, const char *key)
{
    return json_is_null(json_object_get(object, key));
}

static int get_extent(int *out, const json_t *object, const char *key, int64_t absent, int high, const char *name)
{
    int64_t value = absent;
    FM_TRY(fm_json_get_int(&value, object, key, 1, high, name));
    *out = (int)value;
    return FM_OK;
}

static int parse_dimensions(fm_config *out, const json_t *object, const char *name)
{
    const fm_family *const family = out->family;
    out->C = family->C;
    out->F = family->F;
    out->V = family->V;
    out->max_positions = family->max_positions;
    FM_TRY(fm_json_get_int(&out->C, object, "hidden_size", 1, MAX_WIDTH, name));
    FM_TRY(fm_json_get_int(&out->F, object, "intermediate_size", 1, MAX_FEED_FORWARD, name));
    FM_TRY(fm_json_get_int(&out->V, object, "vocab_size", 1, MAX_VOCABULARY, name));
    FM_TRY(fm_json_get_int(&out->max_positions, object, "max_position_embeddings", 1, MAX_POSITIONS, name));
    FM_TRY(get_extent(&out->L, object, "num_hidden_layers", family->L, MAX_LAYERS, name));
    FM_TRY(get_extent(&out->H, object, "num_attention_heads", family->H, MAX_HEADS, name));
    const int64_t K = family->K == 0 || is_null(object, "num_key_value_heads") ? out->H : family->K;
    FM_TRY(get_extent(&out->K, object, "num_key_value_heads", K, MAX_HEADS, name));
    const int64_t D = family->D == 0 || is_null(object, "head_dim") ? out->C / out->H : family->D;
    FM_TRY(get_extent(&out->D, object, "head_dim", D, MAX_HEAD_DIM, name));
    if (out->H % out->K != 0) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"num_attention_heads\" is %d, a multiple of \"num_key_value_heads\" (%d) was expected", name,
                       out->H, out->K);
    }
    if (out->D < 1 || out->D > MAX_HEAD_DIM) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"hidden_size\" %lld over \"num_attention_heads\" %d gives heads of %d elements, 1 to %d were "
                       "expected", name, (long long)out->C, out->H, out->D, MAX_HEAD_DIM);
    }
    return FM_OK;
}

/* An option as the family's row describes it: never, always, or what a key says. */
static int get_option(bool *out, const json_t *object, const char *option, const char *name)
{
    *out = option != NULL && *option == '\0';
    return option != NULL && *option != '\0' ? fm_json_get_bool(out, object, option, name) : FM_OK;
}

static int parse_options(fm_config *out, const json_t *object, const char *name)
{
    const fm_family *const family = out->family;
    FM_TRY(get_option(&out->qkv_bias, object, family->qkv_bias, name));
    FM_TRY(get_option(&out->o_bias, object, family->o_bias, name));
    FM_TRY(get_option(&out->mlp_bias, object, family->mlp_bias, name));
    FM_TRY(get_option(&out->qk_norm, object, family->qk_norm, name));
    out->tied = family->tied;
    FM_TRY(fm_json_get_bool(&out->tied, object, "tie_word_embeddings", name));
    out->norm_eps = family->norm_eps;
    FM_TRY(fm_json_get_double(&out->norm_eps, object, "rms_norm_eps", name));
    out->initializer_range = family->initializer_range;
    FM_TRY(fm_json_get_double(&out->initializer_range, object, "initializer_range", name));
    if (!(out->norm_eps >= 0 && out->norm_eps < 1) || !(out->initializer_range >= 0 && out->initializer_range <= 1)) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"rms_norm_eps\" is %g and \"initializer_range\" %g: numbers from 0 to 1 were expected", name,
                       out->norm_eps, out->initializer_range);
    }
    return FM_OK;
}

static int parse_dtype(fm_config *out, const json_t *object, const char *name)
{
    const char *text = "float32";
    FM_TRY(fm_json_get_string(&text, object, "torch_dtype", name));
    FM_TRY(fm_json_get_string(&text, object, "dtype", name));
    const int rc = fm_dtype_parse(&out->dtype, text);
    if (rc < 0) {
        return fm_fail_in(rc, "%s: \"dtype\"", name);
    }
    if (out->dtype != FM_F32 && out->dtype != FM_BF16 && out->dtype != FM_F16) {
        return fm_fail(FM_ERR_UNSUPPORTED, "%s: \"dtype\" is \"%.100s\"; supported are: float32 bfloat16 float16", name, text);
    }
    return FM_OK;
}

/* A token id, or the first of a list of them; `*out` beforehand is what an absent key means. */
static int get_token(int64_t *out, const json_t *object, const char *key, int64_t V, const char *name)
{
    const json_t *value = json_object_get(object, key);
    if (json_is_array(value)) {
        value = json_array_get(value, 0);
        value = value == NULL ? json_null() : value;
    }
    if (value != NULL && !json_is_null(value) && !json_is_integer(value)) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"%s\" holds something that is no token id: an integer, a list of them or null was expected",
                       name, key);
    }
    const int64_t token = value == NULL ? *out : json_is_null(value) ? -1 : json_integer_value(value);
    *out = token >= 0 && token < V ? token : -1;
    if (token != *out && value != NULL) {
        fm_log_warning("%s: \"%s\" is %lld, which is outside the vocabulary of %lld: taken as none", name, key, (long long)token,
                       (long long)V);
    }
    return FM_OK;
}

static int parse_tokens(fm_config *out, const json_t *object, const char *name)
{
    out->pad_token = -1;
    if (json_object_get(object, "pad_token_id") != NULL && !is_null(object, "pad_token_id")) {
        FM_TRY(fm_json_get_int(&out->pad_token, object, "pad_token_id", -out->V, out->V - 1, name));
        out->pad_token += out->pad_token < 0 ? out->V : 0;
    }
    out->bos_token = out->family->bos_token;
    out->eos_token = out->family->eos_token;
    FM_TRY(get_token(&out->bos_token, object, "bos_token_id", out->V, name));
    return get_token(&out->eos_token, object, "eos_token_id", out->V, name);
}

/* The family's window, 0 where there is none. */
static int get_window(int64_t *out, const fm_config *config, const json_t *object, const char *name)
{
    bool used = config->family->window_rule == FM_WINDOW_EVERY_LAYER;
    if (config->family->window_rule == FM_WINDOW_LAYER_TYPES) {
        FM_TRY(fm_json_get_bool(&used, object, "use_sliding_window", name));
    }
    *out = is_null(object, "sliding_window") ? 0 : config->family->sliding_window;
    FM_TRY(fm_json_get_int(out, object, "sliding_window", 1, INT32_MAX, name));
    *out = used ? *out : 0;
    return FM_OK;
}

/* layer_types: one of two words a layer. */
static int parse_layer_types(fm_config *out, const json_t *types, int64_t window, const char *name)
{
    if (!json_is_array(types) || json_array_size(types) != (size_t)out->L) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"layer_types\" has %zu entries, a list of %d (num_hidden_layers) was expected", name,
                       json_array_size(types), out->L);
    }
    for (int i = 0; i < out->L; i++) {
        const char *const type = json_string_value(json_array_get(types, (size_t)i));
        const bool sliding = type != NULL && strcmp(type, "sliding_attention") == 0;
        if (!sliding && (type == NULL || (strcmp(type, "full_attention") != 0 && strcmp(type, "attention") != 0))) {
            return fm_fail(FM_ERR_UNSUPPORTED, "%s: \"layer_types\"[%d] is %.100s; supported are: full_attention sliding_attention", name,
                           i, type != NULL ? type : "no text");
        }
        if (sliding && window == 0) {
            return fm_fail(FM_ERR_FORMAT, "%s: \"layer_types\"[%d] is sliding_attention, but \"use_sliding_window\" and "
                           "\"sliding_window\" give no window", name, i);
        }
        out->window[i] = sliding ? window : 0;
    }
    return FM_OK;
}

static int parse_windows(fm_config *out, const json_t *object, const char *name)
{
    out->window = fm_alloc_array(out->L, sizeof *out->window, FM_MEMORY_HOST);
    if (out->window == NULL) {
        return FM_ERR_MEMORY;
    }
    if (out->family->window_rule == FM_WINDOW_NEVER) {
        return FM_OK;
    }
    int64_t window, first = 0;
    FM_TRY(get_window(&window, out, object, name));
    if (out->family->window_rule == FM_WINDOW_LAYER_TYPES) {
        const json_t *const types = json_object_get(object, "layer_types");
        if (types != NULL && !json_is_null(types)) {
            return parse_layer_types(out, types, window, name);
        }
        first = out->family->max_window_layers;
        FM_TRY(fm_json_get_int(&first, object, "max_window_layers", 0, INT32_MAX, name));
    }
    for (int64_t i = first; i < out->L; i++) {
        out->window[i] = window;
    }
    return FM_OK;
}

/* What would give other numbers than transformers' if it were passed over. */
static int refuse_unsupported(const json_t *object, const char *name)
{
    const char *activation = "silu";
    FM_TRY(fm_json_get_string(&activation, object, "hidden_act", name));
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0) {
        return fm_fail(FM_ERR_UNSUPPORTED, "%s: \"hidden_act\" is \"%.100s\"; supported is: silu", name, activation);
    }
    static const char *const keys[] = {"quantization_config", "per_layer_config"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (json_object_get(object, keys[i]) != NULL && !is_null(object, keys[i])) {
            return fm_fail(FM_ERR_UNSUPPORTED, "%s: \"%s\" is there; finemesh trains models without one", name, keys[i]);
        }
    }
    return FM_OK;
}

static int warn_of_dropout(const json_t *object, const char *name)
{
    static const char *const keys[] = {"attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        double dropout = 0;
        FM_TRY(fm_json_get_double(&dropout, object, keys[i], name));
        if (dropout != 0) {
            fm_log_warning("%s: \"%s\" is %g and is ignored: nothing is dropped", name, keys[i], dropout);
        }
    }
    return FM_OK;
}

static int find_family(fm_config *out, const json_t *object, const char *name)
{
    if (!json_is_object(object)) {
        return fm_fail(FM_ERR_FORMAT, "%s: a JSON object was expected", name);
    }
    const char *type = NULL;
    FM_TRY(fm_json_get_string(&type, object, "model_type", name));
    if (type == NULL) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"model_type\" is absent; supported are: %s", name, fm_family_list());
    }
    out->family = fm_family_find(type);
    if (out->family == NULL) {
        return fm_fail(FM_ERR_UNSUPPORTED, "%s: \"model_type\" is \"%.100s\"; supported are: %s", name, type, fm_family_list());
    }
    snprintf(out->model_type, sizeof out->model_type, "%s", type);
    const char *const architecture = json_string_value(json_array_get(json_object_get(object, "architectures"), 0));
    if (architecture != NULL && strcmp(architecture, out->family->architecture) != 0) {
        fm_log_warning("%s: \"architectures\" says %.100s; it is read as %s", name, architecture, out->family->architecture);
    }
    return FM_OK;
}

static int parse(fm_config *out, const json_t *object, const char *name)
{
    FM_TRY(find_family(out, object, name));
    FM_TRY(refuse_unsupported(object, name));
    FM_TRY(parse_dimensions(out, object, name));
    FM_TRY(parse_options(out, object, name));
    FM_TRY(parse_dtype(out, object, name));
    FM_TRY(parse_tokens(out, object, name));
    FM_TRY(fm_rope_parse(out, object, name));
    FM_TRY(parse_windows(out, object, name));
    return warn_of_dropout(object, name);
}

int fm_config_parse(fm_config *out, const json_t *object, const char *name)
{
    *out = (fm_config){0};
    const int rc = parse(out, object, name);
    if (rc < 0) {
        fm_config_clear(out);
    }
    return rc;
}

void fm_config_clear(fm_config *config)
{
    fm_free(config->window);
    *config = (fm_config){0};
}

/* The extents of tensors, by the shape letters. */
enum extent { EXTENT_NONE, EXTENT_C, EXTENT_F, EXTENT_V, EXTENT_D, EXTENT_HD, EXTENT_KD };

static int64_t extent_of(enum extent extent, const fm_config *config)
{
    switch (extent) {
    case EXTENT_C: return config->C;
    case EXTENT_F: return config->F;
    case EXTENT_V: return config->V;
    case EXTENT_D: return config->D;
    case EXTENT_HD: return (int64_t)config->H * config->D;
    case EXTENT_KD: return (int64_t)config->K * config->D;
    case EXTENT_NONE: break;
    }
    return 0;
}

/* Which models have a tensor. */
enum presence { PRESENT_ALWAYS, PRESENT_QKV_BIAS, PRESENT_O_BIAS, PRESENT_MLP_BIAS, PRESENT_QK_NORM, PRESENT_UNTIED };

static bool is_present(enum presence presence, const fm_config *config)
{
    switch (presence) {
    case PRESENT_QKV_BIAS: return config->qkv_bias;
    case PRESENT_O_BIAS: return config->o_bias;
    case PRESENT_MLP_BIAS: return config->mlp_bias;
    case PRESENT_QK_NORM: return config->qk_norm;
    case PRESENT_UNTIED: return !config->tied;
    case PRESENT_ALWAYS: break;
    }
    return true;
}

/* A part of the axis that tp cuts. */
typedef struct {
    enum extent extent;
    enum fm_split split;
} role_piece;

/* What a role means for a tensor, in any family. */
typedef struct {
    enum extent shape[FM_MAX_DIMS];
    int cut_axis;
    role_piece pieces[FM_MAX_PIECES];
    enum presence presence;
    enum fm_place place;
} role_row;

#define UNCUT {{EXTENT_NONE, FM_SPLIT_NONE}}
#define BY_QUERY {{EXTENT_HD, FM_SPLIT_QUERY}}
#define BY_KV {{EXTENT_KD, FM_SPLIT_KV}}
#define BY_F {{EXTENT_F, FM_SPLIT_EVEN}}
#define BY_V {{EXTENT_V, FM_SPLIT_EVEN}}

static const role_row role_rows[FM_ROLES] = {
    [FM_ROLE_EMBEDDING] = {{EXTENT_V, EXTENT_C}, 0, BY_V, PRESENT_ALWAYS, FM_PLACE_EMBEDDING},
    [FM_ROLE_INPUT_NORM] = {{EXTENT_C}, -1, UNCUT, PRESENT_ALWAYS, FM_PLACE_LAYER},
    [FM_ROLE_Q] = {{EXTENT_HD, EXTENT_C}, 0, BY_QUERY, PRESENT_ALWAYS, FM_PLACE_LAYER},
    [FM_ROLE_K] = {{EXTENT_KD, EXTENT_C}, 0, BY_KV, PRESENT_ALWAYS, FM_PLACE_LAYER},
    [FM_ROLE_V] = {{EXTENT_KD, EXTENT_C}, 0, BY_KV, PRESENT_ALWAYS, FM_PLACE_LAYER},
    [FM_ROLE_Q_BIAS] = {{EXTENT_HD}, 0, BY_QUERY, PRESENT_QKV_BIAS, FM_PLACE_LAYER},
    [FM_ROLE_K_BIAS] = {{EXTENT_KD}, 0, BY_KV, PRESENT_QKV_BIAS, FM_PLACE_LAYER},
    [FM_ROLE_V_BIAS] = {{EXTENT_KD}, 0, BY_KV, PRESENT_QKV_BIAS, FM_PLACE_LAYER},
    [FM_ROLE_Q_NORM] = {{EXTENT_D}, -1, UNCUT, PRESENT_QK_NORM, FM_PLACE_LAYER},
    [FM_ROLE_K_NORM] = {{EXTENT_D}, -1, UNCUT, PRESENT_QK_NORM, FM_PLACE_LAYER},
    [FM_ROLE_O] = {{EXTENT_C, EXTENT_HD}, 1, BY_QUERY, PRESENT_ALWAYS, FM_PLACE_LAYER},
    [FM_ROLE_O_BIAS] = {{EXTENT_C}, -1, UNCUT, PRESENT_O_BIAS, FM_PLACE_LAYER},
    [FM_ROLE_POST_NORM] = {{EXTENT_C}, -1, UNCUT, PRESENT_ALWAYS, FM_PLACE_LAYER},
    [FM_ROLE_GATE] = {{EXTENT_F, EXTENT_C}, 0, BY_F, PRESENT_ALWAYS, FM_PLACE_LAYER},
    [FM_ROLE_UP] = {{EXTENT_F, EXTENT_C}, 0, BY_F, PRESENT_ALWAYS, FM_PLACE_LAYER},
    [FM_ROLE_GATE_BIAS] = {{EXTENT_F}, 0, BY_F, PRESENT_MLP_BIAS, FM_PLACE_LAYER},
    [FM_ROLE_UP_BIAS] = {{EXTENT_F}, 0, BY_F, PRESENT_MLP_BIAS, FM_PLACE_LAYER},
    [FM_ROLE_DOWN] = {{EXTENT_C, EXTENT_F}, 1, BY_F, PRESENT_ALWAYS, FM_PLACE_LAYER},
    [FM_ROLE_DOWN_BIAS] = {{EXTENT_C}, -1, UNCUT, PRESENT_MLP_BIAS, FM_PLACE_LAYER},
    [FM_ROLE_FINAL_NORM] = {{EXTENT_C}, -1, UNCUT, PRESENT_ALWAYS, FM_PLACE_HEAD},
    [FM_ROLE_HEAD] = {{EXTENT_V, EXTENT_C}, 0, BY_V, PRESENT_UNTIED, FM_PLACE_HEAD},
};

static bool has_role(const fm_config *config, int role)
{
    return config->family->tensor_names[role] != NULL && is_present(role_rows[role].presence, config);
}

static void make_spec(fm_tensor_spec *out, const fm_config *config, int role, int layer)
{
    const role_row *const row = &role_rows[role];
    *out = (fm_tensor_spec){.dtype = config->dtype, .cut_axis = row->cut_axis, .place = row->place, .layer = layer, .role = role};
    if (role == FM_ROLE_EMBEDDING && config->tied) {
        out->place = FM_PLACE_TIED;
    }
    const char *const pattern = config->family->tensor_names[role];
    const char *const star = strchr(pattern, '*');
    if (star == NULL) {
        snprintf(out->name, sizeof out->name, "%s", pattern);
    } else {
        snprintf(out->name, sizeof out->name, "%.*s%d%s", (int)(star - pattern), pattern, layer, star + 1);
    }
    while (out->ndim < FM_MAX_DIMS && row->shape[out->ndim] != EXTENT_NONE) {
        out->shape[out->ndim] = extent_of(row->shape[out->ndim], config);
        out->ndim++;
    }
    int64_t start = 0;
    while (out->n_pieces < FM_MAX_PIECES && row->pieces[out->n_pieces].extent != EXTENT_NONE) {
        const role_piece *const piece = &row->pieces[out->n_pieces];
        const int64_t count = extent_of(piece->extent, config);
        out->pieces[out->n_pieces++] = (fm_piece){.start = start, .count = count, .split = piece->split};
        start += count;
    }
}

int fm_config_tensors(fm_tensor_spec **out, int *n, const fm_config *config)
{
    *out = fm_alloc_array((int64_t)FM_ROLES * config->L, sizeof **out, FM_MEMORY_HOST);
    *n = 0;
    if (*out == NULL) {
        return FM_ERR_MEMORY;
    }
    if (has_role(config, FM_ROLE_EMBEDDING)) {
        make_spec(&(*out)[(*n)++], config, FM_ROLE_EMBEDDING, -1);
    }
    for (int layer = 0; layer < config->L; layer++) {
        for (int role = 0; role < FM_ROLES; role++) {
            if (role_rows[role].place == FM_PLACE_LAYER && has_role(config, role)) {
                make_spec(&(*out)[(*n)++], config, role, layer);
            }
        }
    }
    for (int role = 0; role < FM_ROLES; role++) {
        if (role_rows[role].place == FM_PLACE_HEAD && has_role(config, role)) {
            make_spec(&(*out)[(*n)++], config, role, -1);
        }
    }
    return FM_OK;
}

int64_t fm_config_parameters(const fm_config *config)
{
    int64_t n = 0;
    for (int role = 0; role < FM_ROLES; role++) {
        if (has_role(config, role)) {
            fm_tensor_spec spec;
            make_spec(&spec, config, role, 0);
            n += fm_tensor_elements(&spec) * (spec.place == FM_PLACE_LAYER ? config->L : 1);
        }
    }
    return n;
}
