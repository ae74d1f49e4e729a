#include "model/tp_plan.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/families/family.h"

/* What a module can be in a plan. */
enum kind { KIND_COLUMN = 1, KIND_ROW = 2, KIND_HEAD_NORM = 4, KIND_NORM = 8, KIND_EMBEDDING = 16, KIND_HEAD = 32 };

enum effect { EFFECT_NONE, EFFECT_CUT, EFFECT_SEQUENCE };

/* transformers' styles, of version 4 and 5: whom they fit, and what they do to the module. */
static const struct {
    const char *name;
    unsigned fits;
    enum effect effect;
} styles[] = {
    { "colwise", KIND_COLUMN | KIND_HEAD, EFFECT_CUT },
    { "rowwise", KIND_ROW | KIND_EMBEDDING, EFFECT_CUT },
    { "colwise_rep", KIND_HEAD, EFFECT_CUT },
    { "colwise_gather_output", KIND_HEAD, EFFECT_CUT },
    { "embedding_rowwise", KIND_EMBEDDING, EFFECT_CUT },
    { "sequence_parallel", KIND_NORM, EFFECT_SEQUENCE },
    { "replicated_with_grad_allreduce", KIND_HEAD_NORM | KIND_NORM, EFFECT_NONE },
    { "replicate", ~0u, EFFECT_NONE },
    { "replicated", ~0u, EFFECT_NONE },
};
enum { N_STYLES = sizeof styles / sizeof styles[0] };

/* The modules that can have an entry. */
enum half { HALF_NONE, HALF_ATTENTION, HALF_MLP };

static const struct {
    enum fm_role role;
    unsigned kind;
    enum half half;
} modules[] = {
    { FM_ROLE_EMBEDDING, KIND_EMBEDDING, HALF_NONE },
    { FM_ROLE_INPUT_NORM, KIND_NORM, HALF_NONE },
    { FM_ROLE_Q, KIND_COLUMN, HALF_ATTENTION },
    { FM_ROLE_K, KIND_COLUMN, HALF_ATTENTION },
    { FM_ROLE_V, KIND_COLUMN, HALF_ATTENTION },
    { FM_ROLE_Q_NORM, KIND_HEAD_NORM, HALF_NONE },
    { FM_ROLE_K_NORM, KIND_HEAD_NORM, HALF_NONE },
    { FM_ROLE_O, KIND_ROW, HALF_ATTENTION },
    { FM_ROLE_POST_NORM, KIND_NORM, HALF_NONE },
    { FM_ROLE_GATE, KIND_COLUMN, HALF_MLP },
    { FM_ROLE_UP, KIND_COLUMN, HALF_MLP },
    { FM_ROLE_DOWN, KIND_ROW, HALF_MLP },
    { FM_ROLE_FINAL_NORM, KIND_NORM, HALF_NONE },
    { FM_ROLE_HEAD, KIND_HEAD, HALF_NONE },
};
enum { N_MODULES = sizeof modules / sizeof modules[0] };

/* An entry of a plan. */
typedef struct {
    const char *module, *style;
} entry;

/* What transformers' config classes hold (base_model_tp_plan), and its model classes add (_tp_plan: the head). Version 5.23. */
#define LLAMA_PLAN \
    { "layers.*.self_attn.q_proj", "colwise" }, { "layers.*.self_attn.k_proj", "colwise" }, \
    { "layers.*.self_attn.v_proj", "colwise" }, { "layers.*.self_attn.o_proj", "rowwise" }, \
    { "layers.*.mlp.gate_proj", "colwise" }, { "layers.*.mlp.up_proj", "colwise" }, { "layers.*.mlp.down_proj", "rowwise" }, \
    { "lm_head", "colwise_gather_output" }

static const entry llama_plan[] = { LLAMA_PLAN, { NULL, NULL } };
static const entry qwen3_plan[] = { LLAMA_PLAN, { "layers.*.self_attn.q_norm", "replicated_with_grad_allreduce" },
                                    { "layers.*.self_attn.k_norm", "replicated_with_grad_allreduce" }, { NULL, NULL } };

static const struct {
    const char *model_type;
    const entry *plan;
} plans[] = { { "llama", llama_plan }, { "mistral", llama_plan }, { "qwen2", llama_plan }, { "qwen3", qwen3_plan } };

/* The effect on each module, by its place in `modules`; -1: no entry. */
typedef struct {
    int effect[N_MODULES];
} reading;

/* A module's name without "model." before and ".weight" behind. */
static void module_name(char out[FM_NAME_BYTES], const fm_config *config, int i)
{
    const char *const full = config->family->tensor_names[modules[i].role];
    const char *const from = full == NULL ? "" : strncmp(full, "model.", 6) == 0 ? full + 6 : full;
    const size_t length = strlen(from), tail = strlen(".weight");
    const bool has_tail = length > tail && strcmp(from + length - tail, ".weight") == 0;
    snprintf(out, FM_NAME_BYTES, "%.*s", (int)(has_tail ? length - tail : length), from);
}

static int find_module(const fm_config *config, const char *key)
{
    char module[FM_NAME_BYTES];
    const char *const wanted = strncmp(key, "model.", 6) == 0 ? key + 6 : key;
    for (int i = 0; i < N_MODULES; i++) {
        module_name(module, config, i);
        if (module[0] != '\0' && strcmp(module, wanted) == 0) {
            return i;
        }
    }
    return -1;
}

