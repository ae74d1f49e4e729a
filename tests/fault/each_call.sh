#!/bin/sh
# The n-th call to the system fails, or the program is killed there, or the n-th call of finemesh's allocator fails, for n = 1, 2, ...
# until a run is not touched any more. The program then ends by itself with exit status 1 or 2 and one message; nothing incomplete has a
# checkpoint's name; and the same command, started again, ends as the undisturbed run.
#
# FM_FAULT_STRIDE=1 tries every n (make check-faults); a larger one every so manieth, from a first one that FM_FAULT_SEED chooses.
# FM_FAULT_ROWS is a regular expression of the rows that are run.
. "$srcdir/tests/lib.sh"
. "$srcdir/tests/fault/lib.sh"
cd "$source_dir" || exit 99
FM_TEST_SECONDS=60
seed=${FM_FAULT_SEED:-1}

run_it() { launch "$1" run $(job "$2" checkpoint.export=final); }
convert_it() { launch "$1" convert inputs/quickstart.ini job.output_dir="$2"; }
export_it() { launch "$1" export "$scratch/before/job.ini" job.output_dir="$2"; }

# Once it has its name the set is whole: after that only the sync of its folder can fail, and a second start refuses what is there.
reshard_it()
{
    [ ! -e "$2/set" ] || return 0
    launch "$1" reshard "$scratch/before/checkpoints/step-000002" --tp-size 2 --dp-size 1 -o "$2/set"
}
read_it()
{
    launch "$1" run $(job "$2" checkpoint.export=final model.path="$2/in/tiny-llama" data.train="$2/in/train.jsonl" data.validation="$2/in/valid.jsonl")
}
exports_it() { launch "$1" run $(job "$2" checkpoint.export=every); }

# ---- what a command starts from, and what must be there at its end ----

start_run() { :; }
end_run() { equal "$1" && cmp "$1/hf/model.safetensors" "$scratch/undisturbed.safetensors"; }

start_resume() { cp -r "$scratch/before" "$1"; }
end_resume() { end_run "$1"; }
resume_it() { run_it "$@"; }

# ranks that read for each other
start_slices() { start_resume "$1"; }
end_slices() { end_run "$1"; }
slices_it() { launch "$1" run $(job "$2" checkpoint.export=final distributed.tp_size="$1"); }

start_convert() { :; }
end_convert() { timeout 60 "$finemesh" verify "$1/shards"; }

start_export() { cp -r "$scratch/before" "$1"; }
end_export()
{
    cmp "$1/hf/model.safetensors" "$scratch/undisturbed.safetensors" && [ -z "$(find "$1" -name '*.tmp*' | grep -v checkpoints)" ]
}

start_reshard() { mkdir "$1"; }
end_reshard() { timeout 60 "$finemesh" verify "$1/set" && [ -z "$(find "$1" -name '*.tmp*')" ]; }

# model and data lie below the directory whose calls count
start_read() { mkdir "$1" && cp -r "$scratch/in" "$1/"; }
end_read() { end_run "$1"; }

start_exports() { :; }
# an export that was cut short is not made up for: what there is, is whole
end_exports()
{
    end_run "$1" || return 1
    for file in "$1"/checkpoints/step-*-hf/model.safetensors; do
        [ ! -e "$file" ] || cmp "$file" "$scratch/$(basename "$(dirname "$file")").safetensors" || return 1
    done
}

# ---- one trial ----

