#!/bin/sh
# What only a machine with a GPU can say:  sh tests/gpu/run.sh [OUT]
#
# From an unpacked `make bundle` (share/finemesh/tests/gpu/run.sh) or a build tree (FM_BUILD=build sh tests/gpu/run.sh). OUT (default: $OUT, else
# ./gpu-results) gets table.txt, a log a step and the benchmarks' JSON. Correctness first: every operation against the CPU's; whole models
# against transformers' numbers in fp64, on 1 to 4 ranks of one GPU; memory under compute-sanitizer; then the benchmarks, beside torch where
# FM_ORACLE_PYTHON names (or python3 is) a Python with torch and transformers. One table; exit status 0 where every row is ok or skipped, 1
# otherwise, 77 where there is no GPU.
#
# Where the module was built with cuDNN and libcudnn.so.9 is found (LD_LIBRARY_PATH), attention is checked and timed by it and by our own kernels.
#
# FM_GPU_MODULE: in a build tree, another module than the one built there (the one over the doubles of tests/cuda/double).
# FM_GPU_SECONDS: time for everything (default 1500): what does not fit any more is skipped, and said to be. FM_GPU_STEPS: a pattern of rows.
set -u
here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$here/../.." && pwd)
out=${1:-${OUT:-gpu-results}}
[ -n "${FM_GPU_FUNCTION:-}" ] || { mkdir -p "$out" && out=$(cd "$out" && pwd); } || exit 99
if [ -x "$tree/../../bin/finemesh" ]; then
    bin=$(cd "$tree/../../bin" && pwd)
    finemesh=$bin/finemesh mpiexec=$bin/mpiexec mesh_model=$bin/mesh_model ops_parity=$bin/ops_parity
    shim=$(cd "$bin/../lib/finemesh" && pwd)/yield_shim.so
    module=$(cd "$bin/../lib/finemesh" && pwd)/finemesh_cuda.so kernels=$bin
    memcheck_target=$bin/finemesh
else
    build=$(cd "${FM_BUILD:-$tree/build}" 2>/dev/null && pwd) || { echo "no bundle, and no build tree at ${FM_BUILD:-$tree/build}" >&2; exit 99; }
    # programs look for the module beside themselves: as installed, under OUT
    mkdir -p "$out/root/bin" "$out/root/lib/finemesh"
    for program in finemesh tests/mesh/mesh_model tests/gpu/ops_parity; do
        cp -L "$build/$(dirname "$program")/.libs/$(basename "$program")" "$out/root/bin/" || exit 99
    done
    module=${FM_GPU_MODULE:-$build/.libs/finemesh_cuda.so}
    ln -sf "$module" "$out/root/lib/finemesh/finemesh_cuda.so"
    LD_LIBRARY_PATH=$build/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LD_LIBRARY_PATH
    finemesh=$out/root/bin/finemesh mpiexec=${MPIEXEC:-mpiexec} mesh_model=$out/root/bin/mesh_model ops_parity=$out/root/bin/ops_parity
    shim=$build/tests/mesh/.libs/yield_shim.so
    kernels=$build/tests/cuda
    memcheck_target=$finemesh
fi
cd "$tree" || exit 99
export UCX_TLS=sm,self

# The same bits again where the job asks for them.
deterministic()
{
    for i in 1 2; do
        "$finemesh" run inputs/quickstart.ini device.type=cuda job.deterministic=yes train.steps=20 "job.output_dir=$scratch/det$i" \
            checkpoint.export=no || return 1
        sed 's/, "tokens_per_s.*//' "$scratch/det$i/metrics.jsonl" >"$scratch/det$i.txt"
    done
    cmp "$scratch/det1.txt" "$scratch/det2.txt" && echo "20 steps, the same bits twice"
}
# The quickstart job: the losses of the CPU.
quickstart()
{
    "$finemesh" run inputs/quickstart.ini device.type=cuda model.dtype=float32 train.steps=30 "job.output_dir=$scratch/gpu" checkpoint.export=no &&
        "$finemesh" run inputs/quickstart.ini device.type=cpu train.steps=30 "job.output_dir=$scratch/cpu" checkpoint.export=no || return 1
    for side in gpu cpu; do
        sed -n 's/.*"loss": *\([^,]*\),.*/\1/p' "$scratch/$side/metrics.jsonl" >"$scratch/$side.loss"
    done
    paste "$scratch/gpu.loss" "$scratch/cpu.loss" | awk '{ d = ($1 - $2) / $2; if (d < 0) d = -d; if (d > far) far = d; n++
        if (NR == 1 ? d > 1e-6 : d > 1e-4) bad = 1 } END { print n " losses, farthest from the CPU: " far; exit bad || n < 30 }'
}
# A function as a step: in a shell of its own, so that it has a time limit.
if [ -n "${FM_GPU_FUNCTION:-}" ]; then
    scratch=$FM_GPU_SCRATCH
    "$FM_GPU_FUNCTION"
    exit $?
