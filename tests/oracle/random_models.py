#!/usr/bin/env python3
"""Writes one tiny random HF model a row, with odd sizes and HF's initialiser:  random_models.py DIRECTORY [NAME...]

Prints the names, one a line. Every family and every rope type that finemesh knows is among them, and what families differ by:
biases, q/k norms, windows, tied and untied ends, head widths that are not C / H, a padding row.
"""
import os
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {"vocab_size": 131, "hidden_size": 42, "intermediate_size": 74, "num_hidden_layers": 2, "num_attention_heads": 6,
         "num_key_value_heads": 3, "head_dim": 12, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
         "pad_token_id": None}


def rope(kind, **more):
    return {"rope_type": kind, "rope_theta": 10000.0, **more}


MODELS = {
    "llama": {"model_type": "llama"},
    "llama-tied-pad": {"model_type": "llama", "tie_word_embeddings": True, "pad_token_id": 2},
    "llama-bias": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    "llama-linear": {"model_type": "llama", "rope_parameters": rope("linear", factor=4.0)},
    "llama-dynamic": {"model_type": "llama", "max_position_embeddings": 40, "rope_parameters": rope("dynamic", factor=2.0)},
    "llama-llama3": {"model_type": "llama", "rope_parameters": rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)},
    "llama-yarn": {"model_type": "llama", "rope_parameters": rope("yarn", factor=4.0, original_max_position_embeddings=32)},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "mistral-window": {"model_type": "mistral", "sliding_window": 7},
}


def main():
    directory, names = sys.argv[1], sys.argv[2:] or list(MODELS)
    for name in names:
        settings = {**SIZES, **MODELS[name]}
        if settings["model_type"] == "qwen2":   # its head width is C / H
            settings.pop("head_dim")
            settings["hidden_size"] = 48
        torch.manual_seed(len(name))
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):     # the initialiser's zeros would hide a bias that is not added
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(os.path.join(directory, name))
        print(name)


main()
