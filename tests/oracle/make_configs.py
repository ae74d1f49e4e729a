#!/usr/bin/env python3
"""Makes tests/unit/data/configs.json: config.json objects of both generations, what transformers makes of them, and the names and
shapes of their models' tensors, for tests/unit/test_config.c.

Usage: make_configs.py > tests/unit/data/configs.json
"""
import json
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {"hidden_size": 72, "intermediate_size": 83, "vocab_size": 131, "num_hidden_layers": 3, "num_attention_heads": 9,
         "num_key_value_heads": 3, "max_position_embeddings": 64}
SLIDING = {"use_sliding_window": True, "sliding_window": 7}

CASES = {
    "llama of transformers 5": {"model_type": "llama", **SIZES, "head_dim": 10, "dtype": "bfloat16", "rms_norm_eps": 1e-05,
                                "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "llama of transformers 4": {"model_type": "llama", **SIZES, "head_dim": 10, "torch_dtype": "float16", "tie_word_embeddings": True,
                                "rope_theta": 500000.0, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                                         "original_max_position_embeddings": 32, "rope_type": "llama3"}},
    "llama of old, type instead of rope_type": {"model_type": "llama", **SIZES, "rope_scaling":
                                                {"type": "linear", "factor": 2.0}, "attention_bias": True, "mlp_bias": True},
    "llama with nulls": {"model_type": "llama", **SIZES, "num_key_value_heads": None, "head_dim": None,
                         "rope_scaling": None, "pad_token_id": -1, "eos_token_id": [5, 6], "bos_token_id": None},
    "rope_theta outside rope_parameters": {"model_type": "llama", **SIZES, "head_dim": 10, "rope_theta": 1234.0,
                                           "rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
    "original length outside rope_parameters": {"model_type": "llama", **SIZES, "head_dim": 10, "original_max_position_embeddings": 24,
                                                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
                                                                    "original_max_position_embeddings": 32}},
    "rope_scaling beside rope_parameters": {"model_type": "llama", **SIZES, "head_dim": 10,
                                            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10.0},
                                            "rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 20.0}},
    "both dtypes": {"model_type": "llama", **SIZES, "head_dim": 10, "torch_dtype": "float16", "dtype": "bfloat16"},
    "mistral of transformers 5": {"model_type": "mistral", **SIZES, "head_dim": 10, "sliding_window": 7, "dtype": "bfloat16",
                                  "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "mistral of transformers 4": {"model_type": "mistral", **SIZES, "sliding_window": None, "rope_theta": 1000000.0,
                                  "torch_dtype": "bfloat16"},
    "mistral, keys absent": {"model_type": "mistral", **{k: v for k, v in SIZES.items() if k != "num_key_value_heads"},
                             "hidden_size": 64, "num_attention_heads": 16},
    "qwen2 of transformers 5": {"model_type": "qwen2", **SIZES, **SLIDING, "layer_types":
                                ["full_attention", "sliding_attention", "full_attention"], "dtype": "bfloat16",
                                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "qwen2 of transformers 4": {"model_type": "qwen2", **SIZES, **SLIDING, "max_window_layers": 2, "rope_theta": 1000000.0,
                                "torch_dtype": "bfloat16", "tie_word_embeddings": True},
    "qwen2, window unused": {"model_type": "qwen2", **SIZES, "sliding_window": 7, "max_window_layers": 1, "use_sliding_window": False},
    "qwen2, default of max_window_layers": {"model_type": "qwen2", **SIZES, **SLIDING, "num_hidden_layers": 30},
    "qwen2 with its own head_dim": {"model_type": "qwen2", **SIZES, "head_dim": 10},
    "qwen3 of transformers 5": {"model_type": "qwen3", **SIZES, **SLIDING, "max_window_layers": 1, "head_dim": 10, "dtype": "bfloat16",
                                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "tie_word_embeddings": True},
    "qwen3 of transformers 4": {"model_type": "qwen3", **SIZES, "rope_scaling": None, "rope_theta": 1000000, "attention_bias": True,
                                "torch_dtype": "bfloat16", "sliding_window": None},
    "llama, all keys absent": {"model_type": "llama"},
    "mistral, all keys absent": {"model_type": "mistral"},
    "qwen2, all keys absent": {"model_type": "qwen2"},
    "qwen3, all keys absent": {"model_type": "qwen3"},
}


def first(token):
    token = token[0] if isinstance(token, list) else token
    return -1 if token is None else token


def expect(source):
    """What finemesh's fm_config must hold, by transformers' config and the model that it makes (no memory is allocated)."""
    config = AutoConfig.for_model(**json.loads(json.dumps(source)))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = config.tie_word_embeddings
    tensors = {name: list(value.shape) for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    attention = [layer.self_attn for layer in model.model.layers]
    windows = [getattr(a, "sliding_window", config.sliding_window if config.model_type == "mistral" else None) for a in attention]
    pad = model.model.padding_idx
    return {
        "C": config.hidden_size, "F": config.intermediate_size, "V": config.vocab_size, "L": config.num_hidden_layers,
        "H": config.num_attention_heads, "K": config.num_key_value_heads, "D": attention[0].head_dim,
        "max_positions": config.max_position_embeddings, "norm_eps": config.rms_norm_eps, "tied": tied,
        "qkv_bias": attention[0].q_proj.bias is not None, "o_bias": attention[0].o_proj.bias is not None,
        "mlp_bias": model.model.layers[0].mlp.up_proj.bias is not None, "qk_norm": hasattr(attention[0], "q_norm"),
        "pad": -1 if pad is None else pad % config.vocab_size, "bos": first(config.bos_token_id), "eos": first(config.eos_token_id),
        "initializer_range": config.initializer_range, "dtype": str(config.dtype or "float32").replace("torch.", ""),
        "rope_type": config.rope_parameters["rope_type"], "rope_theta": config.rope_parameters["rope_theta"],
        "rope_factor": config.rope_parameters.get("factor") or 0,
        "original_max_positions": config.rope_parameters.get("original_max_position_embeddings", -1),
        "windows": [w or 0 for w in windows], "parameters": sum(p.numel() for p in model.parameters()), "tensors": tensors,
    }


def main():
    cases = [{"name": name, "config": source, "expected": expect(source)} for name, source in CASES.items()]
    sys.stdout.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
