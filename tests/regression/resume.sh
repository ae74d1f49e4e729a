#!/bin/sh
# A run that is killed, stopped, damaged or moved to another mesh ends where the undisturbed run ends.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99
finemesh=$build_dir/finemesh

# train RANKS DIR MORE...: 16 steps, a checkpoint every 4, into $scratch/DIR; its output in $scratch/DIR.out.
train()
{
    train_ranks=$1 train_dir=$2
    shift 2
    run_ranks "$train_ranks" "$finemesh" run inputs/quickstart.ini job.output_dir="$scratch/$train_dir" train.steps=16 schedule.warmup_steps=4 \
        checkpoint.every=4 validation.every=8 checkpoint.export=no device.threads=1 "$@" >"$scratch/$train_dir.out" 2>&1
}

# What is not a time.
numbers() { sed -E 's/"(tokens_per_s|step_ms)": [^,}]*//g' "$scratch/$1/metrics.jsonl"; }

# same DIR DIR: bitwise the same metrics, and the same weights and moments in the last checkpoint.
same()
{
    numbers "$1" >"$scratch/numbers.a"
    numbers "$2" >"$scratch/numbers.b"
    diff "$scratch/numbers.a" "$scratch/numbers.b" || return 1
    [ "$(wc -l <"$scratch/numbers.a")" -eq 18 ] || { echo "not 16 steps and 2 validations"; return 1; }
    timeout 60 "$finemesh" inspect --diff "$scratch/$1/checkpoints/step-000016" "$scratch/$2/checkpoints/latest"
}

# close DIR DIR: the same losses within 1e-6.
close()
{
    numbers "$1" >"$scratch/numbers.a"
    numbers "$2" >"$scratch/numbers.b"
    paste -d '\n' "$scratch/numbers.a" "$scratch/numbers.b" | awk '
        match($0, /loss": [^,}]*/) {
            loss = substr($0, RSTART + 7, RLENGTH - 7)
            if (NR % 2) { first = loss; next }
            d = (loss - first) / first
            lines++
            if (d > 1e-6 || d < -1e-6) { print first, loss; bad++ }
        }
        END { exit bad || lines != 18 }'
}

# written_before LINES DIR: what is killed beyond step 4 has left its checkpoint, which is written in the background.
written_before() { [ "$1" -le 5 ] || [ "${kill_signal:-KILL}" != KILL ] || [ -e "$scratch/$2/checkpoints/latest" ]; }

# killed_at LINES RANKS DIR MORE...: kill -9 of rank 0 (whose number the lock has) when so many lines of metrics are there.
killed_at()
{
    kill_lines=$1 kill_dir=$3
    shift
    mkdir -p "$scratch/$kill_dir"
    : >"$scratch/$kill_dir/metrics.jsonl"
    train "$@" &
    kill_job=$!
    waited=0
    while { [ "$(wc -l <"$scratch/$kill_dir/metrics.jsonl")" -lt "$kill_lines" ] || ! written_before "$kill_lines" "$kill_dir"; } &&
        [ $waited -lt 600 ]; do
        sleep 0.05
        waited=$((waited + 1))
    done
    kill -"${kill_signal:-KILL}" "$(sed 's/process \([0-9]*\) .*/\1/' "$scratch/$kill_dir/.lock")"
    wait $kill_job
}

fails_when_killed() { if killed_at "$@"; then echo "it was to be killed"; return 1; fi; }

stops()
{
    kill_signal=$1
    shift
    killed_at "$@"
    stop_status=$?
    kill_signal=KILL
    cat "$scratch/$3.out"
    [ $stop_status -eq 3 ] && grep -q "is complete, the same command goes on" "$scratch/$3.out"
}

# says DIR TEXT: the output of the last start.
says() { grep -F "$2" "$scratch/$1.out" || { cat "$scratch/$1.out"; return 1; }; }

