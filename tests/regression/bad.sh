#!/bin/sh
# Wrong jobs, row by row of bad.table: exit status 1, one error that says what and where, and nothing left behind
# but complete shards and indices of data, which the right job will use.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99

# refused OVERRIDES WORDS
refused()
{
    rm -rf "$scratch/out"
    run_ranks 2 "$build_dir/finemesh" run inputs/quickstart.ini "job.output_dir=$scratch/out" $1 >"$scratch/stdout" 2>"$scratch/stderr"
    status=$?
    cat "$scratch/stderr"
    [ $status -eq 1 ] || { echo "exit status $status, 1 expected"; return 1; }
    [ "$(grep -c '^finemesh: error: ' "$scratch/stderr")" -eq 1 ] || { echo "one error expected"; return 1; }
    grep -q -e "$2" "$scratch/stderr" || { echo "the error does not hold: $2"; return 1; }
    [ ! -f "$scratch/out/shards/manifest.json" ] || rm -rf "$scratch/out/shards"
    left=$(find "$scratch/out" -type f ! -name '*.index' 2>/dev/null)
    [ -z "$left" ] || { echo "left behind: $left"; return 1; }
}

grep -v '^#' tests/regression/bad.table >"$scratch/table"
while IFS='|' read -r override words; do
    override=$(echo $override)
    tap_check "$override is refused" refused "$override" "${words# }"
done <"$scratch/table"

cp -r inputs/tiny-llama "$scratch/model"
rm "$scratch/model/generation_config.json"
mkfifo "$scratch/model/generation_config.json"
tap_check "a file that the export would copy and cannot" refused "model.path=$scratch/model" 'generation_config.json: not a regular file'
tap_done
