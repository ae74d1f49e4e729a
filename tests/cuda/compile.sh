#!/bin/sh
# Kernels for a GPU: each compiles without a warning and without spilling registers to memory, but for those below. Whether their form on the host was built.
# Attention on tensor cores fills the registers with sums by design: some addresses, at most 48 bytes a thread, may stand in memory.
. "$srcdir/tests/lib.sh"
: "${FM_NVCC=}" "${FM_CXX17:?}" "${FM_CUDNN:?}"

# compiles FILE: for sm_90, with all that nvcc, the host's compiler and ptxas have to say as errors.
compiles()
{
    case $1 in
    *attention_mma*) strict="-Xptxas -v" ;;
    *) strict="-Xptxas -warn-spills -Xptxas -Werror" ;;
    esac
    "$FM_NVCC" -O3 -std=c++17 -arch=sm_90 -Werror all-warnings $strict \
        -Xcompiler -Wall,-Wextra,-Wno-unused-parameter -I"$source_dir/include" -I"$source_dir/src" -c "$1" \
        -o "$scratch/kernel.o" >"$scratch/said" 2>&1
    rc=$?
    awk '/bytes spill stores/ { for (i = 1; i < NF; i++) if ($i == "spill" && $(i - 2) > 48) bad = 1 } END { exit bad }' "$scratch/said" &&
        [ $rc = 0 ] && return
    cat "$scratch/said"
    return 1
}

if [ "$FM_CXX17" = yes ]; then
    tap_ok "kernels on the host are tested by programs of their own"
else
    tap_skip "kernels on the host" "there is no C++17 compiler"
fi
if [ "$FM_CUDNN" = no ]; then
    tap_skip "src/ops/attention_cudnn.cpp compiles" "configure found no headers of cuDNN and its frontend"
else
    tap_check "src/ops/attention_cudnn.cpp was compiled: cuDNN $FM_CUDNN" test -s "$build_dir/libfinemesh_cudnn.la"
fi
for file in $(sed -n 's/.*"\(ops\/.*_cuda.cu\)".*/\1/p' "$source_dir"/tests/cuda/kernels/*_cuda.cpp); do
    if [ -n "$FM_NVCC" ]; then
        tap_check "$file compiles for a GPU, as few spills as are allowed" compiles "$source_dir/src/$file"
    else
        tap_skip "$file compiles for a GPU" "there is no nvcc"
    fi
done
tap_done
