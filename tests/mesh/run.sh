#!/bin/sh
# Every row of testlist is one counted test. FM_TEST_LISTS names the lists (make check-all: testlist and testlist.all);
# FM_TEST_ROWS, a shell pattern, chooses rows by name (default: all).
test_lists=${FM_TEST_LISTS:-testlist}
set -f
. "$srcdir/tests/lib.sh"

run_row()
{
    row_name=$1 row_ranks=$2 row_program=$3
    shift 3
    mkdir "$scratch/$row_name"
    set -- $(printf '%s\n' "$*" | sed "s|{src}|$source_dir|g; s|{tmp}|$scratch/$row_name|g")
    case $row_program in
    cuda:*)
        row_order=${row_program#cuda:}
        tap_check "$row_name on $row_ranks" run_double "$row_ranks" "${row_order%%:*}" "$build_dir/${row_program##*:}" "$@" ;;
    *) tap_check "$row_name on $row_ranks" run_ranks "$row_ranks" "$build_dir/$row_program" "$@" ;;
    esac
    rm -rf "${scratch:?}/$row_name"
}

for list in $test_lists; do
    grep -v '^ *\(#\|$\)' "$source_dir/tests/mesh/$list"
done >"$scratch/rows"
while read -r name ranks program arguments; do
    case $name in
    ${FM_TEST_ROWS:-*}) run_row "$name" "$ranks" "$program" $arguments ;;
    esac
done <"$scratch/rows"
tap_done
