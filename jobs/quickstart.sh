#!/bin/sh
# From nothing to a fine-tuned model: set-up, then the embedded tiny model is fine-tuned on two ranks.
set -eu
cd "$(dirname "$0")/.."

sh jobs/setup.sh
rm -rf runs/quickstart
build/finemesh --version
OMP_NUM_THREADS=1 mpiexec -n 2 build/finemesh run inputs/quickstart.ini </dev/null
