#!/bin/sh
# finemesh bench as a person starts it: one JSON object with the fields that tests/bench/peer.py has too, parts that make up the step,
# on 1 and 2 ranks; and what it refuses.
. "$srcdir/tests/lib.sh"
finemesh=$build_dir/finemesh
cd "$source_dir" || exit 99   # the job's paths are relative to the source tree

cat >"$scratch/job.ini" <<END
[job]
output_dir = $scratch/out
[model]
path = inputs/tiny-llama
[data]
seq_length = 64
[batch]
global_batch_size = 4
[schedule]
warmup_steps = 1000
END

bench() { bench_ranks=$1; shift; run_ranks "$bench_ranks" "$finemesh" bench "$scratch/job.ini" --warmup 1 --steps 3 --split 2 device.threads=1 "$@"; }

# number KEY FILE: the first number of that name.
number() { grep -o "\"$1\": *[-+0-9.e]*" "$2" | head -n 1 | sed 's/.*: *//'; }

fields()
{
    for key in tokens_per_s tokens_per_s_least tokens_per_s_most step_ms flops_per_token gemm_flops_per_s square_flops_per_s \
        copy_bytes_per_s mfu startup_s peak_bytes estimate_bytes host_bytes split_step_ms loss parameters; do
        [ "$(awk -v x="$(number $key "$1")" 'BEGIN { print (x != "" && x > 0) }')" = 1 ] || { echo "$key: $(number $key "$1")"; return 1; }
    done
    [ "$(wc -l <"$1")" -eq 1 ]
}

# adds_up FILE: the parts make the step; none is negative but for what the clock cannot tell; the rest is small.
adds_up()
{
    tr '{},' '\n\n\n' <"$1" | awk -F'[":]+' '
        /"split_ms"/ { inside = 1; next }
        /"split_most_ms"/ { inside = 0 }
        inside && NF >= 3 { part[$2] = $3; sum += $3; n++ }
        /"split_step_ms"/ { step = $3 }
        END {
            for (p in part) { print p, part[p]; if (part[p] < -0.01 * step) bad = 1 }
            print "sum", sum, "step", step
            exit bad || n != 7 || (sum - step) ^ 2 > (0.001 * step) ^ 2 || part["gemm"] <= 0 || part["rest"] > 0.5 * step
        }'
}

# consistent FILE RANKS: MFU is tokens/s x FLOPs a token / rate; tokens/s x step time = 4 rows of 64.
consistent()
{
    awk -v rate="$(number tokens_per_s "$1")" -v ms="$(number step_ms "$1")" -v flops="$(number flops_per_token "$1")" \
        -v gemm="$(number gemm_flops_per_s "$1")" -v mfu="$(number mfu "$1")" -v ranks="$(number ranks "$1")" -v n="$2" 'BEGIN {
        print rate * ms / 1000, rate * flops / gemm, mfu, ranks
        exit !((rate * ms / 256000 - 1) ^ 2 < 1e-12 && (rate * flops / gemm / mfu - 1) ^ 2 < 1e-12 && ranks == n && flops == 3202560)
    }'
}

has_waiting() { [ "$(awk -v x="$(number communication "$1")" 'BEGIN { print (x > 0) }')" = 1 ]; }

# same_loss FILE FILE: the rows do not depend on the mesh.
same_loss()
{
    awk -v a="$(number loss "$1")" -v b="$(number loss "$2")" 'BEGIN { print a, b; exit !(a > 0 && (a / b - 1) ^ 2 < 1e-10) }'
}

tap_check "bench on 1 rank" bench 1
one=$scratch/out/bench.json
tap_check "its JSON line has the fields" fields "$one"
tap_check "its parts make up the step" adds_up "$one"
tap_check "MFU and tokens/s follow from the rest" consistent "$one" 1
tap_check "bench on 2 ranks, random weights, bfloat16" bench 2 model.init=random model.dtype=bfloat16 --json "$scratch/two.json"
tap_check "its JSON line has the fields" fields "$scratch/two.json"
tap_check "its parts make up the step" adds_up "$scratch/two.json"
tap_check "MFU and tokens/s follow from the rest" consistent "$scratch/two.json" 2
tap_check "communication is there" has_waiting "$scratch/two.json"
tap_check "bench on 2 ranks of a pipeline" bench 2 distributed.pp_size=2 --json "$scratch/pp.json"
tap_check "its parts make up the step" adds_up "$scratch/pp.json"
tap_check "the loss is that of 1 rank" same_loss "$one" "$scratch/pp.json"

# refused WORDS ARGUMENTS...: exit status 1 and a message with the words.
refused()
{
    words=$1
    shift
    "$finemesh" bench "$@" </dev/null >"$scratch/said" 2>&1
    status=$?
    cat "$scratch/said"
    [ $status -eq 1 ] && grep -q "finemesh: error: .*$words" "$scratch/said"
}
tap_check "no steps are refused" refused "from 1 to" "$scratch/job.ini" --steps 0
tap_check "a number of steps that is none is refused" refused "a number of steps" "$scratch/job.ini" --warmup two
tap_check "an unknown option is refused" refused "the options are" "$scratch/job.ini" --gpu
tap_check "a batch that does not fit is refused" refused "a multiple of dp x local_batch_size" "$scratch/job.ini" batch.local_batch_size=3
tap_done
