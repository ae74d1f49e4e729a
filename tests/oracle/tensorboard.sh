#!/bin/sh
# TensorBoard reads our event files, a resumed run's too. Needs FM_ORACLE_PYTHON, a Python that has tensorboard.
. "$srcdir/tests/lib.sh"
[ -n "$FM_ORACLE_PYTHON" ] || tap_skip_all "FM_ORACLE_PYTHON names no Python with tensorboard"
"$FM_ORACLE_PYTHON" -c 'import tensorboard' 2>/dev/null || tap_skip_all "$FM_ORACLE_PYTHON has no tensorboard"

[ -x "$build_dir/tests/unit/test_metrics" ] || tap_skip_all "test_metrics, which writes the files, was not built (no cmocka)"

mkdir "$scratch/run"
tap_check "a run and its resumption are written" "$build_dir/tests/unit/test_metrics" "$scratch/run"
cat >"$scratch/read.py" <<'END'
import json, math, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1])
events.Reload()
lines = [json.loads(line) for line in open(sys.argv[1] + "/metrics.jsonl")]
for tag in "loss", "grad_norm", "lr", "tokens_per_s", "val_loss":
    seen = [(e.step, e.value) for e in events.Scalars(tag)]
    expected = [(line["step"], line[tag]) for line in lines if tag in line]
    print(tag, seen)
    assert len(seen) == len(expected) > 0, (tag, seen, expected)
    for (step, value), (expected_step, expected_value) in zip(seen, expected):
        assert step == expected_step and math.isclose(value, expected_value, rel_tol=1e-6), (tag, seen, expected)
END
tap_check "TensorBoard shows each step once, with metrics.jsonl's numbers" "$FM_ORACLE_PYTHON" "$scratch/read.py" "$scratch/run"
tap_done
