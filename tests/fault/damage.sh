#!/bin/sh
# A flipped bit, or an end that is cut off, at seeded random places of every file of a checkpoint and of a shard set: `finemesh verify` names
# the file, and the tensor where it lies in one; a resume names and skips the checkpoint and uses the one before; a load names the tensor.
#
# FM_FAULT_PLACES places a file (3; make check-faults: 100); FM_FAULT_SEED chooses them.
. "$srcdir/tests/lib.sh"
. "$srcdir/tests/fault/lib.sh"
cd "$source_dir" || exit 99
places=${FM_FAULT_PLACES:-3}
state=${FM_FAULT_SEED:-1}

# random N: `drawn` is 0 .. N - 1.
random()
{
    state=$(((state * 1103515245 + 12345) % 2147483648))
    high=$((state / 65536))
    state=$(((state * 1103515245 + 12345) % 2147483648))
    drawn=$(((high * 32768 + state / 65536) % $1))
}

# flip FILE: one bit of it.
flip()
{
    random "$(stat -c %s "$1")"
    at=$drawn
    random 8
    byte=$(od -An -tu1 -j "$at" -N1 "$1")
    printf "\\$(printf %o $((byte ^ (1 << drawn))))" | dd of="$1" bs=1 seek="$at" conv=notrunc 2>/dev/null
    did="bit $drawn of byte $at of $(basename "$1") flipped"
}

# cut FILE: it ends somewhere.
cut_off()
{
    random "$(stat -c %s "$1")"
    truncate -s "$drawn" "$1"
    did="$(basename "$1") cut off after $drawn bytes"
}

# found DIR FILE: verify names it.
found()
{
    timeout 60 "$finemesh" verify "$1" >"$scratch/stdout" 2>"$scratch/err" && { echo "$did: not noticed"; return 1; }
    one_error "$scratch/err" "$2: " || { echo "$did"; return 1; }
    ! grep -q "in tensor model\.\|in tensor lm_head\|in tensor exp_avg\|in tensor master" "$scratch/err" || in_tensor=$((in_tensor + 1))
}

# each_file DIR WAY: every file of the set, damaged in so many places; at least 8 of 10 flips in files of tensors hit one.
each_file()
{
    in_tensor=0 in_ranks=0 wrong=0
    for file in "$1"/*; do
        [ -f "$file" ] || continue
        cp "$file" "$scratch/intact"
        for _ in $(seq "$places"); do
            $2 "$file"
            case $file in */rank-*) in_ranks=$((in_ranks + 1)) ;; esac
            found "$1" "$file" || wrong=$((wrong + 1))
            cp "$scratch/intact" "$file"
        done
    done
    timeout 60 "$finemesh" verify "$1" || return 1
    [ "$2" != flip ] || [ $((10 * in_tensor)) -ge $((8 * in_ranks)) ] || { echo "$in_tensor of $in_ranks flips named a tensor"; return 1; }
    [ $wrong -eq 0 ]
}

train() { launch 2 run $(job "$1" distributed.tp_size=2 checkpoint.export=no); }

# skipped WAY: the newest checkpoint damaged in one of its files; the run goes on from the one before and ends as it did.
skipped()
{
    rm -rf "$scratch/damaged"
    cp -r "$scratch/whole" "$scratch/damaged"
    rm "$scratch/damaged/complete.json"
    set -- "$1" "$scratch/damaged/checkpoints/step-000004"/*
    random $(($# - 1))
    way=$1
    shift $((drawn + 1))
    $way "$1"
    train "$scratch/damaged" >"$scratch/stdout" 2>"$scratch/err" || { cat "$scratch/err"; return 1; }
    grep "^finemesh: warning: $1: " "$scratch/err" || { echo "$did: not named"; cat "$scratch/err"; return 1; }
    grep -q "step-000004 is passed over" "$scratch/err" && grep "^# resume: after step 2 of 4" "$scratch/stdout" && equal "$scratch/damaged"
}

# refused: a flipped bit ends the load of the converted weights, where it lies in a tensor (beside them HDF5 may not need it).
refused()
{
    rm -rf "$scratch/damaged"
    cp -r "$scratch/whole" "$scratch/damaged"
    rm -r "$scratch/damaged/complete.json" "$scratch/damaged/checkpoints"
    for _ in $(seq "$places"); do
        random 2
        file=$scratch/damaged/shards/rank-0000$drawn.h5
        cp "$file" "$scratch/intact"
        flip "$file"
        if timeout 60 "$finemesh" verify "$scratch/damaged/shards" 2>&1 | grep -q "in tensor"; then
            if train "$scratch/damaged" >"$scratch/stdout" 2>"$scratch/err"; then echo "$did: not noticed"; return 1; fi
            one_error "$scratch/err" "$file: tensor .*CRC" || return 1
        fi
        cp "$scratch/intact" "$file"
    done
}

train "$scratch/whole" >"$scratch/stdout" 2>&1 || { cat "$scratch/stdout"; exit 99; }
numbers "$scratch/whole" >"$scratch/numbers.a"
checkpoint=$scratch/whole/checkpoints/step-000004
tap_check "flipped bits in a checkpoint, $places a file" each_file "$checkpoint" flip
tap_check "a checkpoint's files cut off, $places times each" each_file "$checkpoint" cut_off
tap_check "flipped bits in a shard set, $places a file" each_file "$scratch/whole/shards" flip
tap_check "a shard set's files cut off, $places times each" each_file "$scratch/whole/shards" cut_off
tap_check "a resume passes a flipped bit over" skipped flip
tap_check "and another" skipped flip
tap_check "and a file that is cut off" skipped cut_off
tap_check "converted weights with a flipped bit are not loaded" refused
tap_done
