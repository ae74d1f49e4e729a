#!/bin/sh
# `finemesh tokenize` against transformers on hostile text, live: needs FM_ORACLE_PYTHON, a Python that has transformers. The small
# tokenizers of the unit test are compared, and every directory of FM_TOKENIZER_DIR that has a tokenizer.json.
. "$srcdir/tests/lib.sh"
[ -n "$FM_ORACLE_PYTHON" ] || tap_skip_all "FM_ORACLE_PYTHON names no Python with transformers"
"$FM_ORACLE_PYTHON" -c 'import transformers' 2>/dev/null || tap_skip_all "$FM_ORACLE_PYTHON has no transformers"

# Where there is no model directory of that kind the pattern stays as it is and is passed over.
for file in "$source_dir"/tests/unit/data/tokenizer/*/tokenizer.json ${FM_TOKENIZER_DIR:+"$FM_TOKENIZER_DIR"/*/tokenizer.json}; do
    [ -f "$file" ] || continue
    directory=${file%/tokenizer.json}
    tap_check "$(basename "$directory"): ids and texts are transformers'" \
        "$FM_ORACLE_PYTHON" "$source_dir/tests/oracle/tokenizer_compare.py" --program "$build_dir/finemesh tokenize" "$directory"
done
tap_done
