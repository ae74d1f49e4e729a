# What the shell tests share. Sourced from the build directory as:  . "$srcdir/tests/lib.sh"
#
# A test script prints TAP: each `tap_*` call is one result that `make check` counts. The environment comes from the
# Makefile: srcdir, top_builddir, MPIEXEC.  By hand, in a build directory:  make check TESTS=tests/mesh/run.sh
# FM_TEST_SECONDS is the time limit of one program run (default 120).

: "${srcdir:?run this through make check}" "${top_builddir:?}" "${MPIEXEC:?}"
source_dir=$(cd "$srcdir" && pwd)
build_dir=$(cd "$top_builddir" && pwd)
FM_TEST_SECONDS=${FM_TEST_SECONDS:-120}
n_cores=$(getconf _NPROCESSORS_ONLN)
tap_count=0 tap_failed=0

# A scratch directory of this script's own, removed on the way out; results of failed runs are in the .log file.
scratch=$(mktemp -d "${TMPDIR:-/tmp}/finemesh-test.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' HUP INT TERM

# Tests on one machine: shared memory only, one thread a rank. MPI and HDF5 keep memory until the end of the process, which
# is no leak of ours; the preloaded shim stands before the sanitizer's library.
UCX_TLS=${UCX_TLS:-sm,self}
OMP_NUM_THREADS=1
ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}
export UCX_TLS OMP_NUM_THREADS ASAN_OPTIONS

# tap_ok NAME / tap_not_ok NAME / tap_skip NAME WHY: one result each.
tap_ok() { tap_count=$((tap_count + 1)); echo "ok $tap_count - $1"; }
tap_not_ok() { tap_count=$((tap_count + 1)) tap_failed=$((tap_failed + 1)); echo "not ok $tap_count - $1"; }
tap_skip() { tap_count=$((tap_count + 1)); echo "ok $tap_count - $1 # SKIP $2"; }

# tap_status NAME STATUS: 0 passes, 77 skips, anything else fails.
tap_status()
{
    case $2 in
    0) tap_ok "$1" ;;
    77) tap_skip "$1" "the program says so above" ;;
    *) tap_not_ok "$1 (exit status $2)" ;;
    esac
}

# tap_check NAME COMMAND...: passes when the command succeeds; what it prints becomes comments.
tap_check()
{
    tap_name=$1
    shift
    "$@" >"$scratch/tap.out" 2>&1
    tap_code=$?
    sed 's/^/# /' "$scratch/tap.out"
    tap_status "$tap_name" $tap_code
}

# tap_skip_all WHY: the whole script is skipped.
tap_skip_all() { echo "1..0 # SKIP $1"; exit 0; }

# tap_done: the plan, last. A script that dies before it has no plan, which counts as an error.
tap_done() { echo "1..$tap_count"; }

# run_ranks N PROGRAM ARGS...: on N ranks under the time limit; the program's exit status, 124 after the limit.
run_ranks()
{
    run_n=$1
    shift
    if [ "$run_n" -gt "$n_cores" ]; then
        timeout "$FM_TEST_SECONDS" "$MPIEXEC" -n "$run_n" -genv LD_PRELOAD "$build_dir/tests/mesh/.libs/yield_shim.so" \
            "$@" </dev/null
    else
        timeout "$FM_TEST_SECONDS" "$MPIEXEC" -n "$run_n" "$@" </dev/null
    fi
}

# has_double: whether the CUDA module was built over the doubles, which wants a C++17 compiler.
has_double() { [ -e "$build_dir/tests/cuda/double/.libs/finemesh_cuda.so" ]; }

# run_double N ORDER PROGRAM ARGS...: the same with the CUDA module over the doubles (tests/cuda/double): a copy of the program in a bin/ that
# has the module in ../lib/finemesh. ORDER is that of streams, early, late or a number; /1 behind it: one GPU for all ranks, not one each;
# +cudnn behind all: cuDNN is found.
# Device memory is closed to the host. $double_module: another module; $double_front: a folder of libraries before the doubles. 77 where the
# module was not built.
run_double()
{
    double_n=$1 double_order=${2%+cudnn} double_gpus=$1 double_program=$3 double_libs=$build_dir/tests/cuda/double/.libs
    double_cudnn=${FM_DOUBLE_CUDNN:-0}
    [ "$double_order" = "$2" ] || double_cudnn=92600
    case $double_order in
    */*) double_gpus=${double_order#*/} double_order=${double_order%/*} ;;
    esac
    shift 3
    has_double || { echo "the CUDA module was not built over the doubles: no C++17 compiler"; return 77; }
    mkdir -p "$scratch/root/bin" "$scratch/root/lib/finemesh"
    ln -sf "${double_module:-$double_libs/finemesh_cuda.so}" "$scratch/root/lib/finemesh/finemesh_cuda.so"
    cp "$(dirname "$double_program")/.libs/$(basename "$double_program")" "$scratch/root/bin/" || return 99
    double_preload=$double_libs/libcudart_double.so
    [ "$double_n" -le "$n_cores" ] || double_preload="$build_dir/tests/mesh/.libs/yield_shim.so $double_preload"
    timeout "$FM_TEST_SECONDS" "$MPIEXEC" -n "$double_n" -genv LD_PRELOAD "$double_preload" \
        -genv LD_LIBRARY_PATH "${double_front:+$double_front:}$double_libs:$build_dir/.libs:${LD_LIBRARY_PATH-}" -genv FM_DOUBLE_DEVICES "$double_gpus" \
        -genv FM_DOUBLE_STREAMS "$double_order" -genv FM_DOUBLE_CUDNN "$double_cudnn" -genv FM_DOUBLE_PROTECT 1 "$scratch/root/bin/$(basename "$double_program")" "$@" </dev/null
}
