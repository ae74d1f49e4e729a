#!/bin/sh
# device.type=cuda as a person meets it, over the doubles of the CUDA libraries: what --version says, a run, and what is wrong with
# a machine or an installation: exit status 1, one error that says what and what to do.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99
libraries=$build_dir/tests/cuda/double/.libs
[ -e "$libraries/finemesh_cuda.so" ] || tap_skip_all "the CUDA module was not built over the doubles: no C++17 compiler"

# says WORDS RANKS GPUS: --version's lines.
says()
{
    run_double "$2" "late/$3" "$build_dir/finemesh" --version >"$scratch/stdout" || return 1
    cat "$scratch/stdout"
    grep -q -e "$1" "$scratch/stdout"
}

# refused WORDS RANKS GPUS OVERRIDES...
refused()
{
    words=$1 ranks=$2 gpus=$3
    shift 3
    rm -rf "$scratch/out"
    run_double "$ranks" "late/$gpus" "$build_dir/finemesh" run inputs/quickstart.ini "job.output_dir=$scratch/out" device.type=cuda "$@" \
        >"$scratch/stdout" 2>"$scratch/stderr"
    status=$?
    cat "$scratch/stderr"
    [ $status -eq 1 ] || { echo "exit status $status, 1 expected"; return 1; }
    [ "$(grep -c '^finemesh: error: ' "$scratch/stderr")" -eq 1 ] || { echo "one error expected"; return 1; }
    grep -q -e "$words" "$scratch/stderr" || { echo "the error does not hold: $words"; return 1; }
}

# without NAME COMMAND...: a library that the loader finds and cannot open.
without()
{
    rm -rf "$scratch/broken"
    mkdir "$scratch/broken"
    echo "no library" >"$scratch/broken/$1"
    shift
    double_front=$scratch/broken
    "$@"
    without_status=$?
    double_front=
    return $without_status
}

# with_module FILE COMMAND...
with_module()
{
    double_module=$1
    shift
    "$@"
    module_status=$?
    double_module=
    return $module_status
}

# with NAME=VALUE COMMAND...: a setting of the doubles.
with()
{
    export "${1?}"
    setting_name=${1%%=*}
    shift
    "$@"
    setting_status=$?
    unset "$setting_name"
    return $setting_status
}

# The first loss of one rank on the CPU.
like_the_cpu()
{
    run_ranks 1 "$build_dir/finemesh" run inputs/quickstart.ini "job.output_dir=$scratch/cpu" train.steps=2 schedule.warmup_steps=1 >/dev/null || return 1
    run_double 2 late "$build_dir/finemesh" run inputs/quickstart.ini "job.output_dir=$scratch/gpu" train.steps=2 schedule.warmup_steps=1 device.type=cuda \
        distributed.tp_size=2 >"$scratch/stdout" || return 1
    grep -q 'between GPUs: NCCL' "$scratch/stdout" || return 1
    for run in cpu gpu; do
        sed -n 's/.*"loss": *\([^,}]*\).*/\1/p' "$scratch/$run/metrics.jsonl" | head -n 1
    done >"$scratch/losses"
    cat "$scratch/losses"
    awk 'NR == 1 { a = $1 } NR == 2 { d = (a - $1) / a; if (d < 0) d = -d } END { exit !(NR == 2 && d < 1e-6) }' "$scratch/losses"
}

# falls_back WORDS: two ranks of device.type=auto run on the CPU, and one warning says why.
falls_back()
{
    words=$1
    run_double 2 late "$build_dir/finemesh" run inputs/quickstart.ini "job.output_dir=$scratch/auto" train.steps=1 schedule.warmup_steps=0 device.type=auto \
        >"$scratch/stdout" 2>"$scratch/stderr"
    status=$?
    cat "$scratch/stderr"
    [ $status -eq 0 ] && [ "$(grep -c '^finemesh: warning: device.type=auto: the CPU' "$scratch/stderr")" -eq 1 ] && grep -q -e "$words" "$scratch/stderr"
}