# judge STATUS: of a start that failed.
judge()
{
    grep -q '^failed' "$scratch/log" || { [ "$1" -eq 0 ] || { cat "$scratch/err"; return 1; }; return 0; }
    case $what:$error:$1 in
    run:TERM:* | read:TERM:* | resume:TERM:* | exports:TERM:*) ;;
    *:TERM:0 | *:TERM:3) echo "a signal ends what is no run at once: exit status $1"; return 1 ;;
    *:TERM:124) echo "time limit"; return 1 ;;
    *:TERM:*) return 0 ;;
    *:CUT:0) "end_$what" "$out"; return ;;
    esac
    case $error:$1 in
    EINTR:0 | SHORT:0) return 0 ;;
    EINTR:* | SHORT:*) echo "it must be carried on"; cat "$scratch/err"; return 1 ;;
    KILL:0) echo "it was to be killed"; return 1 ;;
    KILL:124) echo "time limit"; return 1 ;;
    KILL:*) return 0 ;;
    TERM:3) grep -q "^# stopped .* the same command" "$scratch/stdout" || { echo "it does not say so"; return 1; } ;;
    TERM:143) [ -e "$out/complete.json" ] || { echo "the signal was not heeded"; return 1; } ;;
    ALLOC:0) [ "$(wc -l <"$scratch/err")" -eq 0 ] || ! grep -q '^finemesh: error' "$scratch/err" || { cat "$scratch/err"; return 1; } ;;
    *:0) return 0 ;;                                      # what it was wanted for could be done without: the end tells
    ALLOC:1 | ALLOC:2) one_error "$scratch/err" "memory" ;;
    *:1 | *:2) one_error "$scratch/err" "$out" ;;
    *) echo "exit status $1"; cat "$scratch/err"; return 1 ;;
    esac
}

# kept: on one rank nothing that was allocated is left at the program's end.
kept() { kept_bytes=$(sed -n 's/^kept //p' "$scratch/log"); [ "${kept_bytes:-0}" -eq 0 ] || { echo "leak of $kept_bytes bytes"; return 1; }; }

# trial WHAT RANKS RANK ERROR N
trial()
{
    what=$1 ranks=$2 error=${4#READ-}
    out=$scratch/out
    rm -rf "$out" "$scratch/log"
    "start_$what" "$out" || return 1
    : >"$scratch/log"
    (
        export FAULT_LOG="$scratch/log" FAULT_DIR="$out" FAULT_RANK="$3"
        if [ "$4" = ALLOC ]; then export FAULT_ALLOC="$5"; else export FAULT_AT="$5" FAULT_ERROR="$error"; fi
        case $4 in READ-*) export FAULT_READS=2 ;; esac
        "${what}_it" "$ranks" "$out" >"$scratch/stdout" 2>"$scratch/err"
    )
    judge $? || return 1
    [ "$ranks" -gt 1 ] || kept || return 1
    [ "$error" != CUT ] || return 0                       # the file is damaged for good
    complete "$out" || return 1
    ! grep -q '^failed' "$scratch/log" || "${what}_it" "$ranks" "$out" >"$scratch/stdout2" 2>"$scratch/err2" ||
        { echo "the second start fails:"; cat "$scratch/err2"; return 1; }
    ! grep -h "passed over" "$scratch/err2" 2>/dev/null || { echo "it had a damaged checkpoint"; return 1; }
    "end_$what" "$out"
}

# undisturbed WHAT RANKS: what all its trials are compared with.
undisturbed()
{
    out=$scratch/undisturbed
    rm -rf "$out"
    "start_$1" "$out"
    "$1_it" "$2" "$out" >"$scratch/stdout" 2>&1 || { cat "$scratch/stdout"; return 1; }
    [ ! -e "$out/metrics.jsonl" ] || numbers "$out" >"$scratch/numbers.a"
    for file in "$out"/checkpoints/step-*-hf/model.safetensors; do
        [ ! -e "$file" ] || cp "$file" "$scratch/$(basename "$(dirname "$file")").safetensors"
    done
    [ ! -e "$out/hf" ] || cp "$out/hf/model.safetensors" "$scratch/undisturbed.safetensors"
}