# flip FILE BYTE
flip()
{
    byte=$(od -An -tu1 -j "$2" -N1 "$1")
    printf "\\$(printf %o $((byte ^ 4)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

for ranks in 1 2; do
    tap_check "undisturbed on $ranks" train $ranks whole$ranks
    tap_check "killed on $ranks" fails_when_killed 6 $ranks killed$ranks
    tap_check "goes on" train $ranks killed$ranks
    tap_check "from a checkpoint" says killed$ranks "# resume: after step 4 of 16"
    tap_check "ends as the undisturbed run" same whole$ranks killed$ranks
done

tap_check "no background, no other numbers" train 2 every-step checkpoint.every=1
tap_check "only the newest two and the best stay" sh -c "cd '$scratch/every-step/checkpoints' &&
    [ \"\$(echo step-*)\" = 'step-000015 step-000016' ] && [ \"\$(readlink latest) \$(readlink best)\" = 'step-000016 step-000016' ]"
tap_check "checkpoints change no number" same whole2 every-step

tap_check "SIGTERM to one rank of 2" stops TERM 6 2 stopped
tap_check "goes on" train 2 stopped
tap_check "ends as the undisturbed run" same whole2 stopped
tap_check "a complete run says so" train 2 stopped
tap_check "and does nothing" says stopped "the run is complete"

tap_check "SIGUSR1 without checkpoint.every" stops USR1 6 1 asked checkpoint.every=0
tap_check "goes on" train 1 asked
tap_check "ends as the undisturbed run" same whole1 asked
tap_check "little time is left" sh -c '"$@"; [ $? -eq 3 ]' sh timeout 60 "$finemesh" run inputs/quickstart.ini \
    job.output_dir="$scratch/late" train.steps=100000 device.threads=1 job.max_time=5 checkpoint.export=no

# Validations take most of the time here: where the next one would not fit, the run stops before the step that it belongs to.
late_validation()
{
    for _ in 1 2 3 4 5 6 7 8 9 10; do cat inputs/instruct-valid.jsonl; done >"$scratch/long.jsonl"
    train 1 validated train.steps=100000 validation.every=4 data.validation="$scratch/long.jsonl" checkpoint.every=0 job.max_time=8
    late_status=$?
    tail -n 3 "$scratch/validated.out"
    last=$(sed -n 's/^# stopped after step \([0-9]*\) by the time limit.*/\1/p' "$scratch/validated.out")
    [ $late_status -eq 3 ] && [ $((last % 4)) -eq 3 ]
}
tap_check "little time is left for a validation" late_validation

# A request that comes with the last step: there is a checkpoint before the export, which may take longer than is left.
asked_at_the_end()
{
    end_starts=0
    while [ ! -f "$scratch/end/complete.json" ] && [ $end_starts -lt 12 ]; do
        train 1 end checkpoint.every=0 train.steps=6 job.max_time=1
        end_starts=$((end_starts + 1))
    done
    cat "$scratch/end.out"
    [ -f "$scratch/end/complete.json" ] && [ -f "$scratch/end/checkpoints/step-000006/manifest.json" ]
}
tap_check "so little time that each start makes one step: the last one leaves a checkpoint" asked_at_the_end

cp -r "$scratch/killed2" "$scratch/damaged"
# newest DIR: the run as if it had been killed before its last steps.
forget_end() { rm -rf "$scratch/$1/checkpoints/step-000016" "$scratch/$1/complete.json"; }
forget_end damaged
tap_check "another mesh: 2 ranks of dp, then 4 of tp" train 4 damaged distributed.tp_size=4
tap_check "within 1e-6" close whole2 damaged

rm -rf "$scratch/damaged"
cp -r "$scratch/killed2" "$scratch/damaged"
rm "$scratch/damaged/complete.json"
flip "$scratch/damaged/checkpoints/step-000016/rank-00001.h5" 1500000
tap_check "a flipped bit in the newest checkpoint" train 2 damaged
tap_check "the tensor is named" says damaged "step-000016/rank-00001.h5: its CRC is not the one that was written: the file is damaged, in tensor"
tap_check "the one before is used" says damaged "# resume: after step 12 of 16"
tap_check "ends as the undisturbed run" same whole2 damaged

# Folders that only have a checkpoint's name: without a manifest, or of another step.
rm -rf "$scratch/damaged"
cp -r "$scratch/killed2" "$scratch/damaged"
rm "$scratch/damaged/complete.json" "$scratch/damaged/checkpoints/step-000016/manifest.json"
cp -r "$scratch/damaged/checkpoints/step-000012" "$scratch/damaged/checkpoints/step-000014"
tap_check "a checkpoint without its manifest, one that holds another step" train 2 damaged checkpoint.keep=9
tap_check "the step is named" says damaged "step-000014: it holds step 12"
tap_check "the one before them is used" says damaged "# resume: after step 12 of 16"
tap_check "they are out of the way" says damaged "2 checkpoints of later steps moved to"
tap_check "ends as the undisturbed run, too" same whole2 damaged

# The loss scale of float16 and what was validated last are parts of the state; here a step was skipped before the checkpoint.
state() { sed -n '/"checkpoint"/,$p' "$scratch/$1/manifest.json" | sed -E '/"(crc32|seconds)"/d'; }
same_state()
{
    state "$1/checkpoints/step-000016" >"$scratch/state.a"
    state "$2/checkpoints/step-000016" >"$scratch/state.b"
    cat "$scratch/state.a"
    diff "$scratch/state.a" "$scratch/state.b" && grep -q "$3" "$scratch/state.a"
}
tap_check "float16" train 1 half model.dtype=float16 optimizer.lr=5e-2
cp -r "$scratch/half" "$scratch/half-again"
forget_end half-again
tap_check "goes on" train 1 half-again model.dtype=float16 optimizer.lr=5e-2
tap_check "from a checkpoint" says half-again "# resume: after step 12 of 16"
tap_check "ends as the undisturbed run" same half half-again
tap_check "with its loss scale and its skipped step" same_state half half-again '"skipped": 1'

# best: by the last validation at or before each checkpoint; of equals the earliest.
validated()
{
    for step in 4 8 12 16; do
        sed -n 's/ *"val_step": *\([0-9]*\).*/\1/p' "$scratch/apart/checkpoints/step-$(printf %06d $step)/manifest.json"
    done | tr '\n' ' '
}
tap_check "validation every 3 steps" train 1 apart validation.every=3 checkpoint.keep=9
tap_check "each checkpoint has the last one's loss" sh -c 'echo "$0"; [ "$0" = "3 6 12 16 " ]' "$(validated)"
rm -rf "$scratch/apart/complete.json" "$scratch/apart/checkpoints/step-000012" "$scratch/apart/checkpoints/step-000016"
tap_check "from step 8 on every 15 steps" train 1 apart validation.every=15 checkpoint.keep=9
tap_check "the loss of step 6 is still the last one after step 12" sh -c 'echo "$0"; [ "$0" = "3 6 6 16 " ]' "$(validated)"
best_of() { tap_best=$(readlink "$scratch/$1/checkpoints/best"); echo "$tap_best"; [ "$tap_best" = "$2" ]; }
tap_check "validation every 8 steps" train 1 seldom validation.every=8 checkpoint.every=2 optimizer.lr=0
tap_check "the earliest of equals is the best" best_of seldom step-000008

rm "$scratch/damaged/complete.json"
forget_end damaged
tap_check "other batches are refused" sh -c '"$@"; [ $? -eq 1 ]' sh timeout 60 "$finemesh" run "$scratch/damaged/job.ini" \
    batch.global_batch_size=8 job.seed=7
checkpoints_of() { (cd "$scratch/$1/checkpoints" && ls -d step-*); }
checkpoints_of damaged >"$scratch/before_refusal"
refused_to_keep_one() { timeout 60 "$finemesh" run "$scratch/damaged/job.ini" train.steps=5 checkpoint.keep=1 >/dev/null 2>&1; [ $? -eq 1 ]; }
all_are_there() { checkpoints_of damaged | cmp - "$scratch/before_refusal"; }
tap_check "fewer steps than there were are refused" refused_to_keep_one
tap_check "and no checkpoint is touched" all_are_there
refused() { timeout 60 "$finemesh" run "$scratch/damaged/job.ini" batch.global_batch_size=8 job.seed=7 2>&1 | grep -F "$1"; }
tap_check "with what has changed" refused 'batch.global_batch_size was "16"'
tap_check "all of it" refused 'job.seed was "42"'
tap_check "and the way out" refused "checkpoint.allow_changes=yes"
tap_check "which is one" train 1 damaged batch.global_batch_size=8 job.seed=7 checkpoint.allow_changes=yes

# The export of the last checkpoint is that of the end; a bfloat16 run's is that of its masters.
exported()
{
    export_dir=$scratch/$1
    train 2 "$@" checkpoint.export=final && mv "$export_dir/hf" "$export_dir/hf-end" &&
        timeout 60 "$finemesh" export "$export_dir/job.ini" &&
        cmp "$export_dir/hf/model.safetensors" "$export_dir/hf-end/model.safetensors"
}
tap_check "export of the newest checkpoint" exported export32
tap_check "export of masters" exported export16 model.dtype=bfloat16
tap_check "a checkpoint is verified" timeout 60 "$finemesh" verify "$scratch/export16/checkpoints/best"
flip "$scratch/export16/checkpoints/step-000016/rank-00000.h5" 900000
tap_check "a damaged one is named" sh -c '"$@" 2>&1 | grep "is damaged"' sh timeout 60 "$finemesh" verify \
    "$scratch/export16/checkpoints/step-000016"

# Two runs on one directory.
second()
{
    train 1 busy train.steps=100000 &
    first_job=$!
    until [ -s "$scratch/busy/metrics.jsonl" ]; do sleep 0.05; done
    timeout 60 "$finemesh" run inputs/quickstart.ini job.output_dir="$scratch/busy" >"$scratch/second.out" 2>&1
    second_status=$?
    kill "$(sed 's/process \([0-9]*\) .*/\1/' "$scratch/busy/.lock")"
    wait $first_job
    cat "$scratch/second.out"
    [ $second_status -eq 1 ] && grep -q "another run (process" "$scratch/second.out"
}
tap_check "a second run on the same directory is refused" second

# Slurm gave tasks and MPI saw none of them.
singleton() { env -u PMI_SIZE SLURM_NTASKS=4 "$finemesh" run inputs/quickstart.ini job.output_dir="$scratch/alone" 2>&1 | grep "mpi=pmi2"; }
tap_check "one of several Slurm tasks that believes that it is alone" singleton
tap_done
