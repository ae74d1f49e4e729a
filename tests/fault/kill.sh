#!/bin/sh
# kill -9 of one rank, or of all ranks and their launcher, at a random moment of a run; started again, it ends as the undisturbed run.
#
# FM_FAULT_ROUNDS rounds (8; make check-faults: 1,000), from the round FM_FAULT_FIRST (1) on; FM_FAULT_SEED chooses the kind of run, the
# moment as a part of the time that such a run takes (an estimate, mended by every round), and who is killed. A round: a run from nothing,
# killed; once more; its metrics compared bit for bit.
. "$srcdir/tests/lib.sh"
. "$srcdir/tests/fault/lib.sh"
cd "$source_dir" || exit 99
rounds=${FM_FAULT_ROUNDS:-8}
seed=${FM_FAULT_SEED:-1}
first=${FM_FAULT_FIRST:-1}

# The kinds of runs: ranks and overrides.
n_kinds=3
train()
{
    case $1 in
    0) launch 1 run $(job "$2" train.steps=6 checkpoint.export=no) ;;
    1) launch 2 run $(job "$2" train.steps=6 checkpoint.export=no) ;;
    2) launch 2 run $(job "$2" train.steps=6 checkpoint.export=no distributed.tp_size=2) ;;
    esac
}

# pids_of DIR: "rank PID" of the ranks of the run that writes there, "other PID" of its launcher.
pids_of()
{
    pgrep -f -- "job.output_dir=$1( |\$)" | while read -r pid; do
        case $(cat "/proc/$pid/comm" 2>/dev/null) in
        finemesh) echo "rank $pid" ;;
        timeout | mpiexec* | hydra*) echo "other $pid" ;;
        esac
    done
}

# random N: `drawn` is 0 .. N - 1, the next of the round.
random()
{
    state=$(((state * 1103515245 + 12345) % 2147483648))
    drawn=$((state / 65536 % $1))
}

# strike DIR: SIGKILL, to one rank or to everything.
strike()
{
    pids=$(pids_of "$1")
    random 2
    if [ "$drawn" -eq 0 ]; then
        random 2
        victims=$(echo "$pids" | awk '$1 == "rank" { print $2 }' | sed -n "$((drawn + 1))p;\$p" | head -n 1)
    else
        victims=$(echo "$pids" | awk '{ print $2 }')
    fi
    [ -z "$victims" ] || kill -9 $victims 2>/dev/null
}

# gone DIR: a rank that has lost its launcher may live a moment longer, and holds the directory.
gone()
{
    for _ in $(seq 200); do
        [ -n "$(pids_of "$1" | grep rank)" ] || return 0
        sleep 0.05
    done
    echo "ranks are still there"
    return 1
}

# one_round: 0: it was killed (killed=1) or had ended before (killed=0), and ended well.
one_round()
{
    state=$(((seed * 7919 + round * 104729) % 2147483648))
    random 1000
    random 1000
    part=$drawn
    random $n_kinds
    kind=$drawn dir=$scratch/round
    at_s=$(awk -v part="$part" -v ms="$(cat "$scratch/ms.$kind")" 'BEGIN { printf "%.3f", part * ms / 1e6 }')
    rm -rf "$dir"
    train $kind "$dir" >"$scratch/stdout" 2>&1 &
    job_pid=$!
    sleep "$at_s"
    strike "$dir"
    killed=1
    wait $job_pid && killed=0
    awk -v killed=$killed '{ printf "%.0f\n", $1 * (killed ? 1.02 : 0.9) }' "$scratch/ms.$kind" >"$scratch/ms.next"
    mv "$scratch/ms.next" "$scratch/ms.$kind"
    gone "$dir" && complete "$dir" || return 1
    train $kind "$dir" >"$scratch/stdout2" 2>&1 || { cat "$scratch/stdout2"; return 1; }
    ! grep "passed over" "$scratch/stdout2" || return 1
    cp "$scratch/numbers.$kind" "$scratch/numbers.a"
    equal "$dir"
}

command -v pgrep >/dev/null || tap_skip_all "there is no pgrep"
for kind in 0 1 2; do
    begin_s=$(date +%s%N)
    train $kind "$scratch/undisturbed-$kind" >"$scratch/stdout" 2>&1 || { cat "$scratch/stdout"; exit 99; }
    echo $((($(date +%s%N) - begin_s) / 1000000)) >"$scratch/ms.$kind"
    numbers "$scratch/undisturbed-$kind" >"$scratch/numbers.$kind"
done
well=0 hits=0
for round in $(seq "$first" $((first + rounds - 1))); do
    if one_round >"$scratch/trouble" 2>&1; then
        well=$((well + 1))
        hits=$((hits + killed))
    else
        echo "# round $round, of kind $kind, killed after $at_s s:"
        head -n 20 "$scratch/trouble" | sed 's/^/#    /'
    fi
    [ $((round % 50)) -ne 0 ] || echo "# $((round - first + 1)) rounds: $well well, $hits of them killed"
done
summary="seed $seed: $well of $rounds rounds ended as the undisturbed run, $hits killed, $((rounds - hits)) over before"
if [ $well -eq "$rounds" ]; then tap_ok "$summary"; else tap_not_ok "$summary"; fi
tap_done
