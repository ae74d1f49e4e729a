"""What the oracle scripts share: runs of finemesh and of transformers on the same rows, and the reading of shard sets."""
import contextlib
import glob
import json
import os
import subprocess

import h5py
import numpy
import torch
from transformers import AutoModelForCausalLM


def read_rows(path):
    with open(path) as file:
        return [json.loads(line) for line in file if line.strip()]


def random_rows(vocabulary, n_rows, length, seed):
    """Rows of ids of several lengths, some labels ignored."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(n_rows):
        n = max(2, length - 5 * i)
        ids = torch.randint(vocabulary, (n,), generator=generator).tolist()
        ignored = (torch.rand(n, generator=generator) < 0.2).tolist()
        rows.append({"input_ids": ids, "labels": [-100 if skip else t for t, skip in zip(ids, ignored)]})
    return rows


def run_finemesh(command, model, rows, directory, overrides):
    """One job on `rows` in file order, one batch a step of all rows; the lines of metrics.jsonl and the gradients of step 1.

    command: how to start finemesh, as a list (["mpiexec", "-n", "2", "build/finemesh"]); directory: an empty one.
    """
    data, job, output, gradients = (os.path.join(directory, name) for name in ("rows.jsonl", "job.ini", "out", "gradients"))
    with open(data, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    settings = {"job.output_dir": output, "model.path": os.path.abspath(model), "model.dtype": "float32",
                "data.train": data, "data.format": "tokens", "data.shuffle": "no",
                "data.seq_length": max(len(row["input_ids"]) for row in rows), "batch.global_batch_size": len(rows),
                "batch.local_batch_size": 1, "train.steps": 1, "optimizer.clip_grad_norm": 0, "checkpoint.export": "no",
                "log.gradients": gradients, **overrides}
    with open(job, "w") as file:
        file.writelines("[{}]\n{} = {}\n".format(*key.split("."), value) for key, value in settings.items())
    done = subprocess.run([*command, "run", job], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} run {job}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return read_rows(os.path.join(output, "metrics.jsonl")), read_shards(gradients)


def read_shards(directory):
    """Tensors of a shard set by name, put together from the attributes of the slices; float64."""
    tensors = {}
    files = glob.glob(os.path.join(directory, "**", "rank-*.h5"), recursive=True)
    if not files:
        raise SystemExit(f"{directory}: no rank-*.h5")
    for path in files:
        with h5py.File(path, "r") as file:
            file.visititems(lambda name, item: place_slices(tensors, name, item) if isinstance(item, h5py.Dataset) else None)
    for name, tensor in tensors.items():
        if numpy.isnan(tensor).any():
            raise SystemExit(f"{directory}: parts of {name} are in no file, or NaN")
    return tensors


def place_slices(tensors, name, dataset):
    """Puts what one rank has of a tensor (GROUP/NAME or NAME) where it belongs in the whole."""
    whole = tensors.setdefault(name.rsplit("/", 1)[-1], numpy.full(tuple(dataset.attrs["global_shape"]), numpy.nan))
    values = dataset[()].astype(numpy.float64)
    starts, counts = (numpy.reshape(dataset.attrs[key], (-1, values.ndim)) for key in ("slice_start", "slice_count"))
    axis = next(a for a in range(values.ndim) if counts[:, a].sum() == values.shape[a])
    at = 0
    for start, count in zip(starts, counts):
        local = [slice(None)] * values.ndim
        local[axis] = slice(at, at + count[axis])
        at += count[axis]
        whole[tuple(slice(s, s + c) for s, c in zip(start, count))] = values[tuple(local)]


@contextlib.contextmanager
def true_double():
    """transformers casts to float32 inside norms, rope and softmax whatever the model's dtype; here it casts to float64."""
    single, to_single = torch.float32, torch.Tensor.float
    torch.float32, torch.Tensor.float = torch.float64, torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.Tensor.float = single, to_single


def load_torch(model, dtype):
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="eager").eval()


def torch_loss(net, rows, seq_length=None):
    """Mean cross entropy over the label tokens of all rows. Row by row, so that nothing is padded; backward done."""
    cut = [(row["input_ids"][:seq_length], row.get("labels", row["input_ids"])[:seq_length]) for row in rows]
    n_labels = sum(label != -100 for _, labels in cut for label in labels[1:])
    double = next(net.parameters()).dtype == torch.float64
    total = 0.0
    for ids, labels in cut:
        if len(ids) < 2:
            continue
        for module in net.modules():
            if hasattr(module, "max_seq_len_cached"):   # `dynamic` rope remembers the longest row that it has seen
                module.max_seq_len_cached = 0
        with true_double() if double else contextlib.nullcontext():
            logits = net(input_ids=torch.tensor([ids])).logits[0, :-1]
            logits = logits.double() if double else logits.float()
            part = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=-100, reduction="sum")
            (part / max(n_labels, 1)).backward()
        total += part.item()
    return total / max(n_labels, 1)


def torch_gradients(net):
    """By name, a tied tensor once, float64."""
    return {name: p.grad.double().numpy() for name, p in net.named_parameters() if p.grad is not None}
