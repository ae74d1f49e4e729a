#!/bin/sh
# Each header compiles alone.
. "$srcdir/tests/lib.sh"

for header in $(cd "$source_dir" && find src include -name '*.h' | sort); do
    tap_check "$header compiles alone" \
        $FM_CC -std=c11 $FM_CPPFLAGS -fsyntax-only -Wall -Wextra -Werror -x c "$source_dir/$header"
done
tap_done
