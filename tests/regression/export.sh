#!/bin/sh
# HF directories of checkpoints: beside each one while training goes on, of any of them by hand, also while the run holds its lock.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99
finemesh=$build_dir/finemesh

# train RANKS DIR MORE...: 16 steps, a checkpoint every 4, into $scratch/DIR; its output in $scratch/DIR.out.
train()
{
    train_ranks=$1 train_dir=$2
    shift 2
    run_ranks "$train_ranks" "$finemesh" run inputs/quickstart.ini job.output_dir="$scratch/$train_dir" train.steps=16 schedule.warmup_steps=4 \
        checkpoint.every=4 checkpoint.export=every device.threads=1 "$@" >"$scratch/$train_dir.out" 2>&1 || { cat "$scratch/$train_dir.out"; return 1; }
}

numbers() { sed -E 's/"(tokens_per_s|step_ms)": [^,}]*//g' "$scratch/$1/metrics.jsonl"; }
same_numbers()
{
    numbers "$1" >"$scratch/numbers.a"
    numbers "$2" >"$scratch/numbers.b"
    diff "$scratch/numbers.a" "$scratch/numbers.b" && [ "$(wc -l <"$scratch/numbers.a")" -eq 17 ]
}

# same_model A B: the same files.
same_model() { diff -r "$scratch/$1" "$scratch/$2" && [ -s "$scratch/$1/model.safetensors" ] && [ -s "$scratch/$1/tokenizer.json" ]; }

# by_hand FROM OUT: in $scratch, on 2 ranks.
by_hand() { run_ranks 2 "$finemesh" export "$scratch/$1" -o "$scratch/$2"; }

tap_check "exports while training goes on" train 2 every checkpoint.keep=9 distributed.tp_size=2
tap_check "without them" train 2 none checkpoint.export=no distributed.tp_size=2
tap_check "they change no number" same_numbers every none
for step in 04 08 12 16; do
    tap_check "the checkpoint of step $step by hand" by_hand "every/checkpoints/step-0000$step" "hand-$step"
    tap_check "is what the run made of it" same_model "hand-$step" "every/checkpoints/step-0000$step-hf"
done
tap_check "steps differ" sh -c '! cmp "$0/hand-12/model.safetensors" "$0/hand-16/model.safetensors"' "$scratch"
tap_check "the last is the run's result" same_model hand-16 every/hf
tap_check "nothing else was left" sh -c 'ls -A "$0/every/checkpoints" | tee /dev/stderr | wc -l | grep -qx 10' "$scratch"

tap_check "checkpoints at each step, one kept" train 1 often checkpoint.every=1 checkpoint.keep=1 model.dtype=bfloat16
tap_check "all 16 are exported" sh -c 'ls -d "$0"/often/checkpoints/step-*-hf | wc -l | grep -qx 16' "$scratch"
tap_check "the best checkpoint, by its link" by_hand often/checkpoints/best hand-best
tap_check "is a model" test -s "$scratch/hand-best/model.safetensors"

# The default place: beside the checkpoint, or RUN/hf.
rm -rf "$scratch/every/hf" "$scratch/every/checkpoints/step-000016-hf"
tap_check "beside it" sh -c '"$0" export "$1/every/checkpoints/latest" && diff -r "$1/every/checkpoints/step-000016-hf" "$1/hand-16"' "$finemesh" "$scratch"
tap_check "of the job" sh -c '"$0" export "$1/every/job.ini" && diff -r "$1/every/hf" "$1/hand-16"' "$finemesh" "$scratch"

# What is in the way is not touched; a damaged checkpoint is named.
refuses()
{
    refused_text=$1
    shift
    timeout 60 "$finemesh" export "$@" >"$scratch/refused" 2>&1
    refused_status=$?
    cat "$scratch/refused"
    [ $refused_status -eq 1 ] && grep -q -e "finemesh: error: .*$refused_text" "$scratch/refused"
}
tap_check "checkpoint.resume does not choose what is exported" refuses 'name it instead of the job' "$scratch/every/job.ini" \
    checkpoint.resume=somewhere
tap_check "onto a checkpoint" refuses "it is there already and is not of the kind" "$scratch/every/job.ini" -o "$scratch/every/checkpoints/step-000004"
tap_check "the checkpoint is as it was" timeout 60 "$finemesh" verify "$scratch/every/checkpoints/step-000004"
tap_check "a set without a job" refuses "no job.ini" "$scratch/every/shards" -o "$scratch/new"
tap_check "no set" refuses "no manifest.json" inputs/tiny-llama -o "$scratch/new"
tap_check "no directory" refuses "expected after -o" "$scratch/every/job.ini" -o
printf x | dd of="$scratch/every/checkpoints/step-000004/rank-00001.h5" bs=1 seek=600000 conv=notrunc 2>/dev/null
tap_check "a damaged checkpoint" refuses "rank-00001.h5: .*damaged" "$scratch/every/checkpoints/step-000004" -o "$scratch/new"
tap_check "nothing was left" sh -c '[ ! -e "$0/new" ] && [ ! -e "$0/new.tmp" ]' "$scratch"

# While a run goes on; what a killed one left half done is removed by the next.
during()
{
    train 1 busy train.steps=100000 checkpoint.every=20 checkpoint.export=no &
    during_job=$!
    until [ -e "$scratch/busy/checkpoints/latest" ]; do sleep 0.05; done
    by_hand busy/job.ini hand-busy
    during_status=$?
    kill -KILL "$(sed 's/process \([0-9]*\) .*/\1/' "$scratch/busy/.lock")"
    wait $during_job
    [ $during_status -eq 0 ] && [ -s "$scratch/hand-busy/model.safetensors" ]
}
tap_check "an export while the run writes" during
mkdir "$scratch/busy/checkpoints/step-000020-hf.tmp"
goes_on() { train 1 busy train.steps=100000 checkpoint.every=20 job.max_time=1; grep -q "goes on from it" "$scratch/busy.out"; }
tap_check "the next start, stopped by its time" goes_on
tap_check "removes what was half done" sh -c '[ ! -e "$0/busy/checkpoints/step-000020-hf.tmp" ]' "$scratch"
tap_check "leaves no export half done itself" sh -c '! ls -d "$0"/busy/checkpoints/*.tmp' "$scratch"
tap_done
