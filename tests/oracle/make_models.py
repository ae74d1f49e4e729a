#!/usr/bin/env python3
"""Makes tests/oracle/data: small random models of every family with odd sizes, and what PyTorch and transformers compute with them.

Usage: make_models.py DIR [MODEL...]        README.md beside this file says what each file of DIR holds.

fp32 is transformers as it is. fp64 is the same modules in double precision, but for what transformers always does in fp32: norms are
computed in fp64 here, the loss is our own sum, and only the rotation's cos and sin keep their fp32 values.
"""
import json
import math
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

V = 131
ODD = {"vocab_size": V, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 64}
LARGE = {**ODD, "hidden_size": 45, "head_dim": 8, "intermediate_size": 83, "num_hidden_layers": 3}
MEDIUM = {**ODD, "hidden_size": 36, "head_dim": 8, "intermediate_size": 41, "num_hidden_layers": 2}
SMALL = {"vocab_size": 67, "hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10,
         "intermediate_size": 29, "num_hidden_layers": 2, "max_position_embeddings": 64}
DEEP = {**ODD, "hidden_size": 22, "head_dim": 6, "intermediate_size": 23, "num_hidden_layers": 9}   # for up to 8 stages
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
SHARP = {"matrices": 0.2}              # with transformers' initialiser attention is so flat that the rotation moves no loss

