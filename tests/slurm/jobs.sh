#!/bin/sh
# The batch scripts of jobs/, unedited, under a real Slurm: whatever stops a run, the job goes on from its checkpoint and ends with the
# metrics of the undisturbed run. Without Slurm, or without root, the script is skipped. FM_SLURM_ROWS, a shell pattern, chooses rows.
. "$srcdir/tests/lib.sh"
. "$source_dir/tests/slurm/cluster.sh"
cd "$source_dir" || exit 99

why=$(cluster_missing)
[ -z "$why" ] || tap_skip_all "$why"
if ! cluster_begin >"$scratch/begin.out" 2>&1; then
    sed 's/^/# /' "$scratch/begin.out"
    cluster_logs
    tap_not_ok "Slurm starts"
    tap_done
    exit 0
fi

# Ranks share the cores with each other and with whatever else runs here.
FINEMESH=$scratch/finemesh
export FINEMESH
cat >"$FINEMESH" <<WRAPPER
#!/bin/sh
export LD_PRELOAD=$build_dir/tests/mesh/.libs/yield_shim.so
exec $build_dir/finemesh "\$@"
WRAPPER
chmod +x "$FINEMESH"

settings="train.steps=40 schedule.warmup_steps=4 checkpoint.every=10 validation.every=20 checkpoint.export=no device.threads=1
    data.seq_length=32 batch.global_batch_size=6 batch.local_batch_size=1"
steps=40

# submit NAME SBATCH-ARGUMENTS: $job is its number, $scratch/NAME.out what it prints.
submit()
{
    name=$1
    shift
    job=$(sbatch --parsable --output="$scratch/$name.out" "$@") && echo "job $job: sbatch $*"
}

# train NAME SBATCH-ARGUMENTS: the job of these tests by finetune.sbatch, in $scratch/NAME.
train()
{
    train_name=$1
    shift
    submit "$train_name" "$@" jobs/finetune.sbatch inputs/quickstart.ini job.output_dir="$scratch/$train_name" $settings
}

# ends JOB STATE: within two minutes.
ends()
{
    pending_since=
    wait_for 120 has_ended "$1" || return 1
    state_is "$1" "$2" || { echo "$(field "$1" JobState), expected $2"; return 1; }
}

# What is not a time.
numbers() { sed -E 's/"(tokens_per_s|step_ms)": [^,}]*//g' "$scratch/$1/metrics.jsonl"; }

# same NAME: bit for bit the metrics of the undisturbed run.
same()
{
    numbers whole >"$scratch/numbers.a"
    numbers "$1" >"$scratch/numbers.b"
    [ "$(wc -l <"$scratch/numbers.a")" -eq $((steps + 2)) ] || return 1
    cmp "$scratch/numbers.a" "$scratch/numbers.b" || { diff "$scratch/numbers.a" "$scratch/numbers.b" | head -n 8; return 1; }
}

# close NAME: its losses within 1e-6 at the first step, 1e-4 later.
close()
{
    for run in whole "$1"; do
        sed -n 's/.*"loss": *\([^,}]*\).*/\1/p' "$scratch/$run/metrics.jsonl" >"$scratch/losses.$run"
    done
    paste "$scratch/losses.whole" "$scratch/losses.$1" | awk -v n=$steps '{
        d = ($1 - $2) / $1; if (d < 0) d = -d
        if (NF != 2 || (NR == 1 ? d > 1e-6 : d > 1e-4)) { print "line " NR ": " $0; bad = 1 }
    } END { exit bad || NR != n }'
}

lines_are() { [ "$(cat "$scratch/$1/metrics.jsonl" 2>/dev/null | wc -l)" -ge "$2" ]; }

# ranks NAME: the processes of a run.
ranks()
{
    grep -lsaz "^job.output_dir=$scratch/$1\$" /proc/[0-9]*/cmdline | sed 's|/proc/\([0-9]*\)/.*|\1|' | while read -r pid; do
        case $(readlink "/proc/$pid/exe") in
        */finemesh) echo "$pid" ;;
        esac
    done
}

# hold NAME: its ranks stand still in the middle of the run, until Slurm or `kill -CONT` wakes them: however fast or slow this machine
# is, what is done to them now is done to a run that is neither beginning nor over.
hold()
{
    wait_for 60 lines_are "$1" 5 || { cat "$scratch/$1.out"; return 1; }
    held=$(ranks "$1")
    kill -STOP $held && ! lines_are "$1" $steps
}

