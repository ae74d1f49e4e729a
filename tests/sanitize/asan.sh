#!/bin/sh
# The tests once more in a build of their own with AddressSanitizer and UBSan, own leaks included. One result here stands for all of
# that build; the tests that failed in it are named. FM_SANITIZE_ALL=yes leaves out nothing; else the long rows of the meshes and
# the jobs that repeat what shorter rows do are left out, which is half of the time.
. "$srcdir/tests/lib.sh"

case $FM_SANITIZE in *address*) tap_skip_all "this is that build" ;; esac
printf 'int main(void) { return 0; }\n' >"$scratch/a.c"
$FM_CC -fsanitize=address,undefined "$scratch/a.c" -o "$scratch/a" 2>/dev/null && "$scratch/a" ||
    tap_skip_all "$FM_CC cannot make programs with -fsanitize=address,undefined"

mkdir -p "$build_dir/asan-build"
cd "$build_dir/asan-build" || exit 99
if [ ! -f config.status ] || [ "$source_dir/configure" -nt config.status ]; then
    "$source_dir/configure" --enable-sanitizers CC="$FM_CC" CFLAGS="-O1 -g -fno-math-errno -fno-trapping-math" >configure.log 2>&1 ||
        { tail -n 20 configure.log | sed 's/^/# /'; tap_not_ok "configure --enable-sanitizers"; tap_done; exit; }
fi
unset MAKEFLAGS MFLAGS MAKELEVEL
make -j"$n_cores" all >make.log 2>&1 && make -j"$n_cores" check TESTS= >>make.log 2>&1 ||
    { grep -E 'error|warning' make.log | sed 's/^/# /'; tap_not_ok "a build with the sanitizers"; tap_done; exit; }

unit=$(cd "$source_dir" && find tests/unit -name 'test_*.c' | sort | sed 's/\.c$//')
if [ "${FM_SANITIZE_ALL:-no}" = yes ]; then
    set --
else
    set -- TESTS="$(echo $unit) tests/fault/rank_fails.sh tests/fuzz/replay.sh tests/mesh/run.sh tests/oracle/models.sh
        tests/regression/bad.sh tests/regression/library.sh tests/regression/load.sh tests/regression/resume.sh"
    FM_TEST_ROWS='[!w]*[!48]'        # no wide models, nothing on 4 or 8 ranks (some rows on 5 and 6 stay)
    export FM_TEST_ROWS
fi

# Memory of other libraries is theirs to free (lsan.supp); shell tests do not look for leaks, for the same reason.
find tests -name '*.trs' -exec rm -f {} +
LSAN_OPTIONS=suppressions=$source_dir/tests/sanitize/lsan.supp:print_suppressions=0 UBSAN_OPTIONS=print_stacktrace=1 FM_TEST_SECONDS=300 \
    ASAN_OPTIONS= make -k check "$@" >check.log 2>&1
status=$?
grep -E '^(FAIL|ERROR|XPASS)' check.log | sed 's/^/# /'
passed=$(grep -c '^PASS' check.log)
find tests -name '*.trs' -exec rm -f {} +
if [ $status -eq 0 ] && [ "$passed" -gt 100 ]; then
    tap_ok "$passed tests under AddressSanitizer and UBSan"
else
    tap_not_ok "tests under AddressSanitizer and UBSan ($passed passed; logs in $PWD/tests)"
fi
tap_done
