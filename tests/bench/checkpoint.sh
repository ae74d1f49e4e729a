#!/bin/sh
# Checkpoints and conversion against dd on the disk of $TMPDIR, on 1 rank and on 4: `make bench-checkpoint`, a part of `make bench`.
# A model of SmolLM2-135M's size, random weights: 1.6 GB a checkpoint, so that 5 GB are needed. FM_BENCH_ROUNDS: of which the median
# is taken (default 5).
set -eu
: "${srcdir:?run this through make bench}" "${top_builddir:?}" "${MPIEXEC:?}"
model_dir=$(cd "$srcdir/tests/bench/smollm2-135m" && pwd)
build_dir=$(cd "$top_builddir" && pwd)
UCX_TLS=sm,self
OMP_NUM_THREADS=1
export UCX_TLS OMP_NUM_THREADS
scratch=$(mktemp -d "${TMPDIR:-/tmp}/finemesh-bench.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' HUP INT TERM
printf '%-22s %6s %10s %12s %12s %9s\n' "# checkpoint" ranks MB "MB/s" "dd, MB/s" ratio
for ranks in 1 4; do
    "$MPIEXEC" -n $ranks "$build_dir/tests/bench/checkpoint_bench" "$scratch" "$model_dir" "${FM_BENCH_ROUNDS:-5}" </dev/null
    rm -rf "${scratch:?}"/*
done
