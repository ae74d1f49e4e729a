#!/bin/sh
# The installed library: the example program is compiled against what `make install` puts somewhere, and gives the same numbers on
# 1 and 2 ranks; what it saves is loaded again.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99
root=$scratch/root
model=inputs/tiny-llama

install_tree() { make -C "$build_dir" install DESTDIR="$root" >"$scratch/install.log" 2>&1 || { tail "$scratch/install.log"; return 1; }; }
tap_check "make install DESTDIR" install_tree

PKG_CONFIG_PATH=$(dirname "$(find "$root" -name finemesh.pc)")
PKG_CONFIG_SYSROOT_DIR=$root
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
flags=$(${PKG_CONFIG:-pkg-config} --cflags --libs finemesh) || tap_not_ok "pkg-config finds finemesh"
LD_LIBRARY_PATH=$(dirname "$(find "$root" -name libfinemesh.so)")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH

tap_check "the example compiles against the installed tree" \
    $FM_CC -std=c11 -Wall -Wextra -Werror $FM_SANITIZE doc/examples/load_model.c $flags -lm -o "$scratch/load_model"

# public HEADER: it compiles alone, as C and as C++, and includes nothing but the C library and its neighbours.
public()
{
    includes=$(sed -n 's/^ *# *include *[<"]\([^>"]*\)[>"].*/\1/p' "$1" | grep -v '^finemesh/\|^std\(bool\|def\|int\)\.h$')
    [ -z "$includes" ] || { echo "includes $includes"; return 1; }
    $FM_CC -std=c11 -Wall -Wextra -Werror -fsyntax-only $(${PKG_CONFIG:-pkg-config} --cflags finemesh) -x c "$1" &&
        { ! command -v c++ >/dev/null || c++ -std=c++11 -Wall -Wextra -Werror -fsyntax-only $(pkg-config --cflags finemesh) -x c++ "$1"; }
}
for header in "$root"/*/*/include/finemesh/*.h "$root"/*/include/finemesh/*.h; do
    [ ! -f "$header" ] || tap_check "$(basename "$header") is a public header" public "$header"
done

# example NAME RANKS ARGUMENTS: its numbers, without who holds what, in $scratch/NAME.
example()
{
    example_out=$scratch/$1
    shift
    run_ranks "$@" >"$example_out.all" || { cat "$example_out.all"; return 1; }
    cat "$example_out.all"
    grep -v '^rank' "$example_out.all" >"$example_out"
}

# same NAME NAME: the numbers differ by 1e-5 at most, and there are some.
same()
{
    paste "$scratch/$1" "$scratch/$2" | awk '
        { n = NF / 2 }
        NR > 1 && n < 2 { bad = 1 }
        { for (i = 1; i <= n; i++) {
              d = $i - $(i + n); if (d < 0) d = -d; m = $i < 0 ? -$i : $i
              if ($i ~ /^[0-9]/ ? d > 1e-5 * m : $i != $(i + n)) { print; bad = 1 } } }
        END { exit bad || NR != 5 }'
}

# lower NAME: the loss after the step is below the loss.
lower() { awk '$1 == "loss" && NF == 2 { before = $2 } /after/ { after = $NF } END { exit !(after < before - 0.01) }' "$scratch/$1"; }

run_example() { example "$1" "$2" "$scratch/load_model" "$model" "$3" ${4:+"$4"}; }
tap_check "the example on 1 rank" run_example one 1 1 "$scratch/saved"
tap_check "one step makes the loss smaller" lower one
tap_check "the example on 2 ranks, tp 2" run_example tp 2 2 "$scratch/saved-tp"
tap_check "tp 2 has the numbers of one rank" same one tp
tap_check "the example on 2 ranks, dp 2" run_example dp 2 1
tap_check "dp 2 has the numbers of one rank" same one dp
loads() { run_ranks 1 "$build_dir/finemesh" load "$1"; }
tap_check "what it saved is loaded" loads "$scratch/saved"
tap_check "what two ranks saved is loaded" loads "$scratch/saved-tp"

refused() { run_ranks 2 "$scratch/load_model" "$model" 3 >"$scratch/out" 2>&1 && return 1; grep "tp 3: 3 does not divide 2" "$scratch/out"; }
tap_check "a mesh that does not fit is refused with the arithmetic" refused
tap_done