# Name -> config, and how the weights differ from transformers' initialiser: "vectors" are biases and norms, else 0 and 1.
MODELS = {
    "llama": ({"model_type": "llama", **LARGE}, {}),
    "llama_tied": ({"model_type": "llama", **MEDIUM, "tie_word_embeddings": True, "pad_token_id": 5}, {}),
    "llama_pad": ({"model_type": "llama", **SMALL, "pad_token_id": -1}, {}),
    "llama_large_weights": ({"model_type": "llama", **MEDIUM}, {"matrices": 0.25, "vectors": 0.5}),
    "llama_bias": ({"model_type": "llama", **SMALL, "attention_bias": True, "mlp_bias": True}, {"vectors": 0.1}),
    "llama_linear": ({"model_type": "llama", **SMALL, "rope_parameters":
                      {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}}, SHARP),
    "llama_dynamic": ({"model_type": "llama", **SMALL, "max_position_embeddings": 16, "rope_parameters":
                       {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}, SHARP),
    "llama_llama3": ({"model_type": "llama", **SMALL, "rope_parameters": LLAMA3}, SHARP),
    "llama_yarn": ({"model_type": "llama", **SMALL, "rope_parameters":
                    {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}}, SHARP),
    "mistral": ({"model_type": "mistral", **MEDIUM, "sliding_window": 7}, {}),
    "qwen2": ({"model_type": "qwen2", **{k: v for k, v in MEDIUM.items() if k != "head_dim"}, "tie_word_embeddings": True},
              {"vectors": 0.1}),
    "qwen2_window": ({"model_type": "qwen2", **SMALL, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
                     {"vectors": 0.1}),
    "qwen3": ({"model_type": "qwen3", **MEDIUM}, {"vectors": 0.2}),
    "qwen3_deep": ({"model_type": "qwen3", **DEEP, "tie_word_embeddings": True, "pad_token_id": 3}, {"vectors": 0.2}),
}
CURVES = ("llama", "qwen3")
CURVE = {"steps": 100, "global_batch_size": 4, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-6, "weight_decay": 0.01,
         "clip_grad_norm": 1.0}
LENGTHS = (37, 20, 9, 13, 1, 30, 5, 24)


class Random:
    """A linear congruential generator, so that rows.jsonl depends on no library."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 1103515245 + 12345) % 2**31
        return (self.state >> 12) % n


def make_ids(random, length, vocabulary):
    """A chain that a model can learn something of: the next token is one of four."""
    ids = [random.below(vocabulary)]
    while len(ids) < length:
        ids.append((3 * ids[-1] + 7 + random.below(4)) % vocabulary)
    return ids


def make_rows(config, dynamic):
    """Eight rows: one without labels of its own, one of ignored labels only, one of one token. For dynamic rope all are of one length,
    because it looks at the longest row of a microbatch."""
    random = Random(7)
    rows = []
    for i, length in enumerate(LENGTHS):
        ids = make_ids(random, LENGTHS[0] if dynamic else length, config.vocab_size)
        if config.pad_token_id is not None and len(ids) > 8:
            ids[4] = config.pad_token_id % config.vocab_size
        row = {"input_ids": ids}
        if i == 2:
            row["labels"] = [-100] * len(ids)
        elif i != 3:
            row["labels"] = [-100 if random.below(4) == 0 else token for token in ids]
        rows.append(row)
    return rows


def make_curve_rows():
    random = Random(11)
    rows = []
    for i in range(200):
        ids = make_ids(random, 4 + random.below(14), V)
        rows.append({"input_ids": ids} if i % 3 else {"input_ids": ids, "labels": [-100, -100] + ids[2:]})
    return rows


def labels_of(row):
    return row.get("labels", row["input_ids"])


def count_labels(rows):
    return sum(label != -100 for row in rows for label in labels_of(row)[1:])


def write_rows(path, rows):
    with open(path, "w") as file:
        file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


def make_model(source, weights):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**json.loads(json.dumps(source))), attn_implementation="sdpa")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1 and "vectors" in weights:
                value.add_(torch.randn_like(value) * weights["vectors"])
            elif value.ndim == 2 and "matrices" in weights:
                value.copy_(torch.randn_like(value) * weights["matrices"])
    return model


def norm_forward(norm, x):
    return norm.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon))


def to_double(model):
    """The model in fp64, its norms too. The rotation's frequencies are fp32 numbers and stay so."""
    frequencies = model.model.rotary_emb.inv_freq.clone()
    model = model.double()
    model.model.rotary_emb.inv_freq = frequencies
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = norm_forward.__get__(module)
    return model


def row_loss(model, row, n):
    """Sum of the cross entropy over a row's labels, divided by n: transformers' own in fp32."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([labels_of(row)])
    if model.dtype == torch.float32:
        output = model(ids, labels=labels, num_items_in_batch=n)
        return output.loss, output.logits
    logits = model(ids).logits
    return torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum") / n, logits


def run_batch(model, rows):
    """Loss of a global batch and its gradients (in .grad); the logits of the first row."""
    n = count_labels(rows)
    model.zero_grad()
    total, first = 0.0, None
    for row in rows:
        loss, logits = row_loss(model, row, n)
        loss.backward()
        total += loss.item()
        first = logits[0].detach() if first is None else first
    return total, first


def gradients(model):
    return {name: value.grad.detach().clone() for name, value in model.named_parameters()}


def load(directory, double):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")
    return to_double(model) if double else model


def make_reference(directory, rows):
    loss64, logits64 = run_batch(model64 := load(directory, True), rows)
    loss32, _ = run_batch(model32 := load(directory, False), rows)
    exact, torchs = gradients(model64), gradients(model32)
    distance = {name: ((torchs[name].double() - g).norm() / g.norm()).item() for name, g in exact.items()}
    save_file({"logits": logits64.float(), **{name: g.float() for name, g in exact.items()}}, f"{directory}/reference.safetensors")
    reference = {"label_tokens": count_labels(rows), "tokens": sum(len(row["input_ids"]) for row in rows), "loss_fp64": loss64,
                 "loss_fp32": loss32, "grad_norm_fp64": math.sqrt(sum(g.square().sum().item() for g in exact.values())),
                 "fp32_gradient_distance": distance}
    with open(f"{directory}/reference.json", "w") as file:
        json.dump(reference, file, indent=1)
        file.write("\n")
    print(f"{directory}: loss {loss64:.9f}, fp32 {loss32 / loss64 - 1:+.1e}, worst gradient {max(distance.values()):.1e}")


def run_curve(model, rows):
    """Losses of CURVE: batches in file order, epochs one after another."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=CURVE["lr"], betas=(CURVE["beta1"], CURVE["beta2"]), eps=CURVE["eps"],
                                  weight_decay=CURVE["weight_decay"], foreach=False)
    size = CURVE["global_batch_size"]
    losses = []
    for step in range(CURVE["steps"]):
        at = step % (len(rows) // size) * size
        loss, _ = run_batch(model, rows[at:at + size])
        torch.nn.utils.clip_grad_norm_(model.parameters(), CURVE["clip_grad_norm"])
        optimizer.step()
        losses.append(loss)
    return losses


def make_curve(directory, rows):
    curve = {**CURVE, "loss_fp64": run_curve(load(directory, True), rows), "loss_fp32": run_curve(load(directory, False), rows)}
    with open(f"{directory}/loss_curve.json", "w") as file:
        json.dump(curve, file, indent=1)
        file.write("\n")
    apart = max(abs(a / b - 1) for a, b in zip(curve["loss_fp32"], curve["loss_fp64"]))
    print(f"{directory}: loss {curve['loss_fp64'][0]:.4f} -> {curve['loss_fp64'][-1]:.4f}, fp32 apart by {apart:.1e}")


def main(out, only):
    torch.set_num_threads(1)
    os.makedirs(out, exist_ok=True)
    write_rows(f"{out}/curve.jsonl", make_curve_rows())
    for i, (name, (source, weights)) in enumerate(MODELS.items()):
        if only and name not in only:
            continue
        directory = f"{out}/{name}"
        torch.manual_seed(1000 + i)
        model = make_model(source, weights)
        model.save_pretrained(directory)
        os.remove(f"{directory}/generation_config.json")
        rows = make_rows(model.config, model.config.rope_parameters["rope_type"] == "dynamic")
        write_rows(f"{directory}/rows.jsonl", rows)
        make_reference(directory, rows)
        if name in CURVES:
            make_curve(directory, make_curve_rows())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
