#!/bin/sh
# The quickstart job as a person runs it: what it prints, writes and exports; the same on every mesh; the same again.
. "$srcdir/tests/lib.sh"
finemesh=$build_dir/finemesh
cd "$source_dir" || exit 99   # the job's paths are relative to the source tree

# quickstart NAME RANKS SETTINGS...: the run's output directory is $scratch/NAME.
quickstart()
{
    quickstart_name=$1 quickstart_ranks=$2
    shift 2
    run_ranks "$quickstart_ranks" "$finemesh" run inputs/quickstart.ini "job.output_dir=$scratch/$quickstart_name" "$@"
}

# column NAME KEY: the values of a key in metrics.jsonl, one a line.
column() { sed -n "s/.*\"$2\": *\([^,}]*\).*/\1/p" "$scratch/$1/metrics.jsonl"; }

# near VALUE EXPECTED BOUND: relative.
near()
{
    echo "found $1, expected $2"
    awk -v a="$1" -v b="$2" -v bound="$3" 'BEGIN { exit !(a != "" && b != "" && (a - b) ^ 2 <= (b * bound) ^ 2) }'
}

# kept RUN KEY: the last value of a key lies where losses.table says.
kept() { near "$(column run "$1" | tail -n 1)" "$(awk -v key="$1" '$1 == key { print $2 }' tests/regression/losses.table)" 0.02; }

answers()
{
    answer=$("$finemesh" generate "$1" "What is the capital of Norway? " --max-new-tokens 8 </dev/null) || return 1
    echo "$answer"
    case $answer in
    *"Norway? Oslo."*) ;;
    *) return 1 ;;
    esac
}

does_not_answer() { ! answers "$1"; }

carried()
{
    for file in generation_config.json tokenizer.json tokenizer_config.json; do
        cmp "inputs/tiny-llama/$file" "$scratch/run/hf/$file" || return 1
    done
    # Names, dtypes, shapes: the safetensors header without the offsets, which may be in another order.
    for model in inputs/tiny-llama "$scratch/run/hf"; do
        header_bytes=$(od -An -tu8 -N8 "$model/model.safetensors" | tr -d ' ')
        dd if="$model/model.safetensors" bs=1 skip=8 count="$header_bytes" 2>/dev/null | tr '}' '\n' |
            grep -o '"[a-z_.0-9]*": *{"dtype.*shape":\[[0-9,]*\]' | tr -d ' ' | sort
    done >"$scratch/headers"
    [ "$(sort "$scratch/headers" | uniq -c | awk '$1 != 2' | wc -l)" -eq 0 ] && [ "$(wc -l <"$scratch/headers")" -eq 76 ]
}

same_again()
{
    quickstart again 2 >/dev/null || return 1
    same_metrics run again
}

same_metrics()
{
    for key in loss grad_norm lr val_loss; do
        column "$1" $key >"$scratch/a"
        column "$2" $key >"$scratch/b"
        [ -s "$scratch/a" ] && cmp "$scratch/a" "$scratch/b" || return 1
    done
}

# The effective job, with the output elsewhere, is the same run.
from_effective_job()
{
    run_ranks 2 "$finemesh" run "$scratch/run/job.ini" "job.output_dir=$scratch/effective" >/dev/null || return 1
    same_metrics run effective
}

# mesh RANKS SETTINGS...: the losses of one rank (in $scratch/one), 1e-6 at the first step, 1e-4 later.
mesh()
{
    rm -rf "$scratch/mesh"
    quickstart mesh "$@" $mesh_job >/dev/null || return 1
    column one loss >"$scratch/a"
    column mesh loss | paste "$scratch/a" - | awk '{
        d = ($1 - $2) / $1; if (d < 0) d = -d
        if (NR == 1 ? d > 1e-6 : d > 1e-4) { print "step " NR ": " $1 " and " $2; bad = 1 } if (d > far) far = d
    } END { print "farthest: " far; exit bad || NR != 30 }'
}

tap_check "the quickstart job ends well" quickstart run 2
tap_check "its last loss is the kept one" kept loss
tap_check "its last validation loss is the kept one" kept val_loss
tap_check "before, the question is not answered" does_not_answer inputs/tiny-llama
tap_check "after, the question is answered" answers "$scratch/run/hf"
tap_check "the export has the source's tensors and files" carried
tap_check "the same job gives the same bits" same_again
tap_check "the effective job gives the same bits" from_effective_job
mesh_job="train.steps=30 batch.global_batch_size=12 batch.local_batch_size=1 optimizer.eps=1e-6 optimizer.lr=1e-3 checkpoint.export=no"
quickstart one 1 $mesh_job >/dev/null
tap_check "2 ranks, dp_shard 2" mesh 2
tap_check "2 ranks, tp 2: 3 key/value heads are cut unevenly" mesh 2 distributed.tp_size=2
tap_check "3 ranks, dp_shard 3" mesh 3
tap_check "3 ranks, tp 3" mesh 3 distributed.tp_size=3
tap_check "4 ranks, dp_replicate 2 x tp 2" mesh 4 distributed.dp_replicate_size=2 distributed.tp_size=2
tap_check "4 ranks, tp 4: a key/value head lives on two" mesh 4 distributed.tp_size=4
tap_check "8 ranks, dp_replicate 2 x dp_shard 2 x tp 2" mesh 8 distributed.dp_replicate_size=2 distributed.tp_size=2
tap_done
