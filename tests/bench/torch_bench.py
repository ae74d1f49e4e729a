#!/usr/bin/env python3
"""The peer of tests/bench/bench.sh: a transformers model of the same size on the same rows, trained by torch.

    torch_bench.py CONFIG_DIR ROWS.jsonl float32|autocast|bfloat16 THREADS STEPS BATCH [compile]

Prints one line: tokens/s over the steps after the first, VmHWM in MiB, seconds from exec until the first step begins.
float32: everything fp32. autocast: fp32 weights and states, bf16 arithmetic. bfloat16: everything bf16.
"""
import json
import os
import sys
import time


def seconds_since_exec():
    with open("/proc/self/stat") as file:
        started = int(file.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    with open("/proc/uptime") as file:
        return float(file.read().split()[0]) - started


def peak_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def main():
    config_dir, rows_path, mode, threads, steps, batch = sys.argv[1:7]
    steps, batch = int(steps), int(batch)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config_dir), dtype=dtype)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    forward = torch.compile(model) if "compile" in sys.argv[7:] else model
    with open(rows_path) as file:
        rows = torch.tensor([json.loads(line)["input_ids"] for line in file])
    begun, times = None, []
    for step in range(steps):
        ids = rows[torch.arange(step * batch, (step + 1) * batch) % len(rows)]
        begun = begun or seconds_since_exec()
        start = time.time()
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        times.append(time.time() - start)
    tokens = batch * rows.shape[1]
    print(f"{tokens * (steps - 1) / sum(times[1:]):.1f} {peak_mib():.0f} {begun:.2f}")


main()
