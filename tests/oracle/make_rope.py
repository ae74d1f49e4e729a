#!/usr/bin/env python3
"""Makes tests/unit/data/rope.json: inverse frequencies and scales as transformers computes them, for tests/unit/test_config.c.

Usage: make_rope.py > tests/unit/data/rope.json
"""
import json
import sys

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LENGTHS = (1, 37, 64, 65, 100, 700, 5000)

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "linear", "factor": 1.7},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 3.3},
    dict(LLAMA3, original_max_position_embeddings=32),
    dict(LLAMA3, original_max_position_embeddings=8192),
    {"rope_type": "llama3", "factor": 32, "low_freq_factor": 1.5, "high_freq_factor": 3, "original_max_position_embeddings": 50},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "truncate": False},
    {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 2048, "mscale": 0.707, "mscale_all_dim": 1.0},
    {"rope_type": "yarn", "factor": 2.5, "attention_factor": 1.25, "beta_fast": 20.0, "beta_slow": 2.0},
    {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 32},
]


def make_config(scaling, theta, head_dim, partial):
    """A config, with its dictionary as a file of transformers 5 would have it."""
    parameters = dict(scaling, rope_theta=theta)
    source = {"model_type": "llama", "hidden_size": 4 * head_dim, "num_attention_heads": 4, "head_dim": head_dim,
              "max_position_embeddings": 64, "rope_parameters": parameters}
    config = LlamaConfig(**{**source, "rope_parameters": dict(parameters)})
    if partial != 1.0:
        config.rope_parameters["partial_rotary_factor"] = partial
    return config, source


def frequencies(config, length):
    """After one forward pass over `length` tokens of a fresh module: `dynamic` remembers what it saw."""
    if "partial_rotary_factor" in config.rope_parameters:
        compute = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]]
        inv_freq, scale = compute(config, torch.device("cpu"), seq_len=torch.tensor(length))
    else:
        module = LlamaRotaryEmbedding(config)
        module(torch.zeros(1), torch.arange(length)[None])
        inv_freq, scale = module.inv_freq, module.attention_scaling
    return inv_freq.double().tolist(), float(scale)


def main():
    cases = []
    for scaling in SCALINGS:
        for theta, head_dim, partial in ((10000.0, 8, 1.0), (500000.0, 64, 1.0), (1000000.0, 32, 0.5)):
            if partial != 1.0 and scaling["rope_type"] == "default":
                continue
            config, source = make_config(scaling, theta, head_dim, partial)
            for length in LENGTHS if scaling["rope_type"] == "dynamic" else LENGTHS[1:2]:
                inv_freq, scale = frequencies(config, length)
                cases.append({"config": source, "rotary_dim": int(head_dim * partial), "T": length, "scale": scale, "inv_freq": inv_freq})
    sys.stdout.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
