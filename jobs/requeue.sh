#!/bin/bash
# finemesh in a Slurm job that survives preemption and time limits; what the batch scripts here have in common, and for one's own:
#
#     bash jobs/requeue.sh [SRUN OPTIONS --] JOB.ini [section.key=value ...]
#
# The job needs `--requeue`, `--signal=USR1@SECONDS` (every rank is told before the time limit) and `--open-mode=append`. Exit status
# 3 is finemesh's "stopped on request, a checkpoint is complete": the job goes back into the queue, and its next start goes on from
# there. Any other status is the job's own.
#
# FINEMESH      the program (default: finemesh in PATH)
# FINEMESH_MPI  the value of srun --mpi (default: the site's MpiDefault; where that is none, pmi2, else pmix)
set -u

fail()
{
    echo "requeue.sh: error: $*" >&2
    exit 1
}

[ -n "${SLURM_JOB_ID:-}" ] || fail "there is no Slurm job here; start one with sbatch"
options=()
for argument in "$@"; do
    if [ "$argument" = -- ]; then
        while [ "$1" != -- ]; do
            options+=("$1")
            shift
        done
        shift
        break
    fi
done
[ $# -ge 1 ] || fail "a job file is missing: sbatch SCRIPT JOB.ini [section.key=value ...]"
[ -r "$1" ] || fail "$1: no such job file in $PWD (paths are relative to where sbatch was called)"
program=${FINEMESH:-finemesh}
command -v "$program" >/dev/null || fail "$program: no such program on $(uname -n); put it into PATH or FINEMESH"

# An array's last task has the number of the whole array: only this form always means one task.
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

# MPI as the site has it. Under none, which is Slurm's own default, every rank would believe that it is alone.
mpi=${FINEMESH_MPI:-}
if [ -z "$mpi" ]; then
    mpi=$(scontrol show config | sed -n 's/^MpiDefault *= *//p')
    case $mpi,$(srun --mpi=list 2>&1) in
    none,*pmi2*) mpi=pmi2 ;;
    none,*pmix*) mpi=pmix ;;
    none,* | ,*) fail "srun --mpi=list knows neither pmi2 nor pmix; set FINEMESH_MPI, or start mpiexec in a batch script of your own" ;;
    esac
fi

# When the job ends: finemesh stops early enough for a checkpoint. Older Slurms do not say it by themselves.
if [ -z "${SLURM_JOB_END_TIME:-}" ]; then
    end=$(squeue -h -j "$job" -o %e)
    SLURM_JOB_END_TIME=$(date -d "$end" +%s 2>/dev/null) && export SLURM_JOB_END_TIME
fi

# srun takes the cores of a task from here, not from sbatch (Slurm 22.05 and later).
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# Signals are for the ranks, which get them from Slurm; this shell waits for them. A rank that dies takes the others with it after
# 10 s; at once (--kill-on-bad-exit) would hit ranks that are about to leave with status 3 a moment after the first.
trap : USR1 TERM
srun --mpi="$mpi" --kill-on-bad-exit=0 --wait=10 "${options[@]}" "$program" run "$@" &
step=$!
while kill -0 "$step" 2>/dev/null; do
    wait "$step"                        # a trap ends it, the step goes on
done
wait "$step"
status=$?

# A job that was cancelled does not come back, and one that Slurm itself puts back needs no help.
if [ $status -eq 3 ] && [ "$(squeue -h -j "$job" -o %T)" = RUNNING ]; then
    echo "requeue.sh: stopped after a checkpoint; job $job goes back into the queue (start $((${SLURM_RESTART_COUNT:-0} + 1)) ends here)"
    scontrol requeue "$job" && sleep 60         # Slurm ends this script
    echo "requeue.sh: error: Slurm did not requeue the job; sbatch it again to go on" >&2
fi
exit $status
