#!/bin/sh
# Loss and every gradient against transformers, now: needs FM_ORACLE_PYTHON, a Python with torch, transformers and h5py.
. "$srcdir/tests/lib.sh"
[ -n "${FM_ORACLE_PYTHON:-}" ] || tap_skip_all "FM_ORACLE_PYTHON names no Python with torch, transformers and h5py"

# compare NAME DTYPE RANKS MORE...
compare()
{
    model=$1 dtype=$2 ranks=$3
    shift 3
    tap_check "$model $dtype on $ranks $*" timeout "$FM_TEST_SECONDS" "$FM_ORACLE_PYTHON" "$source_dir/tests/oracle/compare.py" \
        "$scratch/$model" --dtype "$dtype" --ranks "$ranks" --finemesh "$build_dir/finemesh" --mpiexec "$MPIEXEC" "$@"
}

"$FM_ORACLE_PYTHON" "$source_dir/tests/oracle/random_models.py" "$scratch" >"$scratch/models" 2>"$scratch/log" ||
    { sed 's/^/# /' "$scratch/log"; exit 99; }
while read -r model; do
    compare "$model" float32 1
done <"$scratch/models"
compare llama float32 2
compare llama float32 2 --tp 2
compare llama-bias float32 2 --tp 2
compare qwen3 float32 2 --tp 2
compare llama bfloat16 1
compare qwen2 bfloat16 1
tap_done
