#!/bin/sh
# Whole models against what transformers said of them (README.md here): loss, norm and every gradient of one step on several
# meshes, and the losses of 100 steps. FM_TEST_ROWS, a shell pattern, chooses rows by name.
. "$srcdir/tests/lib.sh"
data=$source_dir/tests/oracle/data

# job FILE KEY=VALUE...: a job file out of section.key=value words.
job()
{
    job_file=$1
    shift
    for setting in "$@"; do
        key=${setting%%=*}
        printf '[%s]\n%s = %s\n' "${key%%.*}" "${key#*.}" "${setting#*=}"
    done >"$job_file"
}

# against WHAT MODEL RANKS SETTINGS...: runs the job and holds it against the reference.
against()
{
    what=$1 model=$2 ranks=$3
    shift 3
    rm -rf "${scratch:?}/out" "$scratch/gradients"
    job "$scratch/job.ini" "job.output_dir=$scratch/out" "model.path=$data/$model" "model.dtype=float32" "data.format=tokens" \
        "data.shuffle=no" "data.seq_length=64" "checkpoint.export=no" "$@"
    run_ranks "$ranks" "$build_dir/finemesh" run "$scratch/job.ini" || return 1
    "$build_dir/tests/oracle/check_model" "$what" "$data/$model" "$scratch/out" $gradients
}

# row WHAT MODEL RANKS SETTINGS...: one result.
row()
{
    row_name="$1 $2 on $3 $(printf '%s ' "$@" | grep -oE '(dp_replicate|tp)_size=[0-9]+' | tr '\n' ' ')"
    case $row_name in
    ${FM_TEST_ROWS:-*}) tap_check "$row_name" against "$@" ;;
    esac
}

step()
{
    gradients=$scratch/gradients
    step_model=$1 step_ranks=$2
    shift 2
    row step "$step_model" "$step_ranks" "data.train=$data/$step_model/rows.jsonl" train.steps=1 batch.global_batch_size=8 \
        "log.gradients=$gradients" "$@"
}

curve()
{
    gradients=
    curve_model=$1 curve_ranks=$2
    shift 2
    row curve "$curve_model" "$curve_ranks" "data.train=$data/curve.jsonl" train.steps=100 batch.global_batch_size=4 \
        optimizer.lr=1e-3 optimizer.eps=1e-6 schedule.name=constant "$@"
}

for directory in "$data"/*/; do
    step "$(basename "$directory")" 1
done
# The program on a few meshes; tests/mesh has every legal one of the library.
step llama 2
step llama 3 distributed.tp_size=3
step llama 4 distributed.dp_replicate_size=2 distributed.tp_size=2
step llama 8 distributed.dp_replicate_size=2 distributed.tp_size=2
# What tp treats differently: ties, biases, norms of heads, windows, one key/value head.
for model in llama_tied llama_pad llama_bias qwen2 qwen3 mistral; do
    step $model 4 distributed.tp_size=2
done
curve llama 1
curve qwen3 1
curve llama 2
curve llama 2 distributed.tp_size=2
curve llama 4 distributed.dp_replicate_size=2 distributed.tp_size=2
tap_done
