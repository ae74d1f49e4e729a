#!/bin/sh
# A model of SmolLM2-135M's size, random weights, rows of 512 tokens, 4 rows a step: `finemesh bench` in several dtypes and meshes, and, where
# FM_ORACLE_PYTHON names a Python with torch and transformers, its peer (peer.py) on the same batch in the same run.
#
#     make bench                                             in the build directory; a few minutes
#     FM_ORACLE_PYTHON=python3 FM_BENCH_COMPILE=1 make bench     also torch, also torch.compile; about 20 minutes
#
# finemesh takes microbatches of one row (the numbers do not depend on it, memory does), torch too and the 4 rows at once. MFU is causal and
# against the GEMM rate that finemesh measured in the line's own run (torch's: the line above it). "ratio": tokens/s over torch's.
# FM_BENCH_STEPS: timed steps a line (default 4). FM_BENCH_CONFIG: the directory of another config.json; FM_BENCH_SEQ, FM_BENCH_ROWS.
set -eu
: "${srcdir:?run this through make bench}" "${top_builddir:?}" "${MPIEXEC:?}"
bench_dir=$(cd "$srcdir/tests/bench" && pwd)
build_dir=$(cd "$top_builddir" && pwd)
steps=${FM_BENCH_STEPS:-4}
config=${FM_BENCH_CONFIG:-$bench_dir/smollm2-135m}
rows=${FM_BENCH_ROWS:-4}
seq_length=${FM_BENCH_SEQ:-512}
export UCX_TLS=sm,self
scratch=$(mktemp -d "${TMPDIR:-/tmp}/finemesh-bench.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' HUP INT TERM

cat >"$scratch/job.ini" <<END
[job]
output_dir = $scratch/out
[model]
path = $config
init = random
[data]
seq_length = $seq_length
[batch]
global_batch_size = $rows
END

# number KEY FILE: the first number of that name.
number() { grep -o "\"$1\": *[-+0-9.e]*" "$2" | head -n 1 | sed 's/.*: *//'; }

# line WHAT FILE [OURS]: OURS is the result that this one is the peer of.
line()
{
    ratio=
    [ -z "${3:-}" ] || ratio=$(awk -v a="$(number tokens_per_s "$3")" -v b="$(number tokens_per_s "$2")" 'BEGIN { printf "%.2f", a / b }')
    awk -v what="$1" -v rate="$(number tokens_per_s "$2")" -v low="$(number tokens_per_s_least "$2")" -v high="$(number tokens_per_s_most "$2")" \
        -v gemm="$(number gemm_flops_per_s "$2")" -v mfu="$(number mfu "$2")" -v host="$(number host_bytes "$2")" \
        -v start="$(number startup_s "$2")" -v ratio="$ratio" 'BEGIN {
        printf "%-52s %9.1f %9.1f %9.1f %9.1f %7.1f%% %9.0f %8.2f %7s\n", what, gemm / 1e9, rate, low, high, 100 * mfu, host / 1048576, start, ratio }'
}

# ours NAME WHAT RANKS THREADS OVERRIDES...
ours()
{
    name=$1 what=$2 ranks=$3 threads=$4
    shift 4
    launcher=
    [ "$ranks" -eq 1 ] || launcher="$MPIEXEC -n $ranks"
    OMP_NUM_THREADS=$threads $launcher "$build_dir/finemesh" bench "$scratch/job.ini" --warmup 1 --steps "$steps" --split 0 \
        --json "$scratch/$name.json" "device.threads=$threads" "$@" </dev/null >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
    line "finemesh $what" "$scratch/$name.json"
}

# theirs NAME WHAT OPTIONS...: NAME is the finemesh line that it is the peer of.
theirs()
{
    name=$1 what=$2
    shift 2
    [ -n "${FM_ORACLE_PYTHON:-}" ] || return 0
    "$FM_ORACLE_PYTHON" "$bench_dir/peer.py" "$scratch/$name.json" "$config" "$@" >"$scratch/peer.json" 2>"$scratch/log" ||
        { cat "$scratch/log" >&2; exit 1; }
    line "torch $what" "$scratch/peer.json" "$scratch/$name.json"
}

# peers NAME WHAT: on microbatches of a row, on all rows at once, with checkpointing.
peers()
{
    for variant in "" ${FM_BENCH_COMPILE:+--compile}; do
        theirs "$1" "$2 ${variant#--}" $variant
        theirs "$1" "$2, all rows at once ${variant#--}" --local-batch-size "$rows" $variant
        theirs "$1" "$2, checkpointing ${variant#--}" --checkpointing $variant
    done
}

pure="optimizer.master_dtype=same optimizer.state_dtype=bfloat16"
printf '# %s: %d rows of %d tokens a step, %d steps\n' "$(basename "$config")" "$rows" "$seq_length" "$steps"
printf '%-52s %9s %9s %9s %9s %8s %9s %8s %7s\n' "#" "GEMM rate" "tokens/s" "least" "most" "MFU" "host mem" "to step" "ratio" "#" "GFLOP/s" \
    "" "" "" "" "MiB" "s" ""
ours f32 "float32, 1 rank x 2 threads" 1 2 model.dtype=float32
peers f32 "float32"
ours f32-2 "float32, 2 ranks x 1" 2 1 model.dtype=float32
ours bf16 "bfloat16, fp32 masters, 1 rank x 2 threads" 1 2 model.dtype=bfloat16
peers bf16 "autocast (fp32 weights)"
ours bf16-2 "bfloat16, fp32 masters, 2 ranks x 1" 2 1 model.dtype=bfloat16
ours pure "pure bfloat16, 1 rank x 2 threads" 1 2 model.dtype=bfloat16 $pure
peers pure "pure bfloat16"
ours pure-2 "pure bfloat16, 2 ranks x 1" 2 1 model.dtype=bfloat16 $pure
