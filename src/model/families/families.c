#include <string.h>

#include "model/families/family.h"

/* Most families took Llama's names; who has no biases or q/k norms never asks for theirs. */
static const char *const llama_names[FM_ROLES] = {
    [FM_ROLE_EMBEDDING] = "model.embed_tokens.weight",
    [FM_ROLE_INPUT_NORM] = "model.layers.*.input_layernorm.weight",
    [FM_ROLE_Q] = "model.layers.*.self_attn.q_proj.weight",
    [FM_ROLE_K] = "model.layers.*.self_attn.k_proj.weight",
    [FM_ROLE_V] = "model.layers.*.self_attn.v_proj.weight",
    [FM_ROLE_Q_BIAS] = "model.layers.*.self_attn.q_proj.bias",
    [FM_ROLE_K_BIAS] = "model.layers.*.self_attn.k_proj.bias",
    [FM_ROLE_V_BIAS] = "model.layers.*.self_attn.v_proj.bias",
    [FM_ROLE_Q_NORM] = "model.layers.*.self_attn.q_norm.weight",
    [FM_ROLE_K_NORM] = "model.layers.*.self_attn.k_norm.weight",
    [FM_ROLE_O] = "model.layers.*.self_attn.o_proj.weight",
    [FM_ROLE_O_BIAS] = "model.layers.*.self_attn.o_proj.bias",
    [FM_ROLE_POST_NORM] = "model.layers.*.post_attention_layernorm.weight",
    [FM_ROLE_GATE] = "model.layers.*.mlp.gate_proj.weight",
    [FM_ROLE_UP] = "model.layers.*.mlp.up_proj.weight",
    [FM_ROLE_GATE_BIAS] = "model.layers.*.mlp.gate_proj.bias",
    [FM_ROLE_UP_BIAS] = "model.layers.*.mlp.up_proj.bias",
    [FM_ROLE_DOWN] = "model.layers.*.mlp.down_proj.weight",
    [FM_ROLE_DOWN_BIAS] = "model.layers.*.mlp.down_proj.bias",
    [FM_ROLE_FINAL_NORM] = "model.norm.weight",
    [FM_ROLE_HEAD] = "lm_head.weight",
};

static const fm_family llama = {
    .model_type = "llama", .architecture = "LlamaForCausalLM",
    .C = 4096, .F = 11008, .V = 32000, .L = 32, .H = 32, .K = 0, .D = 0, .max_positions = 2048,
    .norm_eps = 1e-6, .initializer_range = 0.02, .rope_theta = 10000, .bos_token = 1, .eos_token = 2,
    .qkv_bias = "attention_bias", .o_bias = "attention_bias", .mlp_bias = "mlp_bias",
    .tensor_names = llama_names,
};

static const fm_family mistral = {
    .model_type = "mistral", .architecture = "MistralForCausalLM",
    .C = 4096, .F = 14336, .V = 32000, .L = 32, .H = 32, .K = 8, .D = 0, .max_positions = 131072,
    .norm_eps = 1e-6, .initializer_range = 0.02, .rope_theta = 10000, .bos_token = 1, .eos_token = 2,
    .sliding_window = 4096, .window_rule = FM_WINDOW_EVERY_LAYER,
    .tensor_names = llama_names,
};

static const fm_family qwen2 = {
    .model_type = "qwen2", .architecture = "Qwen2ForCausalLM",
    .C = 4096, .F = 22016, .V = 151936, .L = 32, .H = 32, .K = 32, .D = 0, .max_positions = 32768,
    .norm_eps = 1e-6, .initializer_range = 0.02, .rope_theta = 10000, .bos_token = -1, .eos_token = -1,
    .sliding_window = 4096, .max_window_layers = 28, .window_rule = FM_WINDOW_LAYER_TYPES,
    .qkv_bias = FM_ALWAYS,
    .tensor_names = llama_names,
};

static const fm_family qwen3 = {
    .model_type = "qwen3", .architecture = "Qwen3ForCausalLM",
    .C = 4096, .F = 22016, .V = 151936, .L = 32, .H = 32, .K = 32, .D = 128, .max_positions = 32768,
    .norm_eps = 1e-6, .initializer_range = 0.02, .rope_theta = 10000, .bos_token = -1, .eos_token = -1,
    .sliding_window = 4096, .max_window_layers = 28, .window_rule = FM_WINDOW_LAYER_TYPES,
    .qkv_bias = "attention_bias", .o_bias = "attention_bias", .qk_norm = FM_ALWAYS,
    .tensor_names = llama_names,
};

/* X(row) */
#define FM_FAMILIES(X) X(llama) X(mistral) X(qwen2) X(qwen3)

static const fm_family *const families[] = {
#define FAMILY_ROW(row) &row,
    FM_FAMILIES(FAMILY_ROW)
#undef FAMILY_ROW
};

const fm_family *fm_family_find(const char *model_type)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (strcmp(model_type, families[i]->model_type) == 0) {
            return families[i];
        }
    }
    return NULL;
}

const char *fm_family_list(void)
{
#define FAMILY_TEXT(row) ", " #row
    return &(FM_FAMILIES(FAMILY_TEXT))[2];
#undef FAMILY_TEXT
}
