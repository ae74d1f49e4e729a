#!/bin/sh
# `finemesh reshard`: shard sets and checkpoints from one mesh to another and back are the same bits, laid out as that mesh writes
# them, on any number of ranks; a run goes on from the result as from the original.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99
finemesh=$build_dir/finemesh

convert() { timeout 60 "$finemesh" convert inputs/quickstart.ini job.output_dir="$scratch/$1" $2; }

# train RANKS DIR MORE...: 8 steps, a checkpoint every 4, into $scratch/DIR.
train()
{
    train_ranks=$1 train_dir=$2
    shift 2
    run_ranks "$train_ranks" "$finemesh" run inputs/quickstart.ini job.output_dir="$scratch/$train_dir" train.steps=8 schedule.warmup_steps=4 \
        checkpoint.every=4 checkpoint.export=no device.threads=1 "$@" >"$scratch/$train_dir.out" 2>&1 || { cat "$scratch/$train_dir.out"; return 1; }
}

# reshard RANKS FROM TO OPTIONS...: in $scratch.
reshard()
{
    reshard_ranks=$1 reshard_from=$scratch/$2 reshard_to=$scratch/$3
    shift 3
    run_ranks "$reshard_ranks" "$finemesh" reshard "$reshard_from" "$@" -o "$reshard_to"
}

same_bits() { timeout 60 "$finemesh" inspect --diff "$scratch/$1" "$scratch/$2" && timeout 60 "$finemesh" verify "$scratch/$2"; }

# same_layout A B: the same files with the same slices of the same tensors.
layout() { (cd "$scratch/$1" && for file in rank-*.h5; do timeout 60 "$finemesh" inspect "$file"; done); }
same_layout()
{
    layout "$1" >"$scratch/layout.a"
    layout "$2" >"$scratch/layout.b"
    diff "$scratch/layout.a" "$scratch/layout.b" && [ -s "$scratch/layout.a" ]
}

# refuses TEXT ARGUMENTS...: exit status 1 and the text.
refuses()
{
    refused_text=$1
    shift
    timeout 60 "$finemesh" reshard "$@" >"$scratch/refused" 2>&1
    refused_status=$?
    cat "$scratch/refused"
    [ $refused_status -eq 1 ] && grep -q -e "finemesh: error: .*$refused_text" "$scratch/refused"
}

# Sets of weights: odd meshes one after the other; tp that divides neither heads nor columns, stages of unequal length.
tap_check "a set of one rank" convert one
tap_check "a set of tp 5" convert tp5 distributed.tp_size=5
names_mesh()
{
    convert "$@" >"$scratch/mesh.out"
    cat "$scratch/mesh.out"
    grep -q "tp5/shards is up to date, made for the mesh .* tp 5$mesh_end" "$scratch/mesh.out"
}
mesh_end='$'
tap_check "converting again names the set's mesh" names_mesh tp5 distributed.tp_size=5
mesh_end='; any mesh reads it$'
tap_check "and says so where it is not the job's" names_mesh tp5 distributed.tp_size=2
tap_check "1 -> tp 5 on 1 rank" reshard 1 one/shards a --tp-size 5
tap_check "the same bits" same_bits one/shards a
tap_check "laid out as convert does it" same_layout tp5/shards a
tap_check "tp 5 -> dp 3 tp 2 on 2 ranks" reshard 2 a b --tp-size 2 --dp-size 3
tap_check "-> pp 3 cp 2 on 3 ranks" reshard 3 b c --pp-size 3 --cp-size 2
tap_check "-> dp 4 with 2 replicas on 4 ranks, each its own" reshard 4 c d --dp-size 4 --dp-replicate-size 2
tap_check "-> tp 4 on 4 ranks, each its own" reshard 4 d e --tp-size 4
tap_check "-> 1 on 3 ranks" reshard 3 e f
tap_check "the same bits at the end" same_bits one/shards f
tap_check "the set of one rank" same_layout one/shards f

