#!/bin/sh
# Loss and every gradient against transformers, now: needs FM_ORACLE_PYTHON, a Python with torch, transformers and h5py.
. "$srcdir/tests/lib.sh"
[ -n "${FM_ORACLE_PYTHON:-}" ] || tap_skip_all "FM_ORACLE_PYTHON names no Python with torch, transformers and h5py"

TQDM_DISABLE=1
export TQDM_DISABLE

# compare MODEL DTYPE RANKS MORE...
compare()
{
    model=$1 dtype=$2 ranks=$3
    shift 3
    rows=
    [ "$dtype" = bfloat16 ] || rows=$source_dir/tests/oracle/data/$model/rows.jsonl
    tap_check "$model $dtype on $ranks $*" timeout "$FM_TEST_SECONDS" "$FM_ORACLE_PYTHON" "$source_dir/tests/oracle/compare.py" \
        "$source_dir/tests/oracle/data/$model" $rows --dtype "$dtype" --ranks "$ranks" --finemesh "$build_dir/finemesh" \
        --mpiexec "$MPIEXEC" "$@"
}

for directory in "$source_dir"/tests/oracle/data/*/; do
    compare "$(basename "$directory")" float32 1
done
compare llama float32 2 --tp 2
compare llama bfloat16 1
compare llama bfloat16 2 --tp 2
compare qwen2 bfloat16 1
tap_done