# gpu_run STATUS WORDS SETTING...: tests/gpu/run.sh over the doubles ends with that status, and its table says so.
gpu_run()
{
    expected=$1 words=$2
    shift 2
    rm -rf "$scratch/results"
    env LD_PRELOAD="$libraries/libcudart_double.so" LD_LIBRARY_PATH="$libraries" FM_GPU_MODULE="$libraries/finemesh_cuda.so" \
        FM_BUILD="$build_dir" "$@" sh tests/gpu/run.sh "$scratch/results" >"$scratch/stdout" 2>&1
    status=$?
    cat "$scratch/stdout"
    [ $status -eq "$expected" ] || { echo "exit status $status, $expected expected"; return 1; }
    grep -q -e "$words" "$scratch/results/table.txt"
}

# bench_says yes|no ARGUMENTS...: whether a benchmark in bf16, whose rows are all of one length, says that cuDNN computes attention.
bench_says()
{
    expected=$1
    shift
    run_double 1 late+cudnn "$build_dir/finemesh" bench inputs/quickstart.ini "job.output_dir=$scratch/bench" device.type=cuda --steps 1 --warmup 0 \
        --split 0 batch.local_batch_size=1 batch.global_batch_size=1 "$@" >"$scratch/stdout" || return 1
    cat "$scratch/stdout"
    said=no
    ! grep -q '^# attention: .*cuDNN' "$scratch/stdout" || said=yes
    [ $said = "$expected" ]
}

tap_check "--version names the GPU and NCCL" says 'NCCL .*: built, usable' 1 1
tap_check "--version where no GPU is visible" says 'CUDA .*no GPU visible' 1 0
tap_check "--version without a driver" without libcuda.so.1 says 'CUDA: built, not usable: there is no NVIDIA driver' 1 1
tap_check "--version where cuDNN is found" with FM_DOUBLE_CUDNN=91900 says 'cuDNN 9.26: built, usable: 9.19 found' 1 1
tap_check "--version where cuDNN is not found" says 'cuDNN 9.26: built, not usable: libcudnn.so.9 was not found' 1 1
tap_check "attention in bf16 by cuDNN" bench_says yes model.dtype=bfloat16
tap_check "attention in fp32 by the kernels" bench_says no model.dtype=float32
tap_check "attention by the kernels where it must be deterministic" bench_says no model.dtype=bfloat16 job.deterministic=yes
tap_check "attention by the kernels where they are wanted" bench_says no model.dtype=bfloat16 --own-attention
tap_check "two GPUs, tp 2: loss of the CPU" like_the_cpu
tap_check "no driver's library" without libcuda.so.1 refused 'no NVIDIA driver' 1 1
tap_check "a driver's library without its driver" with FM_DOUBLE_DRIVER=0 refused 'no NVIDIA driver' 1 1
tap_check "a driver older than the module's CUDA" with FM_DOUBLE_DRIVER=12020 refused 'serves CUDA 12.2 at most' 1 1
tap_check "no device" refused 'no GPU is visible' 1 0
tap_check "two ranks on one device with NCCL" refused 'backend = mpi' 2 1 distributed.tp_size=2
tap_check "a module of another build" with_module "$libraries/finemesh_cuda_other.so" refused 'was built with another finemesh' 1 1
echo "no module" >"$scratch/damaged.so"
tap_check "a module that cannot be opened" with_module "$scratch/damaged.so" refused 'CUDA module cannot be opened' 1 1
tap_check "device.type=auto says once why it is the CPU" with_module "$scratch/damaged.so" falls_back 'CUDA module cannot be opened'
tap_check "an NCCL too old is told as such" with FM_DOUBLE_NCCL=21700 refused 'libnccl.so.2 is version 2.17' 2 2 distributed.backend=nccl
tap_check "--version where NCCL is too old" with FM_DOUBLE_NCCL=21700 says 'NCCL .*not usable: libnccl.so.2 is version 2.17' 1 1
tap_check "a device too small for the run" with FM_DOUBLE_MEMORY_MIB=34 refused 'does not fit into memory' 1 1
tap_check "tests/gpu/run.sh where there is no GPU" gpu_run 77 'no usable GPU' FM_DOUBLE_DEVICES=0
tap_check "tests/gpu/run.sh, kernels" gpu_run 0 '^ok  *gpu_elementwise' 'FM_GPU_STEPS=gpu_[ew]*'
tap_check "tests/gpu/run.sh, a device that fails" gpu_run 1 '^FAILED  *gpu_words' 'FM_GPU_STEPS=gpu_w*' FM_DOUBLE_FAIL=run@40=700
tap_done