# Checkpoints.
tap_check "a run" train 2 two
tap_check "its checkpoint -> tp 4 on 3 ranks" reshard 3 two/checkpoints/step-000004 g --tp-size 4
tap_check "weights and moments are the same bits" same_bits two/checkpoints/step-000004 g
tap_check "-> pp 2 dp 3 on 4 ranks" reshard 4 g h --pp-size 2 --dp-size 3
tap_check "-> dp 2 on 1 rank" reshard 1 h back --dp-size 2
tap_check "the same bits at the end" same_bits two/checkpoints/step-000004 back
tap_check "laid out as the run wrote it" same_layout two/checkpoints/step-000004 back
state() { sed -n '/"checkpoint"/,$p' "$scratch/$1/manifest.json" | sed '/"crc32"/d'; }
same_state() { state "$1" >"$scratch/state.a"; state "$2" >"$scratch/state.b"; diff "$scratch/state.a" "$scratch/state.b" && [ -s "$scratch/state.a" ]; }
tap_check "the state came along" same_state two/checkpoints/step-000004 back
tap_check "and a job of the new mesh" sh -c 'grep -q "^tp_size = 4" "$0/g/job.ini" && grep -q "^dp_size = 3" "$0/h/job.ini"' "$scratch"
tap_check "masters too" train 1 halves model.dtype=bfloat16
tap_check "-> tp 3 on 2 ranks" reshard 2 halves/checkpoints/step-000008 i --tp-size 3 --dp-size 2
tap_check "the same bits" same_bits halves/checkpoints/step-000008 i
tap_check "masters are there" sh -c 'timeout 60 "$0" inspect "$1" | grep -q "^master/"' "$finemesh" "$scratch/i"

# A run that goes on from the result is the run that goes on from the original.
cut_back() { mkdir "$scratch/$1" && cp "$scratch/two/metrics.jsonl" "$scratch/$1/"; }
numbers() { sed -E 's/"(tokens_per_s|step_ms)": [^,}]*//g' "$scratch/$1/metrics.jsonl"; }
same_run()
{
    numbers "$1" >"$scratch/numbers.a"
    numbers "$2" >"$scratch/numbers.b"
    diff "$scratch/numbers.a" "$scratch/numbers.b" && [ "$(wc -l <"$scratch/numbers.a")" -eq 9 ] &&
        same_bits "$1/checkpoints/step-000008" "$2/checkpoints/step-000008"
}
cut_back from-original
cut_back from-new
cut_back from-two
tap_check "on from the original on tp 4" train 4 from-original checkpoint.resume="$scratch/two/checkpoints/step-000004" distributed.tp_size=4
tap_check "on from the result on tp 4" train 4 from-new checkpoint.resume="$scratch/g" distributed.tp_size=4
tap_check "the same run" same_run from-original from-new
tap_check "on from there and back on 2" train 2 from-two checkpoint.resume="$scratch/back"
tap_check "the undisturbed run" same_run two from-two
tap_check "a result in a run's folder is a checkpoint of it" sh -c '
    mkdir -p "$1/adopted/checkpoints" && timeout 60 "$0" reshard "$1/two/checkpoints/step-000008" --tp-size 2 -o "$1/adopted/checkpoints/step-000008" &&
    timeout 60 "$0" export inputs/quickstart.ini job.output_dir="$1/adopted" &&
    timeout 60 "$0" export inputs/quickstart.ini job.output_dir="$1/two" &&
    cmp "$1/adopted/hf/model.safetensors" "$1/two/hf/model.safetensors"' "$finemesh" "$scratch"

# What is refused, before anything is written.
tap_check "a target that is there" refuses "it is there already" "$scratch/g" --tp-size 2 -o "$scratch/h"
tap_check "the source itself" refuses "is the set that would be read" "$scratch/g" --tp-size 2 -o "$scratch/h/../g"
tap_check "a target in the source" refuses "must stay as it is" "$scratch/g" --tp-size 2 -o "$scratch/g/new/"
tap_check "more tp ranks than heads" refuses "6 query heads" "$scratch/g" --tp-size 7 -o "$scratch/new"
tap_check "more stages than layers" refuses "4 layers" "$scratch/g" --pp-size 5 -o "$scratch/new"
tap_check "replicas that do not divide" refuses "dp_replicate_size" "$scratch/g" --dp-size 3 --dp-replicate-size 2 -o "$scratch/new"
tap_check "no shard set" refuses "no shard set and no checkpoint" inputs/tiny-llama --tp-size 2 -o "$scratch/new"
tap_check "another model" refuses "describes another model" "$scratch/g" --tp-size 2 --model-name tests/mesh/models/wide -o "$scratch/new"
tap_check "no -o" refuses "-o DIR was expected" "$scratch/g" --tp-size 2
tap_check "an unknown option" refuses "no option --tp" "$scratch/g" --tp 2 -o "$scratch/new"
byte=$(od -An -tu1 -j 600000 -N1 "$scratch/h/rank-00001.h5")
printf "\\$(printf %o $((byte ^ 4)))" | dd of="$scratch/h/rank-00001.h5" bs=1 seek=600000 conv=notrunc 2>/dev/null
tap_check "a damaged source, file and tensor named" refuses "rank-00001.h5: .*damaged, in tensor" "$scratch/h" --tp-size 2 -o "$scratch/new"
tap_check "nothing was left" sh -c '[ ! -e "$0/new" ] && [ ! -e "$0/new.tmp" ] && [ ! -e "$0/g/new" ]' "$scratch"
tap_done