# says NAME TEXT COUNT: so many times in what the job printed.
says()
{
    found=$(grep -c -F -e "$2" "$scratch/$1.out")
    [ "$found" -eq "$3" ] || { echo "\"$2\" $found times, expected $3:"; cat "$scratch/$1.out"; return 1; }
}

# came_back NAME JOB: the run was stopped once by request, requeued once, and ends as if nothing had been.
came_back()
{
    ends "$2" COMPLETED && says "$1" "# stopped after step" 1 && says "$1" "# resume: after step" 1 && same "$1" || return 1
    [ "$(field "$2" Restarts)" -eq 1 ] || { echo "$(field "$2" Restarts) restarts, expected 1"; return 1; }
}

one_node() { train one && ends "$job" COMPLETED && same one; }

three_nodes()
{
    submit three --nodes=3 --ntasks-per-node=1 jobs/finetune-nodes.sbatch inputs/quickstart.ini job.output_dir="$scratch/three" $settings &&
        ends "$job" COMPLETED && close three && [ "$(field "$job" NumNodes)" -eq 3 ] && [ -f "$scratch/three/checkpoints/latest/rank-00002.h5" ]
}

# A rank that dies takes the job with it, soon; what was complete stays, and the same line goes on.
rank_dies()
{
    train dies --requeue && wait_for 60 test -e "$scratch/dies/checkpoints/latest" && hold dies || return 1
    set -- $held
    kill -9 "$2"
    kill -CONT "$1"
    ends "$job" FAILED && [ "$(field "$job" Restarts)" -eq 0 ] && [ -z "$(ranks dies)" ] || return 1
    "$build_dir/finemesh" verify "$scratch/dies/checkpoints/latest" || return 1
    train dies && ends "$job" COMPLETED && says dies "# resume: after step" 1 && same dies
}

# interrupted NAME SBATCH-ARGUMENTS -- COMMAND: what a command does to a run makes it stop at a checkpoint and come back.
interrupted()
{
    interrupted_name=$1 arguments=
    shift
    while [ "$1" != -- ]; do
        arguments="$arguments $1"
        shift
    done
    shift
    train "$interrupted_name" $arguments && hold "$interrupted_name" || return 1
    victim=$job
    "$@" && came_back "$interrupted_name" "$victim"
}

# A job that needs all of the first node, for a moment.
urgent() { submit urgent --partition=urgent --nodelist=n1 --exclusive --wrap true && ends "$job" COMPLETED; }
requeue() { scontrol requeue "$victim"; }

# A cancelled run leaves a checkpoint, does not come back by itself, and the same line goes on.
cancelled()
{
    train cancelled && hold cancelled && scancel "$job" && ends "$job" CANCELLED || return 1
    says cancelled "# stopped after step" 1 && [ "$(field "$job" Restarts)" -eq 0 ] || return 1
    train cancelled && ends "$job" COMPLETED && says cancelled "# resume: after step" 1 && same cancelled
}

# The first minute of time limits: these two run beside the other rows. Slurm looks at limits every 30 s.
begin_limits()
{
    FM_SLURM_DEADLINE=$(date +%s)
    train limit --nodelist=n3 --time=00:01:00 --signal=URG@1 && limit_job=$job && hold limit && limit_ranks=$held &&
        train warned --nodelist=n3 --time=00:02:00 && warned_job=$job && hold warned && warned_ranks=$held
}

# Without a signal from Slurm: finemesh knows the end of the allocation, and that its longest step would not fit any more.
limit_is_known()
{
    wait_for 30 at_least "$FM_SLURM_DEADLINE" 28
    kill -CONT $limit_ranks
    came_back limit "$limit_job" && says limit "by the time limit" 1
}

at_least() { [ $(($(date +%s) - $1)) -ge "$2" ]; }

# SIGUSR1 is pending for a stopped process, bit 9 of the mask; or it is gone: Slurm may wake it.
was_warned() { [ ! -d "/proc/$1" ] || grep -q '^ShdPnd:.*[2367abef]..$' "/proc/$1/status"; }

warned()
{
    wait_for 100 was_warned "${warned_ranks%%[!0-9]*}" || return 1
    kill -CONT $warned_ranks 2>/dev/null
    came_back warned "$warned_job" && says warned "by User defined signal 1" 1
}

# Each rank believes that it is alone: nothing is begun.
singletons()
{
    FINEMESH_MPI=none train alone && ends "$job" FAILED && says alone "MPI was not told of them" 2 && [ ! -e "$scratch/alone" ] || return 1
    ! srun --mpi=none --ntasks=2 "$FINEMESH" load >"$scratch/alone.out" 2>&1 && says alone "srun --mpi=pmi2 finemesh" 2
}