fi

began=$(date +%s)
seconds=${FM_GPU_SECONDS:-1500}
failed=0
scratch=$(mktemp -d "${TMPDIR:-/tmp}/finemesh-gpu.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' HUP INT TERM
: >"$out/table.txt"

say() { printf '%s\n' "$*" | tee -a "$out/table.txt"; }
row() { say "$(printf '%-7s %-58s %6ss  %s' "$1" "$2" "$3" "$4")"; }

# check NAME LIMIT COMMAND...: one row; status 77 is a skip. What it prints goes to OUT/NAME.log; the row ends with its last line.
check()
{
    name=$1 limit=$2
    shift 2
    # shellcheck disable=SC2254
    case $name in
    ${FM_GPU_STEPS:-*}) ;;
    *) return 0 ;;
    esac
    left=$((began + seconds - $(date +%s)))
    if [ "$left" -lt 20 ]; then
        row skipped "$name" 0 "no time is left"
        return 0
    fi
    [ "$limit" -le "$left" ] || limit=$left
    start=$(date +%s)
    timeout -k 10 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null
    status=$?
    took=$(($(date +%s) - start))
    last=$(grep -v '^ *$' "$out/$name.log" | tail -n 1 | cut -c 1-100)
    case $name:$status in
    *:0) row ok "$name" "$took" "$last" ;;
    *:77) row skipped "$name" "$took" "$last" ;;
    peer-*) row none "$name" "$took" "the peer has no result: $last" ;;
    bench-*:1)
        if grep -q 'does not fit' "$out/$name.log"; then
            row skipped "$name" "$took" "$last"
        else
            row FAILED "$name" "$took" "status $status: $last"
            failed=$((failed + 1))
        fi
        ;;
    *:124 | *:137) row FAILED "$name" "$took" "not done within $limit s: $last"; failed=$((failed + 1)) ;;
    *) row FAILED "$name" "$took" "status $status: $last"; failed=$((failed + 1)) ;;
    esac
    return $status
}

# ---- is there a GPU ----
"$finemesh" --version >"$out/version.log" 2>&1
cat "$out/version.log"
grep -q '^CUDA.*built, usable:' "$out/version.log" || { say "no usable GPU: $(grep '^CUDA' "$out/version.log")"; exit 77; }
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)
say "# $(date -u +%Y-%m-%dT%H:%MZ)  ${gpu:-GPU unknown to nvidia-smi}  $(head -n 1 "$out/version.log")  $(grep '^CUDA' "$out/version.log")"
env | grep -E '^(NVIDIA_TF32_OVERRIDE|CUBLAS_|CUDA_VISIBLE)' | sed 's/^/# /' | tee -a "$out/table.txt"
say "$(printf '# %-5s %-58s %7s  %s' "" "what" "took" "last line")"

has_cudnn=no
! grep -q '^cuDNN.*built, usable:' "$out/version.log" || has_cudnn=yes

# ---- operations ----
check ops 240 "$ops_parity" cuda
ops_status=$?
if [ $has_cudnn = yes ]; then
    check ops-cudnn 20 grep '^# attention: cuDNN' "$out/ops.log"
    check ops-own-attention 240 "$ops_parity" cuda own-attention
else
    row skipped ops-cudnn 0 "$(grep '^cuDNN' "$out/version.log")"
fi
for kernel_test in "$kernels"/gpu_*; do
    case $kernel_test in
    *'*' | */gpu_bandwidth* | *.o) ;;
    *) check "$(basename "$kernel_test")" 120 "$kernel_test" "$module" ;;
    esac
done

# ---- whole models: loss and every gradient against transformers' in fp64; bf16 and fp16 within twice torch's own distance ----
# models NAME RANKS LIMIT CHECK MODELS KEYS...
models()
{
    name=$1 ranks=$2 limit=$3 what=$4 list=$5
    shift 5
    rm -rf "$scratch/models" && mkdir "$scratch/models"
    set -- "$mesh_model" "$what" tests/mesh/mesh_model.ini "$tree/tests/oracle/data" "$scratch/models" "$list" device.type=cuda "$@"
    cores=$(getconf _NPROCESSORS_ONLN)
    if [ "$ranks" -eq 1 ]; then
        check "$name" "$limit" "$@"
    elif [ "$ranks" -le "$cores" ]; then
        check "$name" "$limit" "$mpiexec" -n "$ranks" "$@"
    else
        check "$name" "$limit" "$mpiexec" -n "$ranks" -genv LD_PRELOAD "$shim" "$@"
    fi
}
models model-f32 1 120 gradients all
models model-bf16 1 120 gradients all model.dtype=bfloat16
# rows one at a time are plain: for cuDNN, where it is
models model-bf16-rows 1 120 gradients all model.dtype=bfloat16 local=1
models model-f16 1 120 gradients all model.dtype=float16
models curve-f32 1 120 curve llama,qwen3
models recompute 1 120 recompute qwen2_window,qwen3_deep