# each WHAT RANKS RANK ERROR STRIDE: a row.
each()
{
    name="$1 on $2, rank $3: $4 at "
    n=$((1 + (seed * 7919) % $5)) tried=0 bad=0
    echo "$name" | grep -qE -e "${FM_FAULT_ROWS:-.}" || return
    undisturbed "$1" "$2" || { tap_not_ok "$1 on $2"; return; }
    while :; do
        trial "$1" "$2" "$3" "$4" "$n" >"$scratch/trouble" 2>&1 || {
            bad=$((bad + 1))
            echo "# call $n: $(grep -h -A5 '^failed' "$scratch/log")" | sed '2,$s/^/#    /'
            head -n 5 "$scratch/trouble" | sed 's/^/#    /'
        }
        grep -q '^failed' "$scratch/log" || break
        tried=$((tried + 1))
        n=$((n + $5))
    done
    if [ $bad -eq 0 ] && [ $tried -gt 0 ]; then tap_ok "${name}each of $tried calls"; else tap_not_ok "$name$bad of $tried calls went wrong"; fi
}

[ -e "$fault_shim" ] || tap_skip_all "the interposer was not built"
# a run as it was in its middle: a checkpoint of step 2 of 4, the metrics of step 3
before=$scratch/before
run_it 1 "$before" >"$scratch/stdout" 2>&1 || { cat "$scratch/stdout"; exit 99; }
rm -r "$before/checkpoints/step-000004" "$before/complete.json" "$before/hf"
sed -i '$d' "$before/metrics.jsonl"
ln -sfn step-000002 "$before/checkpoints/latest"
ln -sfn step-000002 "$before/checkpoints/best"

mkdir "$scratch/in"
cp -r inputs/tiny-llama "$scratch/in/"
cp inputs/instruct-train.jsonl "$scratch/in/train.jsonl"
cp inputs/instruct-valid.jsonl "$scratch/in/valid.jsonl"

# A row's second number is how many calls a short form lets pass between two that fail: about two seconds a trial on one rank, five on two.
every() { echo "${FM_FAULT_STRIDE:-$1}"; }
each run 1 0 EIO "$(every 131)"
each run 1 0 ENOSPC "$(every 311)"
each run 1 0 KILL "$(every 131)"
each run 1 0 SHORT "$(every 311)"
each run 1 0 TERM "$(every 101)"
each resume 1 0 EIO "$(every 151)"
each resume 1 0 KILL "$(every 151)"
each resume 1 0 READ-EIO "$(every 307)"
each resume 1 0 READ-CUT "$(every 307)"
each read 1 0 READ-EIO "$(every 401)"
each read 1 0 READ-SHORT "$(every 701)"
each read 1 0 READ-CUT "$(every 401)"
each convert 1 0 ENOSPC "$(every 61)"
each convert 1 0 TERM "$(every 61)"
each export 1 0 ENOSPC "$(every 23)"
each export 1 0 KILL "$(every 23)"
each export 1 0 TERM "$(every 23)"
each export 1 0 READ-EIO "$(every 61)"
each reshard 1 0 ENOSPC "$(every 61)"
each reshard 1 0 KILL "$(every 61)"
each reshard 1 0 TERM "$(every 61)"
each exports 1 0 EIO "$(every 211)"
each exports 1 0 KILL "$(every 211)"
each run 2 0 EIO "$(every 251)"
each run 2 1 EIO "$(every 251)"
each run 2 all EIO "$(every 251)"
each run 2 1 KILL "$(every 251)"
each resume 2 1 ENOSPC "$(every 151)"
each export 2 all EIO "$(every 23)"
each read 2 all READ-EIO "$(every 701)"
each read 2 1 READ-EIO "$(every 401)"
each slices 2 1 READ-EIO "$(every 97)"
each reshard 2 1 TERM "$(every 61)"
each run 1 0 ALLOC "$(every 1511)"
each resume 1 0 ALLOC "$(every 499)"
each export 1 0 ALLOC "$(every 499)"
each run 2 0 ALLOC "$(every 3001)"
each run 2 1 ALLOC "$(every 499)"
tap_done
