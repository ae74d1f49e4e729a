#!/bin/sh
# A failure in the middle of a run takes all ranks out within 30 s, and is told once: by the rank that failed, or by one rank where all
# agreed on it.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99
FM_TEST_SECONDS=30
starts=run_ranks

# fails NAME WORDS OVERRIDES: exit status 2 and one error that holds WORDS, after the first step has begun.
fails()
{
    fails_out=$scratch/$1 words=$2
    shift 2
    $starts 2 "$build_dir/finemesh" run inputs/quickstart.ini "job.output_dir=$fails_out" job.overwrite=yes checkpoint.resume=no \
        "$@" >"$scratch/stdout" 2>"$scratch/stderr"
    status=$?
    cat "$scratch/stderr"
    [ $status -eq 2 ] || { echo "exit status $status, 2 expected"; return 1; }
    [ "$(grep -c '^finemesh: error: ' "$scratch/stderr")" -eq 1 ] || { echo "one error expected"; return 1; }
    grep -q -e "^finemesh: error: $words" "$scratch/stderr" || { echo "the error does not hold: $words"; return 1; }
    grep -q 'label tokens' "$scratch/stdout" || { echo "the run had not begun"; return 1; }
}

if [ -w /dev/full ]; then
    mkdir -p "$scratch/full"
    ln -s /dev/full "$scratch/full/metrics.jsonl"
    tap_check "rank 0 cannot write while rank 1 goes on" fails full "rank 0: .*metrics.jsonl" distributed.dp_size=2
else
    tap_skip "rank 0 cannot write while rank 1 goes on" "there is no /dev/full"
fi

mkdir -p "$scratch/taken/rank-00001.h5/x"
tap_check "what all ranks agreed on is told once" fails agreed "$scratch/taken" distributed.tp_size=2 "log.gradients=$scratch/taken"

# A rank that is killed from outside: the launcher ends the others.
killed()
{
    timeout 60 "$MPIEXEC" -n 2 "$build_dir/finemesh" run inputs/quickstart.ini "job.output_dir=$scratch/killed" train.steps=100000 \
        </dev/null >"$scratch/stdout" 2>"$scratch/stderr" &
    launcher=$!
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -s "$scratch/killed/metrics.jsonl" ] && break
        sleep 0.5
    done
    victims=$(grep -lsa "$scratch/killed" /proc/[0-9]*/cmdline | sed 's|/proc/\([0-9]*\)/.*|\1|' | while read -r pid; do
        [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != finemesh ] || echo "$pid"
    done | sort -n)
    kill -9 "$(echo "$victims" | tail -1)" || return 1
    begin=$(date +%s)
    wait $launcher && { echo "exit status 0"; return 1; }
    [ $(($(date +%s) - begin)) -lt 30 ] || { echo "it took 30 s"; return 1; }
    for pid in $victims; do
        [ ! -d "/proc/$pid" ] || { echo "$pid still runs"; return 1; }
    done
}
tap_check "a killed rank takes all out" killed

# On doubles of GPUs the 100th operation of NCCL on one rank never ends and has an error. The rank whose error it was speaks, not one that
# noticed: told by NCCL (between machines), or not.
on_double()
{
    on_double_ranks=$1 on_double_program=$2
    shift 2
    run_double "$on_double_ranks" late "$on_double_program" "$@" device.type=cuda
}
nccl_fails()
{
    (
        export FM_DOUBLE_FAIL=operation@100=3 FM_DOUBLE_RANK="$2" FM_DOUBLE_SILENT="$3"
        fails "$1" "NCCL: the [a-z-]* in the group [a-z]*, rank $2 of 2 (ranks 0, 1 of the run): internal error" "$4"
    )
}
if has_double; then
    starts=on_double
    tap_check "NCCL fails on rank 1" nccl_fails nccl1 1 0 distributed.dp_size=2
    tap_check "NCCL fails on rank 1, and rank 0 is not told" nccl_fails silent1 1 1 distributed.dp_size=2
    tap_check "NCCL fails on rank 0, and rank 1 is not told" nccl_fails silent0 0 1 distributed.tp_size=2
else
    tap_skip "NCCL fails" "the CUDA module was not built over the doubles"
fi
tap_done