function_check()
{
    check "$1" "$2" env "FM_GPU_FUNCTION=$3" "FM_GPU_SCRATCH=$scratch" "FM_BUILD=${build:-}" sh "$here/run.sh" "$out"
}
function_check quickstart 120 quickstart
function_check deterministic 120 deterministic

# ---- several ranks on one GPU, through the host ----
models mesh-2 2 180 gradients llama_tied,qwen3 distributed.backend=mpi
models mesh-2-bf16 2 120 gradients llama_tied model.dtype=bfloat16 distributed.backend=mpi
models mesh-4 4 240 gradients qwen3 most=2,2,2,2,2 distributed.backend=mpi
models mesh-2-sp 2 120 gradients qwen3_deep most=1,1,2,1,2 local=1 distributed.sequence_parallel=yes distributed.backend=mpi

# ---- memory errors ----
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
if [ -n "$sanitizer" ]; then
    check memcheck 240 "$sanitizer" --tool memcheck --target-processes all --error-exitcode 9 "$memcheck_target" run inputs/quickstart.ini \
        device.type=cuda train.steps=2 "job.output_dir=$scratch/memcheck" checkpoint.export=no
    check racecheck 240 "$sanitizer" --tool racecheck --target-processes all --error-exitcode 9 "$memcheck_target" run inputs/quickstart.ini \
        device.type=cuda train.steps=1 "job.output_dir=$scratch/racecheck" checkpoint.export=no
else
    row skipped memcheck 0 "there is no compute-sanitizer"
fi
[ "$ops_status" -eq 0 ] || say "# operations are wrong: the benchmarks below say little"

# ---- benchmarks ----
[ ! -x "$kernels/gpu_bandwidth" ] || check gpu_bandwidth 60 "$kernels/gpu_bandwidth" "$module"
python=${FM_ORACLE_PYTHON:-python3}
"$python" -c 'import torch, transformers; assert torch.cuda.is_available()' 2>/dev/null || python=
number() { grep -o "\"$1\": *[-+0-9.e]*" "$2" | head -n 1 | sed 's/.*: *//'; }

# bench NAME MODEL ROWS LOCAL KEYS...
bench()
{
    job=$1 model=$2 rows=$3 local=$4
    shift 4
    cat >"$scratch/$job.ini" <<END
[job]
output_dir = $scratch/$job
[model]
path = tests/gpu/models/$model
init = random
dtype = bfloat16
[data]
seq_length = 4096
[batch]
global_batch_size = $rows
local_batch_size = $local
[device]
type = cuda
END
    rm -f "$out/$job.json"
    check "bench-$job" 200 "$finemesh" bench "$scratch/$job.ini" --warmup 3 --steps 10 --json "$out/$job.json" "$@"
    [ -s "$out/$job.json" ] || return 0
    result "finemesh $job" "$out/$job.json"
    case $job in
    *-own) return 0 ;;                 # the peer stands above
    esac
    [ -n "$python" ] || return 0
    for option in "" --checkpointing; do
        rm -f "$out/peer-$job$option.json"
        check "peer-$job$option" 200 sh -c '"$@" >"$0"' "$out/peer-$job$option.json" "$python" tests/bench/peer.py "$out/$job.json" \
            "tests/gpu/models/$model" $option
        [ ! -s "$out/peer-$job$option.json" ] || result "torch $job $option" "$out/peer-$job$option.json" "$out/$job.json"
    done
}
# result WHAT FILE [OURS]
result()
{
    awk -v what="$1" -v rate="$(number tokens_per_s "$2")" -v mfu="$(number mfu "$2")" -v gemm="$(number gemm_flops_per_s "$2")" \
        -v peak="$(number peak_bytes "$2")" -v start="$(number startup_s "$2")" -v ours="$([ -z "${3:-}" ] || number tokens_per_s "$3")" 'BEGIN {
        printf "#   %-40s %9.0f tokens/s  causal MFU %5.1f%% of %.0f TFLOP/s  %7.0f MiB  start %.1f s", what, rate, 100 * mfu, gemm / 1e12,
            peak / 1048576, start
        if (ours != "") printf "  finemesh is %.2f times as fast", ours / rate
        print "" }' | tee -a "$out/table.txt"
}
bench 1b llama-3.2-1b 4 4
[ $has_cudnn = no ] || bench 1b-own llama-3.2-1b 4 4 --own-attention
bench 3b llama-3.2-3b 4 1
[ $has_cudnn = no ] || bench 3b-own llama-3.2-3b 4 1 --own-attention
bench 1b-pure llama-3.2-1b 4 4 optimizer.master_dtype=same optimizer.state_dtype=bfloat16
bench 3b-checkpointing llama-3.2-3b 8 2 distributed.activation_checkpointing=full
bench 8b llama-3.1-8b 1 1 optimizer.master_dtype=same optimizer.state_dtype=bfloat16
say "# $failed failed; $(($(date +%s) - began)) s"
[ "$failed" -eq 0 ]
