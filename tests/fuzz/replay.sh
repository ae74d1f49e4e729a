#!/bin/sh
# Every seed and every input that ever broke something, given to its target: no crash, no leak, the answers that must hold.
. "$srcdir/tests/lib.sh"

TMPDIR=$scratch
export TMPDIR
for folder in "$source_dir"/tests/fuzz/corpus/*; do
    target=${folder##*/}
    set -- "$folder"
    [ -d "$source_dir/tests/fuzz/regressions/$target" ] && set -- "$@" "$source_dir/tests/fuzz/regressions/$target"
    if timeout "$FM_TEST_SECONDS" "$build_dir/tests/fuzz/fuzz_$target" "$@" >/dev/null 2>"$scratch/err"; then
        tap_ok "$target: $(tail -n 1 "$scratch/err")"
    else
        tail -n 20 "$scratch/err" | sed 's/^/# /'
        tap_not_ok "$target"
    fi
done
tap_done
