#!/bin/sh
# A disk that is full, a file system that can only be read, a limit of files' sizes, one without locks: the run ends with a message that
# names the file, complete checkpoints stay, and once there is room again it goes on. Needs root for its small file systems.
. "$srcdir/tests/lib.sh"
. "$srcdir/tests/fault/lib.sh"
cd "$source_dir" || exit 99
disk=$scratch/disk
trap 'umount "$disk" 2>/dev/null; rm -rf "$scratch"' EXIT

train() { launch "$1" run $(job "$2" checkpoint.export=final distributed.dp_size="$1"); }

# fails STATUS WORDS RANKS: the run on the disk does, with one message.
fails()
{
    train "$3" "$disk/run" >"$scratch/stdout" 2>"$scratch/err"
    status=$?
    cat "$scratch/err"
    [ $status -eq "$1" ] || { echo "exit status $status"; return 1; }
    one_error "$scratch/err" "$2"
}

mounted() { mkdir -p "$disk" && mount -t tmpfs -o size="$1" finemesh-test "$disk"; }

# full KIB STATUS CHECKPOINT RANKS: on a disk of that size the run fails; the newest checkpoint that is complete is that of step CHECKPOINT
# (0: none); with room it goes on from there and ends as the undisturbed run.
full()
{
    mounted "$1k" || return 1
    fails "$2" "$disk/run/.*No space left on device" "$4" && complete "$disk/run" || return 1
    [ "$(basename "$(readlink "$disk/run/checkpoints/latest" || echo none)")" = "$(case $3 in 0) echo none ;; *) echo "step-00000$3" ;; esac)" ] ||
        { ls -l "$disk/run/checkpoints"; return 1; }
    mount -o remount,size=100m "$disk"
    train "$4" "$disk/run" >"$scratch/stdout" 2>&1 || { cat "$scratch/stdout"; return 1; }
    [ "$3" -eq 0 ] || grep "^# resume: after step $3 of 4" "$scratch/stdout" || return 1
    cp "$scratch/numbers.$4" "$scratch/numbers.a"
    equal "$disk/run" && cmp "$disk/run/hf/model.safetensors" "$scratch/whole$4/hf/model.safetensors"
    equal_status=$?
    umount "$disk"
    return $equal_status
}

# read_only: at the beginning, and in the middle of a run.
read_only()
{
    mounted 100m && mount -o remount,ro "$disk" || return 1
    fails 1 "$disk/run.*Read-only file system" 1 || return 1
    mount -o remount,rw "$disk"
    cp -r "$scratch/whole1" "$disk/run"
    rm -r "$disk/run/complete.json" "$disk/run/checkpoints/step-000004"
    mount -o remount,ro "$disk"
    fails 1 "$disk/run.*Read-only file system" 1 || return 1
    mount -o remount,rw "$disk"
    train 1 "$disk/run" >"$scratch/stdout" 2>&1 || { cat "$scratch/stdout"; return 1; }
    cp "$scratch/numbers.1" "$scratch/numbers.a"
    equal "$disk/run"
    equal_status=$?
    umount "$disk"
    return $equal_status
}

# small_files: `ulimit -f`, in blocks of 512 bytes (bash counts in 1,024 where it is not in POSIX mode): MPI's shared memory fits, a
# checkpoint's file of 6,220,800 bytes does not.
blocks=12000
[ -z "${BASH_VERSION:-}" ] || case :$SHELLOPTS: in *:posix:*) ;; *) blocks=6000 ;; esac
small_files()
{
    (ulimit -f $blocks && train 1 "$scratch/small" >"$scratch/stdout" 2>"$scratch/err")
    status=$?
    cat "$scratch/err"
    [ $status -eq 2 ] && one_error "$scratch/err" "$scratch/small/checkpoints/.*File too large"
}

# no_locks: a warning, and a run.
no_locks()
{
    (
        export FAULT_LOG="$scratch/log" FAULT_DIR="$scratch/unlocked" FAULT_ERROR=NOLOCK
        train 1 "$scratch/unlocked" >"$scratch/stdout" 2>"$scratch/err"
    ) || { cat "$scratch/err"; return 1; }
    cp "$scratch/numbers.1" "$scratch/numbers.a"
    grep "cannot be locked" "$scratch/err" && equal "$scratch/unlocked"
}

for ranks in 1 2; do
    train $ranks "$scratch/whole$ranks" >"$scratch/stdout" 2>&1 || { cat "$scratch/stdout"; exit 99; }
    numbers "$scratch/whole$ranks" >"$scratch/numbers.$ranks"
done
tap_check "a limit of files' sizes" small_files
tap_check "a file system without locks" no_locks
if mounted 1m 2>"$scratch/refused"; then
    umount "$disk"
    tap_check "no room for the converted model" full 1000 1 0 1
    tap_check "no room for the first checkpoint" full 6000 2 0 1
    tap_check "no room for the second" full 12000 2 2 1
    tap_check "no room for the model that would be exported" full $(($(du -sk "$scratch/whole1" | cut -f 1) - 600)) 2 4 1
    tap_check "no room for the first checkpoint of 2 ranks" full 6000 2 0 2
    tap_check "no room for the second" full 12000 2 2 2
    tap_check "a file system that can only be read" read_only
else
    tap_skip "a full disk, and one that can only be read" "no file system can be mounted here: $(head -n 1 "$scratch/refused")"
fi
tap_done