static int fail_style(const char *name, const char *key, const char *style, unsigned kind)
{
    char list[256] = "";
    for (int s = 0; s < N_STYLES; s++) {
        if (styles[s].fits & kind) {
            const size_t at = strlen(list);
            snprintf(list + at, sizeof list - at, "%s%s", at > 0 ? ", " : "", styles[s].name);
        }
    }
    return fm_fail(FM_ERR_JOB, "%s: base_model_tp_plan: %s is \"%s\": one of %s was expected", name, key, style, list);
}

static int read_entry(reading *r, const fm_config *config, const char *key, const char *style, const char *name)
{
    const int i = find_module(config, key);
    if (i < 0) {
        return fm_fail(FM_ERR_JOB, "%s: base_model_tp_plan: a %s model has no module %s that could be cut: modules like "
                       "layers.*.self_attn.q_proj were expected", name, config->model_type, key);
    }
    for (int s = 0; s < N_STYLES; s++) {
        if (strcmp(styles[s].name, style) == 0 && (styles[s].fits & modules[i].kind) != 0) {
            r->effect[i] = (int)styles[s].effect;
            return FM_OK;
        }
    }
    return fail_style(name, key, style, modules[i].kind);
}

/* Whether all modules of a half, or (HALF_NONE) all norms, have the effect; a mixture is refused with one of each. */
static int settle(bool *out, const reading *r, const fm_config *config, enum half half, enum effect effect, const char *name)
{
    int with = -1, without = -1;
    for (int i = 0; i < N_MODULES; i++) {
        if (modules[i].half == half && (half != HALF_NONE || modules[i].kind == KIND_NORM)) {
            *(r->effect[i] == (int)effect ? &with : &without) = i;
        }
    }
    if (with >= 0 && without >= 0) {
        char has[FM_NAME_BYTES], has_not[FM_NAME_BYTES];
        module_name(has, config, with);
        module_name(has_not, config, without);
        return fm_fail(FM_ERR_JOB, "%s: base_model_tp_plan: %s is %s, but %s is not: they work on each other's output, and are so all or "
                       "none", name, has, effect == EFFECT_CUT ? "cut over the tp ranks" : "sequence_parallel", has_not);
    }
    *out = with >= 0;
    return FM_OK;
}

static int read_plan(reading *r, const fm_config *config, const json_t *object, const char *name)
{
    const json_t *const given = json_object_get(object, "base_model_tp_plan");
    if (json_is_object(given)) {
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)(uintptr_t)given, key, value) {
            if (!json_is_string(value)) {
                return fm_fail(FM_ERR_JOB, "%s: base_model_tp_plan: %s: a style's name was expected", name, key);
            }
            FM_TRY(read_entry(r, config, key, json_string_value(value), name));
        }
        return FM_OK;
    }
    if (given != NULL && !json_is_null(given)) {
        return fm_fail(FM_ERR_JOB, "%s: base_model_tp_plan: an object of modules and styles was expected", name);
    }
    for (size_t p = 0; p < sizeof plans / sizeof plans[0]; p++) {
        if (strcmp(plans[p].model_type, config->model_type) == 0) {
            for (const entry *e = plans[p].plan; e->module != NULL; e++) {
                FM_TRY(read_entry(r, config, e->module, e->style, name));
            }
            return FM_OK;
        }
    }
    return fm_fail(FM_ERR_UNSUPPORTED, "distributed.use_hf_tp_plan: no plan of transformers is known for model_type %s: leave it at no, or "
                   "write base_model_tp_plan into %s", config->model_type, name);
}

int fm_tp_plan_resolve(fm_tp_plan *out, const fm_config *config, const json_t *object, const char *name)
{
    reading r;
    bool cut = false;
    *out = (fm_tp_plan){ .sequence_parallel = false };
    for (int i = 0; i < N_MODULES; i++) {
        r.effect[i] = -1;
    }
    FM_TRY(read_plan(&r, config, object, name));
    FM_TRY(settle(&cut, &r, config, HALF_ATTENTION, EFFECT_CUT, name));
    out->attention_is_whole = !cut;
    FM_TRY(settle(&cut, &r, config, HALF_MLP, EFFECT_CUT, name));
    out->mlp_is_whole = !cut;
    return settle(&out->sequence_parallel, &r, config, HALF_NONE, EFFECT_SEQUENCE, name);
}

static enum half half_of(int role)
{
    switch ((enum fm_role)role) {
    case FM_ROLE_Q_BIAS:
    case FM_ROLE_K_BIAS:
    case FM_ROLE_V_BIAS: return HALF_ATTENTION;
    case FM_ROLE_GATE_BIAS:
    case FM_ROLE_UP_BIAS: return HALF_MLP;
    default: break;
    }
    for (int i = 0; i < N_MODULES; i++) {
        if ((int)modules[i].role == role) {
            return modules[i].half;
        }
    }
    return HALF_NONE;
}

void fm_tp_plan_apply(fm_tensor_spec *tensors, int n_tensors, const fm_tp_plan *plan)
{
    for (int t = 0; t < n_tensors; t++) {
        const enum half half = half_of(tensors[t].role);
        if ((half == HALF_ATTENTION && plan->attention_is_whole) || (half == HALF_MLP && plan->mlp_is_whole)) {
            tensors[t].cut_axis = -1;
            tensors[t].n_pieces = 0;
        }
    }
}
