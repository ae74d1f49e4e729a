#!/bin/sh
# HDF5's own tools see the model: h5py and h5dump read bf16 and f16 as numbers, and model.h5 is the whole of every tensor.
# Needs FM_ORACLE_PYTHON, a Python that has h5py, safetensors and torch; h5dump where it is installed.
. "$srcdir/tests/lib.sh"
[ -n "$FM_ORACLE_PYTHON" ] || tap_skip_all "FM_ORACLE_PYTHON names no Python with h5py, safetensors and torch"
"$FM_ORACLE_PYTHON" -c 'import h5py, safetensors, torch' 2>/dev/null || tap_skip_all "$FM_ORACLE_PYTHON lacks h5py, safetensors or torch"
[ -x "$build_dir/tests/unit/test_convert" ] || tap_skip_all "test_convert, which writes the shards, was not built (no cmocka)"

tap_check "a shard set of 18 ranks is written" "$build_dir/tests/unit/test_convert" "$scratch"
cat >"$scratch/read.py" <<'END'
import glob, json, os, sys, zlib
import h5py, numpy, torch
from safetensors.torch import load_file

folder = sys.argv[1]
truth = {}
for path in glob.glob(folder + "/hf/*.safetensors"):
    truth.update(load_file(path))

def same(name, found, expected):
    # made-up bytes hold NaNs of every kind, whose bits a conversion may change
    assert found.shape == expected.shape, (name, found.shape, expected.shape)
    assert numpy.array_equal(numpy.float32(found), expected, equal_nan=True), name

os.chdir("/")                                  # relative names of the virtual sources are the file's, not ours
model = h5py.File(folder + "/shards/model.h5")
assert sorted(model) == sorted(truth), (sorted(model), sorted(truth))
for name, tensor in truth.items():
    same(name, model[name][...], tensor.to(torch.float32).numpy())
covered = dict.fromkeys(truth, 0)
for path in glob.glob(folder + "/shards/rank-*.h5"):
    rank = h5py.File(path)
    assert rank.attrs["format_version"] == 1 and list(rank.attrs["mesh_shape"]) == [1, 1, 2, 1, 9]
    for name, data in rank.items():
        pieces, at = [], 0
        for start, count in zip(data.attrs["slice_start"], data.attrs["slice_count"]):
            pieces.append(truth[name][tuple(slice(s, s + c) for s, c in zip(start, count))])
            covered[name] += pieces[-1].numel()
        axis = next(a for a in range(data.ndim) if sum(p.shape[a] for p in pieces) == data.shape[a])
        expected = torch.cat(pieces, axis).contiguous()
        assert list(data.attrs["global_shape"]) == list(truth[name].shape)
        assert zlib.crc32(expected.view(torch.uint8).numpy().tobytes()) == data.attrs["crc32"], (path, name)
        same(name, data[...], expected.to(torch.float32).numpy())
for name, count in covered.items():
    assert count == truth[name].numel(), (name, count)
for entry in json.load(open(folder + "/shards/manifest.json"))["files"]:
    data = open(folder + "/shards/" + entry["name"], "rb").read()
    assert len(data) == entry["size"] and zlib.crc32(data) == entry["crc32"], entry
END
tap_check "h5py reads the safetensors' numbers, slice by slice and through model.h5; all CRCs are right" \
    "$FM_ORACLE_PYTHON" "$scratch/read.py" "$scratch"

cat >"$scratch/dump.py" <<'END'
import glob, subprocess, sys
import numpy, torch
from safetensors.torch import load_file

truth = {}
for path in glob.glob(sys.argv[1] + "/hf/*.safetensors"):
    truth.update(load_file(path))
for name in "lm_head.weight", "model.layers.1.self_attn.q_proj.bias":
    text = subprocess.run(["h5dump", "-y", "-w", "1", "-m", "%.9g", "-d", "/" + name, sys.argv[1] + "/shards/model.h5"],
                          capture_output=True, text=True, check=True).stdout
    body = text[text.index("DATA {") + 6:text.index("}", text.index("DATA {"))]
    found = numpy.array([float(word) for word in body.replace(",", " ").split()], dtype=numpy.float32)
    assert numpy.array_equal(found, truth[name].to(torch.float32).numpy().ravel(), equal_nan=True), name
END
if command -v h5dump >/dev/null; then
    tap_check "h5dump prints them" "$FM_ORACLE_PYTHON" "$scratch/dump.py" "$scratch"
else
    tap_skip "h5dump prints them" "h5dump (hdf5-tools) is not installed"
fi
tap_done
