#!/bin/sh
# The shape of the sources: the order of the folders, and the sizes of files, lines and functions.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99
find src include -name '*.[ch]' -o -name '*.cu' | sort >"$scratch/files"
[ -s "$scratch/files" ] || exit 99

# quiet COMMAND...: passes when the command prints nothing.
quiet()
{
    "$@" >"$scratch/found" 2>&1
    cat "$scratch/found"
    [ ! -s "$scratch/found" ]
}

# A folder includes only those below it (and finemesh/, the public headers).
upward_includes()
{
    awk 'BEGIN {
             n = split("base tensor mesh ops parallel model ckpt data train job", order, " ")
             for (i = 1; i <= n; i++) level[order[i]] = i
             level["data"] = level["ckpt"]
         }
         FNR == 1 { split(FILENAME, part, "/"); from = part[2] }
         /^ *# *include "/ {
             split($0, quoted, "\""); split(quoted[2], to, "/")
             if (FILENAME ~ /^src\/.*\// && to[1] != from && to[1] in level && level[to[1]] >= level[from])
                 print FILENAME ":" FNR ": " from " includes " quoted[2]
         }' $(cat "$scratch/files")
}

long_lines() { awk 'length($0) > 140 { print FILENAME ":" FNR ": " length($0) " columns" }' $(cat "$scratch/files"); }

long_files() { awk '{ lines[FILENAME]++ } END { for (f in lines) if (lines[f] > 800) print f ": " lines[f] " lines" }' \
    $(cat "$scratch/files"); }

# A function's braces stand in column 1; so do those of nothing else that is long.
long_functions()
{
    awk 'FNR == 1 { open = 0 }
         /^\{/ { open = FNR }
         /^\}/ { if (open && FNR - open > 80) print FILENAME ":" open ": a function of " FNR - open " lines"; open = 0 }' \
        $(cat "$scratch/files")
}

brace_behind_function() { grep -nE '^[a-z][^;={]*\)[ ]*\{[ ]*$' $(cat "$scratch/files"); }

tabs_and_trails() { grep -nP '\t|[ ]+$' $(cat "$scratch/files"); }

unlisted_tests()
{
    find tests \( -name 'test_*.c' -o -path 'tests/[!b]*/*.sh' \) | sed 's/\.c$//' | sort | while read -r file; do
        cat tests/sources.mk tests/*/sources.mk | grep -qE "(^|[[:space:]])$file([[:space:]]|$)" || echo "$file is in no sources.mk of tests"
    done
}

tap_check "folders include only those below them" quiet upward_includes
tap_check "lines have at most 140 columns" quiet long_lines
tap_check "files have at most 800 lines" quiet long_files
tap_check "functions have at most 80 lines" quiet long_functions
tap_check "a function's opening brace stands in column 1" quiet brace_behind_function
tap_check "no tabs, no blanks at line ends" quiet tabs_and_trails
tap_check "every test in the tree is listed" quiet unlisted_tests
tap_done
