#!/bin/sh
# `finemesh load` as people type it: the logits' numbers of every mesh are those of one rank, 1e-5 in fp32 and 2e-2 in 16 bits.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99
model=inputs/tiny-llama

# load NAME RANKS ARGUMENTS: $scratch/NAME is what it printed.
load()
{
    load_out=$scratch/$1 load_ranks=$2
    shift 2
    run_ranks "$load_ranks" "$build_dir/finemesh" load "$@" >"$load_out" || { cat "$load_out"; return 1; }
    cat "$load_out"
    [ "$(grep -c '^logits (1, 16, 984)$' "$load_out")" -eq 1 ] && [ "$(grep -c '^parameters 510048$' "$load_out")" -eq 1 ] &&
        [ "$(grep -c '^rank ' "$load_out")" -eq "$load_ranks" ]
}

# close NAME NAME TOLERANCE: mean, std and L2 norm.
close()
{
    grep -h '^mean' "$scratch/$1" "$scratch/$2" | awk -v tolerance="$3" '
        { for (i = 1; i <= 3; i++) { x = $(i == 3 ? 7 : 2 * i); if (NR == 1) first[i] = x; else {
              d = x - first[i]; if (d < 0) d = -d; m = first[i] < 0 ? -first[i] : first[i]
              if (!(d <= tolerance * m) || m == 0) bad = 1 } } }
        END { exit bad || NR != 2 }'
}

# row DTYPE TOLERANCE RANKS ARGUMENTS
row()
{
    row_dtype=$1 row_tolerance=$2 row_ranks=$3
    shift 3
    tap_check "load on $row_ranks: $* $row_dtype" load mesh "$row_ranks" "$@" --dtype "$row_dtype"
    tap_check "the numbers of one rank" close "one-$row_dtype" mesh "$row_tolerance"
}

tap_check "load, the embedded model" load default 1
for dtype in float32 bfloat16 float16; do
    tap_check "load $dtype" load "one-$dtype" 1 $model --dtype $dtype
    tap_check "$dtype is near fp32" close default "one-$dtype" 2e-2
    tolerance=2e-2
    [ $dtype != float32 ] || tolerance=1e-5
    row $dtype $tolerance 2 $model --tp-size 2
    row $dtype $tolerance 4 $model --tp-size 2 --dp-size 2
    row $dtype $tolerance 4 $model --use-device-mesh --tp-size 2 --dp-size 2
done
row float32 1e-5 4 $model --dp-size 4
row float32 1e-5 4 --model-name $model --dp-size 4 --dp-replicate-size 2
row float32 1e-5 4 $model --cp-size 2 --pp-size 2
row float32 1e-5 8 $model --pp-size 2 --cp-size 2 --tp-size 2

# refused RANKS WORDS ARGUMENTS: exit status 1 and one error.
refused()
{
    refused_ranks=$1 refused_words=$2
    shift 2
    run_ranks "$refused_ranks" "$build_dir/finemesh" load "$@" >"$scratch/stdout" 2>"$scratch/stderr"
    status=$?
    cat "$scratch/stderr"
    [ $status -eq 1 ] && [ "$(grep -c '^finemesh: error: ' "$scratch/stderr")" -eq 1 ] && grep -q -e "$refused_words" "$scratch/stderr"
}
tap_check "8 ranks are not 2 x 2 x 3" refused 8 "8 ranks = pp 2 x dp ? x cp 2 x tp 3: 12 does not divide 8" \
    $model --pp-size 2 --cp-size 2 --tp-size 3
tap_check "nor as an explicit mesh" refused 8 "has 12 ranks, but there are 8" \
    $model --use-device-mesh --pp-size 2 --cp-size 2 --tp-size 3
tap_check "a size that is no number" refused 1 "tp-size" $model --tp-size two
tap_check "an unknown option" refused 1 "tp-sizes" $model --tp-sizes 2
tap_check "no model there" refused 2 "no-such-model" no-such-model
tap_done
