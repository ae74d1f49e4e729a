#!/bin/sh
# A model of SmolLM2-135M's size, random weights, rows of 512 tokens, 4 rows a step: what training costs, next to the GEMM peak
# found in the same run, and next to PyTorch where FM_ORACLE_PYTHON names a Python with torch and transformers. Here microbatches have
# one row (the numbers do not depend on it, memory does); PyTorch takes the 4 rows at once.
#
#     make bench                                             in the build directory; about 5 minutes
#     FM_ORACLE_PYTHON=python3 FM_BENCH_COMPILE=1 make bench     also torch, also torch.compile; about 20 minutes
#
# "of peak" takes 6 x parameters x tokens/s as the arithmetic. "to step 1" is from exec until the first step begins, files cached.
# FM_BENCH_STEPS: steps a run, the first not timed (default 4).
set -eu
: "${srcdir:?run this through make bench}" "${top_builddir:?}" "${MPIEXEC:?}"
bench_dir=$(cd "$srcdir/tests/bench" && pwd)
build_dir=$(cd "$top_builddir" && pwd)
steps=${FM_BENCH_STEPS:-4}
rows_a_step=4
seq_length=512
parameters=134515008
export UCX_TLS=sm,self
scratch=$(mktemp -d "${TMPDIR:-/tmp}/finemesh-bench.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' HUP INT TERM

# Rows of ids that look like nothing: a linear congruential sequence.
awk -v rows=$((rows_a_step * steps)) -v length_=$seq_length 'BEGIN {
    x = 1
    for (r = 0; r < rows; r++) {
        printf "{\"input_ids\": ["
        for (t = 0; t < length_; t++) { x = (x * 16807) % 2147483647; printf "%s%d", t ? ", " : "", x % 49152 }
        print "]}"
    }
}' >"$scratch/rows.jsonl"

# gemm_peak RANKS THREADS DTYPE: GFLOP/s of all ranks together, at the same time.
gemm_peak()
{
    OMP_NUM_THREADS=$2 "$MPIEXEC" -n "$1" "$build_dir/tests/bench/gemm_peak" "$2" "$3" </dev/null | awk '{ sum += $1 } END { print sum }'
}

# line WHAT PEAK TOKENS_PER_S MIB SECONDS
line()
{
    awk -v what="$1" -v peak="$2" -v rate="$3" -v mib="$4" -v seconds="$5" -v p=$parameters 'BEGIN {
        printf "%-46s %9.1f %9.1f %8.0f%% %9.0f %10.2f\n", what, peak, rate, 600e-9 * p * rate / peak, mib, seconds }'
}

# ours WHAT RANKS THREADS PEAK OVERRIDES...: one run of one step that fills the caches (files, index of the data), then the measurement.
ours()
{
    what=$1 ranks=$2 threads=$3 peak=$4
    shift 4
    launcher=
    [ "$ranks" -eq 1 ] || launcher="$MPIEXEC -n $ranks"
    set -- $launcher "$build_dir/finemesh" run "$scratch/job.ini" "job.output_dir=$scratch/out" "device.threads=$threads" \
        "batch.local_batch_size=1" "$@"
    export OMP_NUM_THREADS="$threads"
    rm -rf "$scratch/out"
    measured "$@" train.steps=1
    rm -f "$scratch/out/metrics.jsonl"
    measured "$@" "train.steps=$steps"
    numbers=$(awk -v tokens_a_step=$((rows_a_step * seq_length)) '
        FILENAME ~ /result$/ { mib = $1 / 1024; first_line = $2; next }
        /"step_ms"/ { n++; sub(/.*"step_ms": */, ""); if (n > 1) ms += $0; else first_ms = $0 + 0 }
        END { printf "%f %f %f\n", 1000 * (n - 1) * tokens_a_step / ms, mib, first_line - first_ms / 1000 }' \
        "$scratch/result" "$scratch/out/metrics.jsonl")
    line "$what" "$peak" $numbers
}

# measured PROGRAM ARGUMENTS...: leaves its cost in $scratch/result.
measured()
{
    "$build_dir/tests/bench/launch" "$scratch/result" "$scratch/out/metrics.jsonl" "$@" </dev/null >"$scratch/log" 2>&1 ||
        { cat "$scratch/log" >&2; exit 1; }
}

# theirs WHAT PEAK MODE [compile]
theirs()
{
    what=$1 peak=$2
    shift 2
    mode=$1
    shift
    numbers=$("$FM_ORACLE_PYTHON" "$bench_dir/torch_bench.py" "$bench_dir/smollm2-135m" "$scratch/rows.jsonl" "$mode" 2 "$steps" \
        $rows_a_step "$@" 2>"$scratch/log") || { cat "$scratch/log" >&2; exit 1; }
    line "$what" "$peak" $numbers
}

cat >"$scratch/job.ini" <<EOF
[job]
overwrite = yes
[model]
path = $bench_dir/smollm2-135m
init = random
[data]
train = $scratch/rows.jsonl
format = tokens
seq_length = $seq_length
shuffle = no
[batch]
global_batch_size = $rows_a_step
[checkpoint]
resume = no
export = no
EOF

peak_f32=$(gemm_peak 1 2 float32)
peak_bf16=$(gemm_peak 1 2 bfloat16)
peak_f32_ranks=$(gemm_peak 2 1 float32)
peak_bf16_ranks=$(gemm_peak 2 1 bfloat16)
pure="optimizer.master_dtype=same optimizer.state_dtype=bfloat16"
printf '# %d parameters, %d rows of %d tokens a step, %d steps\n' $parameters $rows_a_step $seq_length "$steps"
printf '%-46s %9s %9s %9s %9s %10s\n' "#" "GEMM peak" "tokens/s" "of peak" "peak mem" "to step 1" "#" "GFLOP/s" "" "" "MiB" "s"
ours "finemesh float32, 1 rank x 2 threads" 1 2 "$peak_f32" model.dtype=float32
ours "finemesh float32, 2 ranks x 1" 2 1 "$peak_f32_ranks" model.dtype=float32
ours "finemesh bfloat16, fp32 masters, 1 rank x 2" 1 2 "$peak_bf16" model.dtype=bfloat16
ours "finemesh bfloat16, fp32 masters, 2 ranks x 1" 2 1 "$peak_bf16_ranks" model.dtype=bfloat16
ours "finemesh pure bfloat16, 1 rank x 2 threads" 1 2 "$peak_bf16" model.dtype=bfloat16 $pure
ours "finemesh pure bfloat16, 2 ranks x 1" 2 1 "$peak_bf16_ranks" model.dtype=bfloat16 $pure
if [ -n "${FM_ORACLE_PYTHON:-}" ]; then
    for variant in "" ${FM_BENCH_COMPILE:+compile}; do
        theirs "torch ${variant:-eager} float32, 2 threads" "$peak_f32" float32 $variant
        theirs "torch ${variant:-eager} autocast (fp32 weights), 2 threads" "$peak_bf16" autocast $variant
        theirs "torch ${variant:-eager} pure bfloat16, 2 threads" "$peak_bf16" bfloat16 $variant
    done
fi