# One task of an array is stopped: it alone comes back, also where its number is that of the array.
array()
{
    ln -s "$source_dir/inputs" "$scratch/inputs"
    printf '%s\n' "optimizer.lr=1e-3 'job.name=another name'" "optimizer.lr=2e-3" >"$scratch/sweep.txt"
    submit sweep --array=1-2 --chdir="$scratch" --output="$scratch/sweep-%a.out" jobs/sweep.sbatch inputs/quickstart.ini sweep.txt \
        $settings || return 1
    ln -s runs/quickstart-2 "$scratch/sweep-2"
    wait_for 60 lines_are sweep-2 5 || return 1
    scancel --signal=USR1 "${job}_2.0"
    ends "${job}_1" COMPLETED && [ "$(field "${job}_1" Restarts)" -eq 0 ] && came_back sweep-2 "${job}_2" &&
        grep '"step": 4,.*"lr": 0.001' "$scratch/runs/quickstart-1/metrics.jsonl"
}

# in_allocation NODES: a small `make check` through check.sbatch; its own log files leave those of the tests around it alone.
in_allocation()
{
    FINEMESH_BUILD=$build_dir submit "check$1" --nodes="$1" jobs/check.sbatch TESTS=tests/slurm/in_allocation.sh \
        check_PROGRAMS= check_LTLIBRARIES= TEST_SUITE_LOG="tests/slurm/allocation$1.log" && ends "$job" COMPLETED && says "check$1" "# FAIL:  0" 1
}

# A rank for each GPU of each node.
gpus()
{
    [ -f "$cluster/gres.conf" ] || { echo "no device can be made here"; return 77; }
    submit gpus --nodes=2 --gpus-per-node=2 jobs/finetune-gpu.sbatch inputs/quickstart.ini job.output_dir="$scratch/gpus" $settings \
        train.steps=8 batch.global_batch_size=4 && ends "$job" COMPLETED && [ -f "$scratch/gpus/checkpoints/latest/rank-00003.h5" ]
}

# refused WORDS SBATCH-ARGUMENTS
refused()
{
    words=$1
    rm -f "$scratch/refused.out"
    shift
    submit refused "$@" && ends "$job" FAILED && says refused "$words" 1
}
wrong()
{
    refused "a job file is missing" jobs/finetune.sbatch && refused "no-such.ini: no such job file" jobs/finetune.sbatch no-such.ini &&
        FINEMESH=no-such-program refused "no-such-program: no such program" jobs/finetune.sbatch inputs/quickstart.ini &&
        refused "this job was given no GPU" --gpus-per-node=0 jobs/finetune-gpu.sbatch inputs/quickstart.ini &&
        refused "is no array job" jobs/sweep.sbatch inputs/quickstart.ini inputs/quickstart.ini
}

# row NAME DESCRIPTION COMMAND...
row()
{
    case $1 in
    ${FM_SLURM_ROWS:-*}) ;;
    *) return ;;
    esac
    row_begin=$(date +%s) row_failed=$tap_failed
    shift
    tap_check "$@"
    echo "# $(($(date +%s) - row_begin)) s"
    [ $tap_failed -eq "$row_failed" ] || { tail -n 20 "$scratch/$name"*.out | sed 's/^/# /'; cluster_logs; }
}

tap_check "undisturbed" run_ranks 2 "$FINEMESH" run inputs/quickstart.ini job.output_dir="$scratch/whole" $settings
row limit "two runs with a time limit begin" begin_limits
row one "finetune.sbatch on one node" one_node
row three "finetune-nodes.sbatch on three nodes" three_nodes
row gpus "finetune-gpu.sbatch on two nodes with two GPUs" gpus
row preempted "preempted: back in the queue, then as undisturbed" interrupted preempted --nodelist=n1 -- urgent
row limit "time limit: back in the queue, then as undisturbed" limit_is_known
row grace "preempted with a grace time" interrupted grace --nodelist=n1 --partition=grace -- urgent
row requeued "requeued by hand" interrupted requeued -- requeue
row limit "Slurm's warning: back in the queue, then as undisturbed" warned
row dies "a rank dies: the job fails, the same line goes on" rank_dies
row cancelled "cancelled: the job stays away, the same line goes on" cancelled
row singletons "copies that know nothing of each other are refused" singletons
row array "one task of a sweep is stopped: it alone comes back" array
row check "check.sbatch on one node" in_allocation 1
row check "check.sbatch on two nodes" in_allocation 2
row wrong "wrong calls are told" wrong
tap_done
