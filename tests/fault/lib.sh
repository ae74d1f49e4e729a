# What the fault tests share, after tests/lib.sh: a short job, what must hold after a failure, and the loop over all calls.
finemesh=$build_dir/finemesh
fault_shim=$build_dir/tests/fault/.libs/fault_shim.so
export LC_ALL=C

# job DIR MORE...: the arguments of a run of 4 steps, a checkpoint and a validation every 2.
job()
{
    job_dir=$1
    shift
    set -- inputs/quickstart.ini job.output_dir="$job_dir" train.steps=4 schedule.warmup_steps=2 data.seq_length=32 batch.local_batch_size=4 \
        batch.global_batch_size=8 checkpoint.every=2 validation.every=2 device.threads=1 "$@"
    printf '%s\n' "$@"
}

# launch RANKS ARGUMENTS...: finemesh under the launcher, or alone where one rank is asked for; with the shim where FAULT_LOG is set. Ranks
# yield while they wait, whatever the cores: these tests are about ends, not about speed, and may share the machine.
launch()
{
    launch_ranks=$1
    shift
    preload=${FAULT_LOG:+$fault_shim}
    [ "$launch_ranks" -eq 1 ] || preload="$preload${preload:+:}$build_dir/tests/mesh/.libs/yield_shim.so"
    if [ "$launch_ranks" -eq 1 ]; then
        timeout -k 5 "$FM_TEST_SECONDS" env ${preload:+"LD_PRELOAD=$preload"} "$finemesh" "$@" </dev/null
    else
        timeout -k 5 "$FM_TEST_SECONDS" "$MPIEXEC" -n "$launch_ranks" ${preload:+-genv LD_PRELOAD "$preload"} "$finemesh" "$@" </dev/null
    fi
}

# What of a run's metrics is not a time.
numbers() { sed -E 's/"(tokens_per_s|step_ms|memory_bytes)": [^,}]*//g' "$1/metrics.jsonl"; }

# complete DIR: every checkpoint that has a name is intact.
complete()
{
    for step in "$1"/checkpoints/step-*[0-9]; do
        [ -e "$step" ] || continue
        timeout 60 "$finemesh" verify "$step" >"$scratch/verified" 2>&1 || { echo "incomplete: $step"; cat "$scratch/verified"; return 1; }
    done
}

# equal DIR: the run ended as the undisturbed one, $scratch/undisturbed, and left nothing half done.
equal()
{
    numbers "$1" >"$scratch/numbers.b"
    cmp -s "$scratch/numbers.a" "$scratch/numbers.b" || { echo "other metrics:"; diff "$scratch/numbers.a" "$scratch/numbers.b"; return 1; }
    [ -e "$1/complete.json" ] || { echo "not complete"; return 1; }
    left=$(find "$1" -name '*.tmp*')
    [ -z "$left" ] || { echo "left behind: $left"; return 1; }
}

# one_error FILE WORDS: a single message that holds the words.
one_error()
{
    [ "$(grep -c '^finemesh: error: ' "$1")" -eq 1 ] || { echo "one error was expected:"; cat "$1"; return 1; }
    grep '^finemesh: error: ' "$1" | grep -q -e "$2" || { echo "the error does not hold $2:"; cat "$1"; return 1; }
}
