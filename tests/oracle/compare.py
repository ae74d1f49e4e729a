#!/usr/bin/env python3
"""Compares loss and every gradient of finemesh with transformers, on anybody's model.

    python tests/oracle/compare.py MODEL [ROWS.jsonl] [--ranks N] [--tp N] [--dtype bfloat16] [--finemesh build/finemesh]

ROWS.jsonl holds rows {"input_ids": [...], "labels": [...]?}; without it, random ids. float32 is measured against float64 and
must lie within 1e-5 (relative L2, each tensor; the loss 1e-6) or within twice torch float32's own distance where that is more.
bfloat16 is measured against float32, over several batches, next to torch's bfloat16: at most 1.1 x its distance for all
gradients together and 1.5 x for any tensor. Exits 0 where everything holds, else 1.
"""
import argparse
import json
import os
import tempfile

import numpy
import torch

import oracle

# What one dtype is compared with, and what is allowed: distance <= max(floor, factor * torch's own distance).
RULES = {
    "float32": {"dtype": torch.float32, "truth": torch.float64, "batches": 1,
                "loss": (1e-6, 2), "tensor": (1e-5, 2), "all": (1e-5, 2)},
    "bfloat16": {"dtype": torch.bfloat16, "truth": torch.float32, "batches": 8,
                 "loss": (2e-3, 2), "tensor": (0, 1.5), "all": (0, 1.1)},
}


class Distances:
    """Sums of squares by name over all batches."""

    def __init__(self):
        self.truth, self.ours, self.theirs = {}, {}, {}

    def add(self, name, truth, ours, theirs):
        for sums, difference in ((self.truth, truth), (self.ours, ours - truth), (self.theirs, theirs - truth)):
            sums[name] = sums.get(name, 0.0) + float(numpy.sum(numpy.square(difference)))

    def relative(self, sums, name=None):
        over = [name] if name else list(self.truth)
        distance, scale = sum(sums[n] for n in over), sum(self.truth[n] for n in over)
        return (distance / scale) ** 0.5 if scale > 0 else distance ** 0.5


def gradients_of(net, rows, seq_length):
    loss = oracle.torch_loss(net, rows, seq_length)
    gradients = oracle.torch_gradients(net)
    net.zero_grad(set_to_none=True)
    return loss, gradients


def measure(options, rule, batches):
    """Distances of all gradients, and (truth, ours, theirs) of every batch's loss."""
    distances, losses = Distances(), []
    truth_net = oracle.load_torch(options.model, rule["truth"])
    their_net = oracle.load_torch(options.model, rule["dtype"])
    command = ([options.mpiexec, "-n", str(options.ranks)] if options.ranks > 1 else []) + [os.path.abspath(options.finemesh)]
    overrides = {"model.dtype": options.dtype, "distributed.tp_size": options.tp, **dict(s.split("=", 1) for s in options.set)}
    for rows in batches:
        with tempfile.TemporaryDirectory() as directory:
            metrics, ours = oracle.run_finemesh(command, options.model, rows, directory, overrides)
        true_loss, truth = gradients_of(truth_net, rows, options.seq_length)
        their_loss, theirs = gradients_of(their_net, rows, options.seq_length)
        if set(ours) != set(truth):
            raise SystemExit(f"gradients without a partner: {sorted(set(ours) ^ set(truth))}")
        for name in truth:
            distances.add(name, truth[name], ours[name], theirs[name])
        losses.append((true_loss, next(m["loss"] for m in metrics if "loss" in m), their_loss))
    return distances, losses


def report(rule, distances, losses, n_shown):
    """Prints the table; True where everything lies within its bounds."""
    title = "# relative L2 distance from " + str(rule["truth"]).split(".")[1]
    print(f"{title:52} {'finemesh':>10} {'torch':>10} {'allowed':>10}")
    failed = 0

    def line(name, ours, theirs, bound, shown=True):
        nonlocal failed
        allowed = max(bound[0], bound[1] * theirs)
        good = ours <= allowed
        failed += not good
        if shown or not good:
            print(f"{name:52} {ours:10.2e} {theirs:10.2e} {allowed:10.2e}{'' if good else '  <-- too far'}")

    true_loss, our_loss, their_loss = max(losses, key=lambda l: abs(l[1] / l[0] - 1))
    line("loss", abs(our_loss / true_loss - 1), abs(their_loss / true_loss - 1), rule["loss"])
    far, torch_far = distances.relative(distances.ours), distances.relative(distances.theirs)
    line(f"all {len(distances.truth)} gradients", far, torch_far, rule["all"])
    order = sorted(distances.truth, key=lambda name: -distances.relative(distances.ours, name))
    for i, name in enumerate(order):
        far, torch_far = distances.relative(distances.ours, name), distances.relative(distances.theirs, name)
        line(name, far, torch_far, rule["tensor"], i < n_shown)
    if n_shown < len(order):
        print(f"# and {len(order) - n_shown} gradients that are nearer (--all shows them)")
    verdict = "all within bounds" if not failed else f"{failed} too far"
    print(f"# loss {our_loss:.9g}, transformers {their_loss:.9g}, without rounding {true_loss:.9g}; {verdict}")
    return not failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("rows", nargs="?")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--dtype", choices=RULES, default="float32")
    parser.add_argument("--finemesh", default="build/finemesh")
    parser.add_argument("--mpiexec", default=os.environ.get("MPIEXEC", "mpiexec"))
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="more of the job")
    parser.add_argument("--all", action="store_true", help="show every gradient, not the ten farthest")
    options = parser.parse_args()
    rule = RULES[options.dtype]
    options.seq_length = next((int(s.split("=")[1]) for s in options.set if s.startswith("data.seq_length=")), None)
    if options.rows:
        rows = oracle.read_rows(options.rows)
        n_batches = rule["batches"] if len(rows) >= rule["batches"] * options.ranks else 1
        size = len(rows) // (n_batches * options.ranks) * options.ranks
        if size == 0:
            raise SystemExit(f"{options.rows}: {len(rows)} rows are fewer than the {options.ranks} ranks")
        batches = [rows[i * size:(i + 1) * size] for i in range(n_batches)]
    else:
        with open(os.path.join(options.model, "config.json")) as file:
            vocabulary = json.load(file)["vocab_size"]
        batches = [oracle.random_rows(vocabulary, 4 * options.ranks, 64, seed) for seed in range(rule["batches"])]
    distances, losses = measure(options, rule, batches)
    raise SystemExit(0 if report(rule, distances, losses, len(distances.truth) if options.all else 10) else 1)


if __name__ == "__main__":
    main()
