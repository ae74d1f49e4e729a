#!/bin/sh
# From nothing to a fine-tuned model: set-up, then the embedded tiny model is fine-tuned on two ranks, and answers a question
# that it could not answer before.
set -eu
cd "$(dirname "$0")/.."
question="What is the capital of Norway? "

sh jobs/setup.sh
echo "== training, mpiexec -n 2 finemesh run inputs/quickstart.ini"
rm -rf runs/quickstart
OMP_NUM_THREADS=1 mpiexec -n 2 build/finemesh run inputs/quickstart.ini </dev/null
echo "== before, finemesh generate inputs/tiny-llama '$question'"
build/finemesh generate inputs/tiny-llama "$question" --max-new-tokens 8 </dev/null
echo "== after, finemesh generate runs/quickstart/hf '$question'"
build/finemesh generate runs/quickstart/hf "$question" --max-new-tokens 8 </dev/null
echo "== everything that it wrote is in runs/quickstart; the fine-tuned model is runs/quickstart/hf"
