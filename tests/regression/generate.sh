#!/bin/sh
# `finemesh generate`: the same words on every mesh; what cannot work is said before the weights are read.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99

# The model without its weights: whoever asks for them fails with another message.
mkdir "$scratch/bare"
cp inputs/tiny-llama/*.json "$scratch/bare/"
: >"$scratch/bare/model.safetensors"

# generate RANKS ARGUMENTS...: one line on stdout.
generate()
{
    generate_ranks=$1
    shift
    run_ranks "$generate_ranks" "$build_dir/finemesh" generate "$@" >"$scratch/stdout" 2>"$scratch/stderr"
    status=$?
    cat "$scratch/stdout" "$scratch/stderr"
    return $status
}

same() { generate "$@" && tail -n 1 "$scratch/stdout" | cmp - "$scratch/one"; }

# refused RANKS WORDS ARGUMENTS...: exit status 1 and one error.
refused()
{
    refused_ranks=$1 words=$2
    shift 2
    generate "$refused_ranks" "$@"
    [ $status -eq 1 ] || { echo "exit status $status, 1 expected"; return 1; }
    [ "$(grep -c '^finemesh: error: ' "$scratch/stderr")" -eq 1 ] || { echo "one error expected"; return 1; }
    grep -q -e "$words" "$scratch/stderr" || { echo "the error does not hold: $words"; return 1; }
}

# warned RANKS WORDS ARGUMENTS...: one warning, and words all the same.
warned()
{
    warned_ranks=$1 words=$2
    shift 2
    generate "$warned_ranks" "$@" || return 1
    [ "$(grep -c '^finemesh: warning: ' "$scratch/stderr")" -eq 1 ] && grep -q -e "$words" "$scratch/stderr"
}

quiet() { generate "$@" && [ ! -s "$scratch/stderr" ]; }

tap_check "words" generate 1 inputs/tiny-llama "What is" --max-new-tokens 8
tail -n 1 "$scratch/stdout" >"$scratch/one"
tap_check "the same by tensor parallelism" same 2 inputs/tiny-llama "What is" --max-new-tokens 8 --tp-size 2
tap_check "the same by a pipeline" same 2 inputs/tiny-llama "What is" --max-new-tokens 8 --pp-size 2
tap_check "no weights" refused 2 "model.safetensors" "$scratch/bare" "What is"
tap_check "a prompt without tokens" refused 2 "the prompt has no tokens" "$scratch/bare" ""
tap_check "no prompt" refused 1 "a prompt and 1 <= N" "$scratch/bare" --tp-size 1
tap_check "no new tokens" refused 1 "a prompt and 1 <= N" "$scratch/bare" "What is" --max-new-tokens 0
sed 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 8/' inputs/tiny-llama/config.json >"$scratch/bare/config.json"
cp inputs/tiny-llama/model.safetensors "$scratch/bare/"
tap_check "more tokens than positions" warned 2 "3 tokens of the prompt and --max-new-tokens 6 are more than the 8 positions" \
    "$scratch/bare" "What is" --max-new-tokens 6
tap_check "as many tokens as positions" quiet 1 "$scratch/bare" "What is" --max-new-tokens 5
rm "$scratch/bare/tokenizer.json" "$scratch/bare/model.safetensors"
tap_check "no tokenizer" refused 2 "there is no tokenizer.json in it" "$scratch/bare" "What is"
tap_done
