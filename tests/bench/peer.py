#!/usr/bin/env python3
"""The peer of `finemesh bench`: the same model, batch and dtypes trained by transformers and torch, on the same machine.

    peer.py BENCH.json CONFIG_DIR [--mode MODE] [--checkpointing] [--compile] [--steps N] [--warmup N] [--threads N]

BENCH.json is what finemesh bench wrote: rows, tokens, microbatch and device are taken from it, and so is the GEMM rate that the MFU is held
against. MODE: float32; autocast (fp32 weights and moments, bf16 arithmetic: what bf16 with fp32 masters is); bfloat16 (everything bf16). The
default is the one that BENCH.json has. Fused AdamW, SDPA (FlashAttention where torch chooses it). Prints one JSON object with
finemesh's names.
"""
import argparse
import json
import os
import resource
import statistics
import time


def seconds_since_exec():
    with open("/proc/self/stat") as file:
        started = int(file.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("config_dir")
    parser.add_argument("--mode", choices=["float32", "autocast", "bfloat16"])
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--warmup", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--local-batch-size", type=int)
    return parser.parse_args()


def mode_of(bench):
    if bench["dtype"] == "float32":
        return "float32"
    return "autocast" if bench["master_dtype"] == "float32" else "bfloat16"


def main():
    args = arguments()
    with open(args.bench) as file:
        bench = json.load(file)
    mode = args.mode or mode_of(bench)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = "cpu" if bench["device"] == "cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("peer.py: torch sees no GPU")
    torch.set_num_threads(args.threads or bench["threads"] * bench["ranks"])
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    config = AutoConfig.from_pretrained(args.config_dir)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if mode == "bfloat16" else torch.float32,
                                                 attn_implementation="sdpa")
    model.train()
    model.config.use_cache = False
    if args.checkpointing:
        model.gradient_checkpointing_enable()
    try:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    except (RuntimeError, TypeError):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    forward = torch.compile(model) if args.compile else model

    rows, length = bench["global_batch_size"], bench["seq_length"]
    micro = args.local_batch_size or bench["local_batch_size"] * bench["mesh"]["dp_replicate"] * bench["mesh"]["dp_shard"]
    ids = torch.randint(config.vocab_size, (rows, length), device=device)

    def synchronize():
        if device == "cuda":
            torch.cuda.synchronize()

    def step():
        total = 0.0
        for first in range(0, rows, micro):
            part = ids[first:first + micro]
            with torch.autocast(device, torch.bfloat16, enabled=mode == "autocast"):
                loss = forward(input_ids=part, labels=part).loss * (len(part) / rows)
            loss.backward()
            total = total + loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(total)

    synchronize()
    startup, times, loss = seconds_since_exec(), [], 0.0
    warmup, steps = bench["warmup"] if args.warmup is None else args.warmup, args.steps or bench["steps"]
    for i in range(warmup + steps):
        synchronize()
        begin = time.perf_counter()
        loss = step()
        synchronize()
        if i >= warmup:
            times.append(time.perf_counter() - begin)

    tokens, median = rows * length, statistics.median(times)
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({
        "program": f"torch {torch.__version__}" + (" compiled" if args.compile else ""), "device": device, "model_type": config.model_type,
        "parameters": sum(p.numel() for p in model.parameters()), "dtype": mode, "activation_checkpointing": "full" if args.checkpointing
        else "no", "seq_length": length, "global_batch_size": rows, "local_batch_size": micro, "warmup": warmup, "steps": steps,
        "loss": loss, "tokens_per_s": tokens / median, "tokens_per_s_least": tokens / max(times), "tokens_per_s_most": tokens / min(times),
        "step_ms": 1e3 * median, "flops_per_token": bench["flops_per_token"], "gemm_flops_per_s": bench["gemm_flops_per_s"],
        "mfu": tokens / median * bench["flops_per_token"] / bench["gemm_flops_per_s"], "startup_s": startup,
        "memory": {"peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else host, "host_bytes": host},
    }))


main()
