#!/bin/sh
# The shared set-up of quickstart.sh and check.sh: what finemesh needs is there afterwards and finemesh is built in build/.
#
# On Debian 12, as root or with sudo, what is missing is installed. Elsewhere the packages are named, and the script stops
# with 1 unless everything is found. FM_CONFIGURE: more arguments for configure. FM_PACKAGES: more packages, which the tests can use.
set -eu
cd "$(dirname "$0")/.."

packages="gcc libc6-dev make autoconf automake libtool pkg-config mpich libmpich-dev libhdf5-mpich-dev libiniparser-dev
          libdnnl-dev libjansson-dev libpcre2-dev zlib1g-dev libcmocka-dev ${FM_PACKAGES:-}"

is_debian_12() { [ -r /etc/os-release ] && (. /etc/os-release && [ "${ID:-} ${VERSION_ID:-}" = "debian 12" ]); }

is_installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed'; }

# Without Debian's database: are the commands and the libraries with a .pc file there? configure looks at the rest.
looks_complete()
{
    for command in cc make autoreconf libtoolize pkg-config mpicc mpiexec; do
        command -v $command >/dev/null || return 1
    done
    pkg-config --exists jansson libpcre2-8 zlib cmocka
}

stop_with_packages()
{
    {
        echo "finemesh: error: $1"
        echo "finemesh needs these packages (names of Debian 12; other systems have them under like names):"
        echo $packages
    } >&2
    exit 1
}

if is_debian_12; then
    missing=
    for package in $packages; do
        is_installed "$package" || missing="$missing $package"
    done
    if [ -n "$missing" ]; then
        as_root=
        if [ "$(id -u)" -ne 0 ]; then
            as_root="sudo -n"
            $as_root true 2>/dev/null || stop_with_packages "missing and not installable without root or sudo:$missing"
        fi
        echo "== installing$missing"
        $as_root apt-get update -qq
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    fi
elif ! looks_complete; then
    stop_with_packages "this is not Debian 12, so nothing was installed, and something is missing"
fi

echo "== building in $(pwd)/build"
[ -x configure ] && [ configure -nt configure.ac ] || autoreconf -fi
mkdir -p build
cd build
[ -f config.status ] && [ config.status -nt ../configure ] || ../configure ${FM_CONFIGURE:-}
make -j"$(getconf _NPROCESSORS_ONLN)"
