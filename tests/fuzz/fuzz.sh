#!/bin/sh
# Each fuzz target searches for FUZZ_SECONDS (default 5) from its seeds and what earlier searches of this build found. Needs clang with
# libFuzzer, its sanitizers and OpenMP (Debian: clang-14 libclang-rt-14-dev libomp-14-dev). What breaks a target is left in
# fuzz-build/found/TARGET: mend it, give it a name and put it into tests/fuzz/regressions/TARGET.
. "$srcdir/tests/lib.sh"

FUZZ_SECONDS=${FUZZ_SECONDS:-5}
printf '#include <stddef.h>\nint LLVMFuzzerTestOneInput(const char *d, size_t n) { return 0; }\n' >"$scratch/a.c"
clang=
for name in ${FUZZ_CLANG:-clang clang-14 clang-15 clang-16 clang-17 clang-18 clang-19}; do
    if command -v "$name" >/dev/null &&
        "$name" -fsanitize=fuzzer,address,undefined -fopenmp "$scratch/a.c" -o "$scratch/a" 2>/dev/null; then
        clang=$name
        break
    fi
done
[ -n "$clang" ] || tap_skip_all "no clang with libFuzzer, AddressSanitizer and OpenMP"

# The wrappers of MPICH and Open MPI take their compiler from here.
MPICH_CC=$clang OMPI_CC=$clang
export MPICH_CC OMPI_CC
mkdir -p "$build_dir/fuzz-build"
cd "$build_dir/fuzz-build" || exit 99
if [ ! -f config.status ] || [ "$source_dir/configure" -nt config.status ]; then
    "$source_dir/configure" --enable-fuzzers --disable-shared --enable-static CC="$FM_CC" CFLAGS="-O1 -g" >configure.log 2>&1 ||
        { tail -n 20 configure.log | sed 's/^/# /'; tap_not_ok "configure --enable-fuzzers"; tap_done; exit; }
fi
unset MAKEFLAGS MFLAGS MAKELEVEL
targets=$(ls "$source_dir/tests/fuzz/corpus")
[ -n "$targets" ] || exit 99
make -j"$n_cores" $(for t in ${FUZZ_TARGETS:-$targets}; do echo "tests/fuzz/fuzz_$t"; done) >make.log 2>&1 ||
    { grep -E 'error' make.log | sed 's/^/# /'; tap_not_ok "a build with clang's fuzzers"; tap_done; exit; }

TMPDIR=$scratch
ASAN_OPTIONS=allocator_may_return_null=1
LSAN_OPTIONS=suppressions=$source_dir/tests/sanitize/lsan.supp:print_suppressions=0
UBSAN_OPTIONS=print_stacktrace=1
export TMPDIR ASAN_OPTIONS LSAN_OPTIONS UBSAN_OPTIONS
for target in ${FUZZ_TARGETS:-$targets}; do
    mkdir -p "corpus/$target" "found/$target"
    set -- "corpus/$target" "$source_dir/tests/fuzz/corpus/$target"
    [ -d "$source_dir/tests/fuzz/regressions/$target" ] && set -- "$@" "$source_dir/tests/fuzz/regressions/$target"
    if timeout $((FUZZ_SECONDS + 120)) "tests/fuzz/fuzz_$target" -max_total_time="$FUZZ_SECONDS" -timeout=60 -rss_limit_mb=2000 \
        -malloc_limit_mb=1000 -max_len=10000 -print_final_stats=1 -artifact_prefix="found/$target/" "$@" >"$target.log" 2>&1; then
        tap_ok "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$target.log") inputs in $FUZZ_SECONDS s"
    else
        tail -n 40 "$target.log" | cut -c1-300 | sed 's/^/# /'
        tap_not_ok "$target (see $PWD/$target.log and $PWD/found/$target)"
    fi
done
tap_done
