#!/bin/sh
# Calls to MPI, NCCL, HDF5, the allocator and the like stand only in the files that calls.table names.
set -f
. "$srcdir/tests/lib.sh"

# Every source without its comments, as FILE:LINE:TEXT.
cd "$source_dir" || exit 99
$FM_CC -x c -w -fpreprocessed -dD -E $(find src include -name '*.[ch]' -o -name '*.cu' -o -name '*.cpp') |
    awk '/^# [0-9]+ "/ { line = $2 - 1; file = substr($3, 2, length($3) - 2); next }
         { line++; print file ":" line ":" $0 }' >"$scratch/code"
[ -s "$scratch/code" ] || exit 99

# no_strays REGEX FILES...: no match outside the files, and one in each of them.
no_strays()
{
    grep -E "^[^:]*:[0-9]*:(.*[^A-Za-z0-9_>.])?$1" "$scratch/code" >"$scratch/hits"
    shift
    for pattern in "$@"; do
        cut -d: -f1 "$scratch/hits" | grep -qx "$pattern" || { echo "nothing in $pattern, which the table allows"; return 1; }
    done
    while IFS=: read -r file rest; do
        allowed=no
        for pattern in "$@"; do
            case $file in
            $pattern) allowed=yes ;;
            esac
        done
        [ $allowed = yes ] || echo "$file:$rest"
    done <"$scratch/hits" >"$scratch/strays"
    cat "$scratch/strays"
    [ ! -s "$scratch/strays" ]
}

grep -v '^#' "$source_dir/tests/style/calls.table" >"$scratch/table"
while read -r name regex files; do
    tap_check "$name only in ${files:-no file}" no_strays "$regex" $files
done <"$scratch/table"
tap_done
