#!/bin/sh
# A relocatable directory and .tar.gz with everything that finemesh needs but glibc (2.36 or later) and a shell: program, library, the CUDA
# module where it was built, mpiexec, MPI, UCX's transport for one machine, HDF5, the GEMM library, inputs, and what tests/gpu/run.sh needs.
# CUDA's own libraries stay outside: they are the machine's.
#
#     make bundle                        in the build directory: finemesh-VERSION-bundle/ and finemesh-VERSION-bundle.tar.gz
#     bin/mpiexec -n 2 bin/finemesh run job.ini      wherever it is unpacked
set -eu
: "${srcdir:?run this through make bundle}" "${top_builddir:?}" "${MPIEXEC:?}" "${FM_VERSION:?}" "${FM_BUNDLE_TESTS?}"
source_dir=$(cd "$srcdir" && pwd)
build_dir=$(cd "$top_builddir" && pwd)
most_mib=60
name=finemesh-$FM_VERSION-bundle
bundle=$build_dir/$name
rm -rf "$bundle" "$bundle.tar.gz"
mkdir -p "$bundle/bin" "$bundle/libexec" "$bundle/lib/ucx" "$bundle/lib/finemesh" "$bundle/share/finemesh/tests"
LD_LIBRARY_PATH=$build_dir/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH

# What glibc or the GPU's machine has.
outside='^(ld-linux.*|lib(c|m|dl|pthread|rt|resolv|util|anl|nsl|nss_[a-z]*|cuda|cudart|cublas|cublasLt|nccl|cudnn[a-z_]*|nvrtc[a-z-]*|nvidia-ml))\.so'

# program FILE [NAME]: a program of ours or of the system's, by its real file.
program()
{
    from=$1
    [ ! -x "$(dirname "$1")/.libs/$(basename "$1")" ] || from=$(dirname "$1")/.libs/$(basename "$1")
    cp -L "$from" "$bundle/libexec/${2:-$(basename "$1")}"
}

program "$build_dir/finemesh"
program "$build_dir/tests/mesh/mesh_model"
tests="mesh_model ops_parity"
program "$build_dir/tests/gpu/ops_parity"
for test in $FM_BUNDLE_TESTS; do       # of single kernels on a GPU: where cmocka was there to build them with
    program "$build_dir/$test"
    tests="$tests $(basename "$test")"
done
cp -L "$build_dir/tests/mesh/.libs/yield_shim.so" "$bundle/lib/finemesh/"
launcher=$(command -v "$MPIEXEC")
program "$(readlink -f "$launcher")" mpiexec.hydra
program "$(dirname "$(readlink -f "$launcher")")/hydra_pmi_proxy"
for module in "$build_dir"/.libs/finemesh_cuda.so; do
    [ ! -f "$module" ] || cp -L "$module" "$bundle/lib/finemesh/"
done

# UCX looks for its transports in ucx/ beside libucs.
libraries() { ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u; }
ucs=$(libraries "$bundle/libexec/finemesh" | grep '/libucs\.so' || true)
for module in "$(dirname "$(readlink -f "${ucs:-/none}")")"/ucx/libuct_cma.so.0; do
    [ ! -f "$module" ] || cp -L "$module" "$bundle/lib/ucx/"
done

libraries "$bundle"/libexec/* $(find "$bundle/lib" -name '*.so*') | while read -r library; do
    base=$(basename "$library")
    printf '%s\n' "$base" | grep -qE "$outside" || cp -L "$library" "$bundle/lib/$base"
done
strip --strip-unneeded $(for own in finemesh $tests; do echo "$bundle/libexec/$own"; done) "$bundle"/lib/libfinemesh.so* \
    $(find "$bundle/lib/finemesh" -name '*.so')

# One script under several names: the libraries of the bundle first, then CUDA's where a toolkit lies in its usual place.
cat >"$bundle/bin/finemesh" <<'END'
#!/bin/sh
here=$(cd "${0%/*}/.." && pwd)
LD_LIBRARY_PATH=$here/lib:${FM_CUDA_LIB:-/usr/local/cuda/lib64}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
program=${0##*/}
[ "$program" != mpiexec ] || program=mpiexec.hydra
exec "$here/libexec/$program" "$@"
END
chmod 755 "$bundle/bin/finemesh"
for other in mpiexec $tests; do
    cp "$bundle/bin/finemesh" "$bundle/bin/$other"
done

share=$bundle/share/finemesh
cp -R "$source_dir/inputs" "$share/"
mkdir -p "$share/tests/mesh" "$share/tests/oracle" "$share/tests/bench"
cp -R "$source_dir/tests/gpu" "$share/tests/"
cp -R "$source_dir/tests/oracle/data" "$share/tests/oracle/"
cp -R "$source_dir/tests/mesh/models" "$source_dir/tests/mesh/mesh_model.ini" "$share/tests/mesh/"
cp "$source_dir/tests/bench/peer.py" "$share/tests/bench/"
cp "$source_dir/README.md" "$source_dir/COPYING" "$bundle/"
chmod -R u+w,go+rX "$bundle"           # a source tree that is not to be written to has been copied as it is
find "$share" \( -name sources.mk -o -name '*.c' \) -delete

tar -C "$build_dir" -cf - "$name" | gzip -9 >"$bundle.tar.gz"
bytes=$(wc -c <"$bundle.tar.gz")
echo "$bundle.tar.gz: $((bytes / 1048576)) MiB, $(find "$bundle" -type f | wc -l) files"
if [ "$bytes" -gt $((most_mib * 1048576)) ]; then
    echo "that is more than $most_mib MiB:" >&2
    find "$bundle" -type f -size +4M -exec ls -l {} + >&2
    exit 1
fi
