#!/bin/sh
# One rank under valgrind: no value that was never set is used, no byte outside its block is touched, no block is lost. valgrind
# knows AVX2, so the multiplications are AVX2's; AVX-512's are the sanitizers' (asan.sh) alone.
. "$srcdir/tests/lib.sh"

command -v valgrind >/dev/null || tap_skip_all "valgrind is not installed"
case $FM_SANITIZE in *address*) tap_skip_all "a build with AddressSanitizer does not run under valgrind" ;; esac

FM_TEST_SECONDS=600
model=$source_dir/inputs/tiny-llama
cd "$scratch" || exit 99
head -n 40 "$source_dir/inputs/instruct-train.jsonl" >train.jsonl
head -n 3 "$source_dir/inputs/instruct-valid.jsonl" >valid.jsonl
printf '{"text": "The fox %s lives."}\n' é ö >text.jsonl
cat >job.ini <<END
[job]
output_dir = $scratch/run
[model]
path = $model
[data]
train = $scratch/train.jsonl
validation = $scratch/valid.jsonl
format = instruction
seq_length = 24
[batch]
global_batch_size = 2
[train]
steps = 2
[checkpoint]
every = 1
END

# under_valgrind INPUT ARGUMENTS...: finemesh with them; what valgrind says becomes comments.
under_valgrind()
{
    input=$1
    shift
    timeout "$FM_TEST_SECONDS" "$build_dir/libtool" --mode=execute valgrind --quiet --error-exitcode=99 --leak-check=full \
        --errors-for-leak-kinds=definite --show-leak-kinds=definite --num-callers=25 \
        --suppressions="$source_dir/tests/sanitize/valgrind.supp" "$build_dir/finemesh" "$@" <"$input"
}

tap_check "convert" under_valgrind /dev/null convert job.ini
tap_check "run, with checkpoints and export" under_valgrind /dev/null run job.ini
tap_check "a resumed run" under_valgrind /dev/null run job.ini train.steps=3
tap_check "eval" under_valgrind /dev/null eval job.ini
tap_check "export" under_valgrind /dev/null export job.ini
tap_check "inspect" under_valgrind /dev/null inspect run/shards
tap_check "tokenize" under_valgrind text.jsonl tokenize "$model"
tap_done
