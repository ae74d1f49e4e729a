#!/bin/sh
# Each header compiles alone.
. "$srcdir/tests/lib.sh"


# compiles HEADERS...: each is a translation unit of its own.
compiles() { $FM_CC -std=c11 $FM_CPPFLAGS -fsyntax-only -Wall -Wextra -Werror -x c "$@"; }

cd "$source_dir" || exit 99
# The CUDA module's own headers want the toolkit's: its sources compile them.
headers=$(find src include -name '*.h' ! -name 'cuda*.h' ! -name '*_cuda.h' ! -name '*nccl*.h' | sort)
if (cd "$build_dir" && compiles $(echo "$headers" | sed "s|^|$source_dir/|")) >"$scratch/errors" 2>&1; then
    for header in $headers; do
        tap_ok "$header compiles alone"
    done
else
    cd "$build_dir" || exit 99
    for header in $headers; do
        tap_check "$header compiles alone" compiles "$source_dir/$header"
    done
fi
tap_done
