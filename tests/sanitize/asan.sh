#!/bin/sh
# The tests once more in a build of their own with AddressSanitizer and UBSan, own leaks included: all unit tests, the whole list of the
# meshes (the CUDA module over the doubles too), and of the tests of the program those below. One result stands for all unit tests and
# one for each other script; what failed in it is named. FM_SANITIZE_SCRIPTS chooses other scripts; FM_SANITIZE_ALL=yes runs every test of
# `make check` in that build.
#
# Left out, as they would repeat what is here or elsewhere: the kernels on the host (under AddressSanitizer in every build; here they run
# in the meshes' rows), live.sh, shards.sh, tokenizer.sh, tensorboard.sh (the same programs, compared by Python), the faults but one
# (thousands of the runs of resume.sh, whose memory is counted there), cuda.sh (as the rows over the doubles), quickstart.sh, bench.sh,
# bundle.sh, Slurm and style.
. "$srcdir/tests/lib.sh"

case $FM_SANITIZE in *address*) tap_skip_all "this is that build" ;; esac
printf 'int main(void) { return 0; }\n' >"$scratch/a.c"
$FM_CC -fsanitize=address,undefined "$scratch/a.c" -o "$scratch/a" 2>/dev/null && "$scratch/a" ||
    tap_skip_all "$FM_CC cannot make programs with -fsanitize=address,undefined"

mkdir -p "$build_dir/asan-build"
cd "$build_dir/asan-build" || exit 99
if [ ! -f config.status ] || [ "$source_dir/configure" -nt config.status ]; then
    "$source_dir/configure" --enable-sanitizers --without-cuda CC="$FM_CC" CFLAGS="-O1 -g -fno-math-errno -fno-trapping-math" \
        >configure.log 2>&1 ||
        { tail -n 20 configure.log | sed 's/^/# /'; tap_not_ok "configure --enable-sanitizers"; tap_done; exit; }
fi
unset MAKEFLAGS MFLAGS MAKELEVEL
make -j"$n_cores" all >make.log 2>&1 && make -j"$n_cores" check TESTS= >>make.log 2>&1 ||
    { grep -E 'error|warning' make.log | sed 's/^/# /'; tap_not_ok "a build with the sanitizers"; tap_done; exit; }

# Memory of other libraries is theirs to free (lsan.supp); shell tests do not look for leaks, for the same reason.
LSAN_OPTIONS=suppressions=$source_dir/tests/sanitize/lsan.supp:print_suppressions=0
UBSAN_OPTIONS=print_stacktrace=1
ASAN_OPTIONS=
FM_TEST_SECONDS=600
export LSAN_OPTIONS UBSAN_OPTIONS ASAN_OPTIONS FM_TEST_SECONDS

# clean NAME LEAST MAKE_ARGUMENTS...: one result for these tests, at least so many of which must pass.
clean()
{
    clean_name=$1 clean_least=$2
    shift 2
    find tests -name '*.trs' -exec rm -f {} +
    make -k "$@" >check.log 2>&1
    clean_status=$?
    grep -E '^(FAIL|ERROR|XPASS)' check.log | sed 's/^/# /'
    clean_passed=$(grep -c '^PASS' check.log)
    find tests -name '*.trs' -exec rm -f {} +        # those of the build around this one are counted
    if [ $clean_status -eq 0 ] && [ "$clean_passed" -ge "$clean_least" ]; then
        tap_ok "$clean_name: $clean_passed tests under AddressSanitizer and UBSan"
    else
        tap_not_ok "$clean_name under AddressSanitizer and UBSan ($clean_passed passed; logs in $PWD/tests)"
    fi
}

if [ "${FM_SANITIZE_ALL:-no}" = yes ]; then
    clean "everything" 500 check
    tap_done
    exit
fi
unit=$(cd "$source_dir" && find tests/unit -name 'test_*.c' | sort | sed 's/\.c$//')
clean "unit tests" 30 -j"$n_cores" check TESTS="$(echo $unit tests/cuda/test_double)"
for script in ${FM_SANITIZE_SCRIPTS:-mesh/run oracle/models fuzz/replay regression/library regression/load regression/generate \
    regression/resume regression/bad regression/export regression/reshard regression/tp_plan fault/rank_fails}; do
    clean "$script.sh" 1 check TESTS="tests/$script.sh"
done
tap_done
