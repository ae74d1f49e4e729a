#!/bin/sh
# What jobs.sh lets check.sbatch run: a `make check` that is small, in an allocation of Slurm. Not among the tests of `make check` itself.
. "$srcdir/tests/lib.sh"

tap_check "this is a job" test -n "${SLURM_JOB_ID:-}"
tap_check "a program without a launcher" "$build_dir/finemesh" load "$source_dir/inputs/tiny-llama"
for ranks in 2 3; do
    tap_check "$ranks ranks by mpiexec" run_ranks $ranks "$build_dir/finemesh" load "$source_dir/inputs/tiny-llama" --dp-size $ranks
done
tap_done
