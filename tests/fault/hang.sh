#!/bin/sh
# A rank that hangs: the ranks that wait for it name it, the collective and the step, and end the run; a rank that is only slow does not.
. "$srcdir/tests/lib.sh"
. "$srcdir/tests/fault/lib.sh"
cd "$source_dir" || exit 99

# pid_of RANK DIR: of a rank of the run that writes to DIR.
pid_of()
{
    for pid in $(grep -lsa "job.output_dir=$2" /proc/[0-9]*/cmdline | sed 's|/proc/\([0-9]*\)/.*|\1|'); do
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = finemesh ] && tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -q "^PMI_RANK=$1\$"
        then echo "$pid"; fi
    done
}

# on_double RANKS ARGUMENTS...: as launch, on doubles of GPUs with NCCL between them.
on_double()
{
    on_double_ranks=$1
    shift
    run_double "$on_double_ranks" late "$finemesh" "$@" device.type=cuda
}

# begins RANKS LIMIT DIR MORE...: a long run in the background that has made its first steps.
begins()
{
    begins_ranks=$1 begins_limit=$2 begins_dir=$3
    shift 3
    $starts "$begins_ranks" run $(job "$begins_dir" train.steps=1000000 batch.global_batch_size=$((4 * begins_ranks)) checkpoint.every=0 validation.every=0 \
        job.watchdog="$begins_limit" "$@") >"$scratch/stdout" 2>"$scratch/err" &
    run_job=$!
    for _ in $(seq 300); do
        [ ! -s "$begins_dir/metrics.jsonl" ] || return 0
        sleep 0.1
    done
    cat "$scratch/stdout" "$scratch/err"
    return 1
}

# stopped RANK RANKS WORDS MORE...: SIGSTOP to one rank; exit status 2 within limit + 15 s, with the message.
stopped()
{
    stopped_rank=$1 stopped_ranks=$2 words=$3 dir=$scratch/stopped$1-$starts
    shift 3
    begins "$stopped_ranks" 3 "$dir" "$@" || return 1
    pids=$(for r in $(seq 0 $((stopped_ranks - 1))); do pid_of "$r" "$dir"; done)
    kill -STOP "$(pid_of "$stopped_rank" "$dir")" || return 1
    begin_s=$(date +%s)
    wait $run_job
    status=$?
    [ $(($(date +%s) - begin_s)) -le 18 ] || { echo "it took $(($(date +%s) - begin_s)) s"; return 1; }
    cat "$scratch/err"
    [ $status -eq 2 ] || { echo "exit status $status"; return 1; }
    one_error "$scratch/err" "$words" || return 1
    for _ in $(seq 50); do             # the launcher has sent them the signal, and the system takes its time
        ls -d $(echo "$pids" | sed 's|^|/proc/|') >"$scratch/left" 2>/dev/null || true
        [ -s "$scratch/left" ] || return 0
        sleep 0.1
    done
    for pid in $pids; do
        ! grep -q finemesh "/proc/$pid/comm" 2>/dev/null || { echo "process $pid is still there"; kill -9 "$pid"; return 1; }
    done
}

# slow: a rank that sleeps for less than the limit is waited for.
slow()
{
    dir=$scratch/slow-$starts
    begins 2 6 "$dir" || return 1
    pid=$(pid_of 1 "$dir")
    kill -STOP "$pid"
    sleep 3
    kill -CONT "$pid"
    lines=$(wc -l <"$dir/metrics.jsonl")
    sleep 5
    [ "$(wc -l <"$dir/metrics.jsonl")" -gt "$lines" ] || { echo "no more steps"; cat "$scratch/err"; kill $run_job; return 1; }
    kill "$(pid_of 0 "$dir")"
    wait $run_job
    status=$?
    cat "$scratch/err"
    [ $status -eq 3 ]
}

starts=launch
[ -d /proc/self ] || tap_skip_all "there is no /proc"
tap_check "rank 2 of 3 of data parallelism hangs" stopped 2 3 "rank 2 on .* does not come to [a-z-]* [0-9]* of the group [a-z]*, step [0-9]*: \
ranks 0 on .* and 1 on .* have waited for [34] s"
tap_check "rank 0 of 2 of tensor parallelism hangs" stopped 0 2 "rank 0 on .* does not come to [a-z-]* [0-9]* of the group [a-z]*, step [0-9]*: rank 1" \
    distributed.tp_size=2
tap_check "rank 1 of a pipeline of 2 hangs" stopped 1 2 "rank 1 on .* does not come to .* of the group [a-z]*, step [0-9]*: rank 0" \
    distributed.pp_size=2
tap_check "a slow rank is waited for" slow
if has_double; then
    starts=on_double
    tap_check "rank 1 of 2 over NCCL hangs" stopped 1 2 "rank 1 on .* does not come to [a-z-]* [0-9]* of the group [a-z]*, step [0-9]*: rank 0"
    tap_check "a slow rank over NCCL is waited for" slow
else
    tap_skip "a rank over NCCL hangs" "the CUDA module was not built over the doubles"
fi
tap_done
