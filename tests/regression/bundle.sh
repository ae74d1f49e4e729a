#!/bin/sh
# `make bundle` elsewhere: in a root that holds glibc and a shell and nothing else, under another prefix than it was made for, two ranks
# train. As root only: the test changes its root.
. "$srcdir/tests/lib.sh"
[ "$(id -u)" -eq 0 ] || tap_skip_all "changing the root takes root"
chroot / true 2>/dev/null || tap_skip_all "this machine does not let root change its root"
command -v strip >/dev/null || tap_skip_all "there is no strip"
if [ "${FM_SANITIZE:-}" != "" ]; then
    tap_skip_all "a sanitizer's libraries are not carried"
fi

make_bundle() { make -C "$build_dir" bundle; }
tap_check "make bundle, at most 60 MiB" make_bundle
bundle=$(echo "$build_dir"/finemesh-*-bundle)
[ -d "$bundle" ] || { tap_done; exit 1; }

# The other root: the C library of this machine, and sh.
root=$scratch/root
mkdir -p "$root/bin" "$root/dev/shm" "$root/proc" "$root/tmp" "$root/etc" "$root/opt"
for file in $(ldd /bin/sh "$bundle"/libexec/* $(find "$bundle/lib" -name '*.so*') 2>/dev/null |
    grep -oE '/[^ ]*/(ld-linux[^ ]*|lib(c|m|dl|pthread|rt|resolv|util)\.so[^ ]*)' | sort -u); do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
done
cp -L /bin/sh "$root/bin/sh"
mknod -m 666 "$root/dev/null" c 1 3 && mknod -m 666 "$root/dev/urandom" c 1 9
echo "127.0.0.1 localhost $(uname -n)" >"$root/etc/hosts"
echo "root:x:0:0:root:/:/bin/sh" >"$root/etc/passwd"
prefix=/opt/moved/elsewhere
mkdir -p "$root/opt/moved"
gzip -dc "$bundle.tar.gz" | tar -xf - -C "$root/opt/moved" && mv "$root/opt/moved/$(basename "$bundle")" "$root$prefix"

# inside COMMAND: in the other root, with /proc where a mount namespace can be had.
inside()
{
    if unshare --mount true 2>/dev/null; then
        timeout "$FM_TEST_SECONDS" unshare --mount sh -c 'mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/dev/shm"; exec chroot "$1" /bin/sh -c "$2"' \
            inside "$root" "$1" </dev/null
    else
        timeout "$FM_TEST_SECONDS" chroot "$root" /bin/sh -c "$1" </dev/null
    fi
}

versions() { inside "$prefix/bin/finemesh --version"; }
only_inside() { [ "$(find "$root" -type f -perm -100 -path '*/bin/*' ! -path '*/opt/*' | wc -l)" -eq 1 ]; }
trains()
{
    inside "cd $prefix/share/finemesh && $prefix/bin/mpiexec -n 2 $prefix/bin/finemesh run inputs/quickstart.ini job.output_dir=/tmp/out train.steps=3 schedule.warmup_steps=1" &&
        [ "$(grep -c '"loss"' "$root/tmp/out/metrics.jsonl")" -eq 3 ] && [ -s "$root/tmp/out/hf/model.safetensors" ]
}
on_every_mesh()
{
    mkdir "$root/tmp/mesh"
    inside "cd $prefix/share/finemesh && $prefix/bin/mpiexec -n 2 $prefix/bin/mesh_model gradients tests/mesh/mesh_model.ini \
        $prefix/share/finemesh/tests/oracle/data /tmp/mesh llama_tied mesh=1,1,1,1,2"
}
tap_check "the other root has no program but sh" only_inside
tap_check "finemesh --version under another prefix" versions
tap_check "2 ranks train there" trains
tap_check "a model on a mesh of 2 gives transformers' numbers there" on_every_mesh
tap_done
