# A Slurm of a test's own on this machine: munged, slurmctld and three slurmd, n1 to n3, as root, with their keys, sockets, state and
# logs in one directory, on free ports of 127.0.0.1. No other Slurm is asked, used or ended. Sourced after tests/lib.sh.
#
# Partitions: work (the default: what runs there goes back into the queue when urgent work comes), grace (the same, 30 s after it was
# told), urgent.

cluster=$scratch/cluster

# What stands between this machine and the tests; nothing: they can run.
cluster_missing()
{
    for command in munged slurmctld slurmd sbatch srun squeue scontrol scancel; do
        command -v $command >/dev/null || { echo "there is no $command here (Debian: slurmctld slurmd slurm-client munge)"; return; }
    done
    [ -z "${FM_TEST_CLUSTER:-}" ] || { echo "this is a job of such a Slurm"; return; }
    [ "$(id -u)" -eq 0 ] || { echo "slurmd starts jobs as root only"; return; }
    getent hosts "$(uname -n)" >/dev/null || echo "no address is known for $(uname -n), this machine's name, for which Slurm asks"
}

# free_ports N: so many that nobody listens on, below those that the system gives out.
free_ports()
{
    port=$((20000 + $$ % 10000)) found=0
    while [ $found -lt "$1" ]; do
        port=$((port + 1))
        ! cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -qi "^ *[0-9]*: [0-9a-f]*:$(printf %04x $port) " || continue
        echo $port
        found=$((found + 1))
    done
}

write_conf()
{
    set -- $(free_ports 4)
    cat >"$cluster/slurm.conf" <<CONF
ClusterName=finemesh
SlurmctldHost=$(uname -n)(127.0.0.1)
SlurmctldPort=$1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$cluster/munge.socket,cred_expire=5
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool.%n
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.%n.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n[1-3] NodeHostname=$(uname -n) NodeAddr=127.0.0.1 Port=$2,$3,$4 CPUs=8 RealMemory=1000 Gres=gpu:2
PartitionName=work Nodes=n[1-3] Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=grace Nodes=n[1-3] MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=n[1-3] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
    # Two GPUs a node, as far as Slurm can tell; where devices cannot be made, none.
    if mknod "$cluster/gpu0" c 1 3 && mknod "$cluster/gpu1" c 1 3; then
        echo "NodeName=n[1-3] Name=gpu File=$cluster/gpu[0-1]" >"$cluster/gres.conf"
    else
        sed -i 's/ Gres=gpu:2//' "$cluster/slurm.conf"
    fi 2>/dev/null
    echo "CgroupPlugin=cgroup/v1" >"$cluster/cgroup.conf"
}

# daemon NAME COMMAND...: in the background, its number kept.
daemon()
{
    daemon_name=$1
    shift
    "$@" >"$cluster/$daemon_name.out" 2>&1 </dev/null &
    echo $! >>"$cluster/daemons"
}

# Whether all nodes are there within 30 s.
cluster_begin()
{
    mkdir "$cluster" "$cluster/state" "$cluster/spool.n1" "$cluster/spool.n2" "$cluster/spool.n3"
    unset $(env | sed -n 's/^\(\(SLURM\|SBATCH\|SRUN\|SALLOC\|SQUEUE\|SCANCEL\|PMI\)[A-Z0-9_]*\)=.*/\1/p')
    SLURM_CONF=$cluster/slurm.conf
    FM_TEST_CLUSTER=$cluster            # marks every process that comes of this cluster
    export SLURM_CONF FM_TEST_CLUSTER
    trap 'cluster_end; rm -rf "$scratch"' EXIT
    write_conf
    head -c 128 /dev/urandom >"$cluster/munge.key"
    chmod 600 "$cluster/munge.key"
    daemon munged munged --foreground --force --key-file="$cluster/munge.key" --socket="$cluster/munge.socket" \
        --pid-file="$cluster/munge.pid" --seed-file="$cluster/munge.seed" --log-file="$cluster/munge.log"
    wait_for 10 test -S "$cluster/munge.socket" || return 1
    daemon slurmctld slurmctld -D -i -c -f "$SLURM_CONF"
    for node in n1 n2 n3; do
        daemon $node slurmd -D -f "$SLURM_CONF" -N $node
    done
    wait_for 30 nodes_are_idle 3
}

nodes_are_idle() { [ "$(sinfo -h -N -p work -t idle -o %N 2>/dev/null | sort -u | wc -l)" -eq "$1" ]; }

# Everything that was started here ends: first as Slurm does it, then by number, found by the mark in its environment.
cluster_end()
{
    scancel --user=root --quiet 2>/dev/null
    scancel --user=root --quiet --signal=KILL 2>/dev/null
    [ ! -f "$cluster/daemons" ] || kill $(cat "$cluster/daemons") 2>/dev/null
    for try in 1 2 3 4 5 6 7 8 9 10; do
        left=$(grep -lsaz "^FM_TEST_CLUSTER=$cluster\$" /proc/[0-9]*/environ | sed 's|/proc/\([0-9]*\)/.*|\1|' | grep -vx $$)
        [ -n "$left" ] || return 0
        [ $try -lt 4 ] || kill -9 $left 2>/dev/null
        sleep 0.3
    done
}

# For the log of a failed test.
cluster_logs()
{
    for log in "$cluster/slurmctld.log" "$cluster"/slurmd.n?.log; do
        [ ! -s "$log" ] || { echo "# == ${log##*/}"; tail -n 15 "$log" | sed 's/^/# /'; }
    done
}

# wait_for SECONDS COMMAND...: until it succeeds; 1 after the time.
wait_for()
{
    wait_end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt $wait_end ] || { echo "waited in vain for: $*"; return 1; }
        sleep 0.1
    done
}

# field JOB NAME: of what Slurm says about a job.
field() { scontrol -o show job "$1" | sed -n "s/.* $2=\([^ ]*\).*/\1/p" | head -n 1; }

state_is() { [ "$(field "$1" JobState)" = "$2" ]; }

# Slurm holds a job back after a requeue until its old credentials have expired (cred_expire), and as long again: not here.
hurry()
{
    now=$(date +%s)
    pending_since=${pending_since:-$now}
    [ $((now - pending_since)) -lt 6 ] || scontrol update job="$1" StartTime=now 2>/dev/null
}

has_ended()
{
    case $(field "$1" JobState) in
    PENDING) hurry "$1" ;;
    CONFIGURING | RUNNING | COMPLETING | SUSPENDED | REQUEUED | '') ;;
    *) return 0 ;;
    esac
    return 1
}
