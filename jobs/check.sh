#!/bin/sh
# Set-up, then every test; with FM_CHECK_HOSTILE=yes those of `make check-hostile` too. The last line is `N passed, M failed, K skipped`, over all tests and rows of tests.
set -u
cd "$(dirname "$0")/.." || exit 1

if ! sh jobs/setup.sh; then
    echo "0 passed, 1 failed"
    exit 1
fi
cd build || exit 1
find . -name '*.trs' -exec rm -f {} +
make -j"$(getconf _NPROCESSORS_ONLN)" check TESTS= >/dev/null
make -k check
status=$?
[ $status -eq 0 ] || cat test-suite.log
if [ "${FM_CHECK_HOSTILE:-no}" = yes ]; then
    make -k check-hostile || { status=1; cat test-suite.log; }
fi

# A result that is neither a pass nor a skip failed: FAIL, ERROR, XPASS. No results at all are a failure too.
find . -name '*.trs' -exec cat {} + | awk -v status=$status '
    /^:test-result: (PASS|XFAIL)/ { passed++; next }
    /^:test-result: SKIP/ { skipped++; next }
    /^:test-result:/ { failed++ }
    END {
        if (!failed && (status != 0 || !passed)) failed = 1
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit failed != 0
    }'
