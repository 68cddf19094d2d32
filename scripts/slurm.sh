#!/usr/bin/env bash
# A real Slurm on this machine: one controller and several nodes with declared GPUs, none of them there. For tests and to
# try `cluster=slurm`; root, no systemd, no cgroups. Debian packages slurm-wlm and munge (scripts/apt.sh installs them).
#   scripts/slurm.sh start FOLDER [PORT [S]]  prints the environment of its clients: eval "$(scripts/slurm.sh start …)";
#                                             with S every node runs `stepvideo mind check --slurm` every S seconds
#   scripts/slurm.sh stop FOLDER              cancels what runs and ends every process of this cluster, and no other
#   scripts/slurm.sh status FOLDER            nodes and queue
#   scripts/slurm.sh kill FOLDER WHAT         kill -9: `controller`, or a node with all its processes, as a power cut would
#   scripts/slurm.sh revive FOLDER WHAT       start that again; the controller knows its queue from FOLDER
#   scripts/slurm.sh reboot FOLDER NODE       what `scontrol reboot` calls: stops its slurmd, empties FOLDER/hosts/NODE,
#                                             whose files its checks see in place of the machine's, starts it again
# With SLURM_ACCOUNTING=1 it has a slurmdbd (scripts/slurm_accounting.sh), which `kill` and `revive` know by that name.
# Nodes: training0-1 in the partitions `training` and `urgent` (preempts `training`), inference0-1 in `inference`; the
# partition `buffer` is empty and down.
set -euo pipefail

action=${1:-} root=${2:-} third=${3:-}
[[ $action =~ ^(start|stop|status|kill|revive|reboot)$ && -n $root ]] || { sed -n '2,15s/^# \?//p' "$0"; exit 2; }
[[ ! $action =~ ^(kill|revive|reboot)$ || -n $third ]] || { echo "$action what? controller, or the name of a node" >&2; exit 2; }
[[ $action = start || -s $root/slurm.conf ]] || { echo "no cluster in $root" >&2; exit 1; }
nodes=(training0 training1 inference0 inference1)
gpus=8

# The daemons look at the name that they are called by: as `slurmctld-wlm`, Debian's, they do not know what they are.
daemon() { local p; p=$(PATH=$PATH:/usr/sbin type -P "$1") && echo "$p"; }
alive() { # a zombie is dead: where nobody reaps, kill -0 still finds it
  [ -n "${1:-}" ] && [[ $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) =~ ^[^ZX] ]]
}
end() { # PIDFILE SIGNAL
  local pid; pid=$(cat "$1" 2>/dev/null) || return 0
  kill "-$2" "$pid" 2>/dev/null || true
  for _ in $(seq 100); do alive "$pid" || break; sleep 0.05; done
  alive "$pid" && kill -KILL "$pid" || true
  rm -f "$1"
}
ours() { { grep -zlxF "SLURM_CONF=$root/slurm.conf" /proc/[0-9]*/environ | cut -d/ -f3; } 2>/dev/null || true; }
start_node() { "$(daemon slurmd)" -N "$1" -f "$root/slurm.conf" -d "$(daemon slurmstepd)" "${@:2}"; }
kill_jobs() { # on the node $1, or all; their step daemons too: nobody is left to tell the controller
  local p parent
  for p in $(ours); do
    if grep -qzx "SLURMD_NODENAME=${1:-.*}" "/proc/$p/environ" 2>/dev/null; then
      parent=$(sed 's/.*) //' "/proc/$p/stat" 2>/dev/null | cut -d' ' -f2)
      is_step "$parent" && kill -KILL "$parent" 2>/dev/null || true
      kill -KILL "$p" 2>/dev/null || true
    elif [ -z "${1:-}" ] && is_step "$p"; then
      kill -KILL "$p" 2>/dev/null || true
    fi
  done
}
accounting() { "$(dirname "${BASH_SOURCE[0]}")/slurm_accounting.sh" "$1" "$root" "${@:2}"; }
is_step() { [ "$(cat "/proc/${1:-0}/comm" 2>/dev/null)" = slurmstepd ]; }

if [ "$action" != start ]; then
  root=$(cd "$root" && pwd)
  export SLURM_CONF=$root/slurm.conf
  case $action$third in
    killslurmdbd | reviveslurmdbd) accounting "$action"; exit 0 ;;
  esac
  case $action in
    status) sinfo -N -l; squeue ;;
    kill) if [ "$third" = controller ]; then end "$root/controller.pid" KILL; else end "$root/$third.pid" KILL; kill_jobs "$third"; fi ;;
    revive) if [ "$third" = controller ]; then "$(daemon slurmctld)" -f "$root/slurm.conf"; else start_node "$third"; fi ;;
    reboot) end "$root/$third.pid" TERM; rm -rf "$root/hosts/$third"; sleep 1; start_node "$third" -b ;;
    stop)
      end "$root/controller.pid" TERM
      for node in "${nodes[@]}"; do end "$root/$node.pid" TERM; done
      kill_jobs
      accounting stop
      end "$root/munge/pid" TERM ;;
  esac
  exit 0
fi

for tool in slurmctld slurmd slurmstepd munged sbatch srun squeue; do
  daemon $tool >/dev/null || { echo "$tool is missing: apt-get install slurm-wlm munge" >&2; exit 1; }
done
[ "$(id -u)" -eq 0 ] || { echo "slurmd starts jobs as their users: run this as root" >&2; exit 1; }
mkdir -p "$root"
root=$(cd "$root" && pwd)
! alive "$(cat "$root/controller.pid" 2>/dev/null)" || { echo "a cluster runs in $root already" >&2; exit 1; }
port=${third:-26800}
health_s=${4:-}
python=${STEPVIDEO_PYTHON:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/python}
mkdir -p "$root"/{state,log,gpus,munge,mind,hosts}
for i in $(seq 0 $((gpus - 1))); do ln -sfn /dev/null "$root/gpus/$i"; done
chmod 711 "$root/munge"
(umask 077; head -c 128 /dev/urandom > "$root/munge/key")
echo "Name=gpu Type=h800 File=$root/gpus/[0-$((gpus - 1))]" > "$root/gres.conf"
echo "CgroupAutomount=no" > "$root/cgroup.conf"

# Slurm gives its programs no node's name: of several slurmd on one host it is the one that is their ancestor.
cat > "$root/whoami" <<'PROGRAM'
pid=$$ node=
while [ "${pid:-0}" -gt 1 ] && [ -z "$node" ]; do
  mapfile -d '' -t words < "/proc/$pid/cmdline"
  [[ ${words[0]:-} == *slurmd && ${words[1]:-} == -N ]] && node=${words[2]}
  pid=$(sed 's/.*) //' "/proc/$pid/stat" | cut -d' ' -f2)
done
[ -n "$node" ] || exit 1
PROGRAM
cat > "$root/health" <<PROGRAM
#!/bin/bash
. "$root/whoami"
export SLURM_CONF="$root/slurm.conf" STEPVIDEO_MIND="$root/mind" OMP_NUM_THREADS=1
cd "$(dirname "$(dirname "$(dirname "$python")")")" || exit 1
exec "$python" -m stepvideo.mind.command check --slurm --node "\$node" --overlay "$root/hosts/\$node" \\
  >> "$root/log/health-\$node.log" 2>&1
PROGRAM
cat > "$root/reboot" <<PROGRAM
#!/bin/bash
. "$root/whoami"
setsid "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/slurm.sh" reboot "$root" "\$node" >> "$root/log/reboot.log" 2>&1 < /dev/null &
PROGRAM
chmod 755 "$root"/{health,reboot}
health=${health_s:+"HealthCheckProgram=$root/health
HealthCheckInterval=$health_s
HealthCheckNodeState=ANY"}

auth=munge storage=AccountingStorageType=accounting_storage/none
if [ -n "${SLURM_ACCOUNTING:-}" ]; then # slurmdbd takes no root's word by munge
  auth=none storage="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 5))
AccountingStorageEnforce=limits
AccountingStorageTRES=gres/gpu"
fi

cat > "$root/slurm.conf" <<CONF
ClusterName=stepvideo
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
# nobody but this machine can reach it, and on it only who reads the key
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/$auth
CredType=cred/$auth
# cred_expire is also how long a requeued job waits; below 5 requeued jobs never start
AuthInfo=cred_expire=5$([ $auth = none ] || echo ",socket=$root/munge/socket")
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
# more is declared than the machine has
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
StateSaveLocation=$root/state
SlurmctldPidFile=$root/controller.pid
SlurmdPidFile=$root/%n.pid
SlurmdSpoolDir=$root/spool-%n
SlurmctldLogFile=$root/log/controller.log
SlurmdLogFile=$root/log/%n.log
SlurmdTimeout=6
MessageTimeout=3
KillWait=3
# for who looks at a run of half an hour
MinJobAge=3600
# ids that were not used by a former cluster
FirstJobId=$(($(date +%s) % 60000000))
ReturnToService=2
JobRequeue=1
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$storage
RebootProgram=$root/reboot
ResumeTimeout=60
$health
NodeName=DEFAULT CPUs=16 RealMemory=64000 Gres=gpu:h800:$gpus State=UNKNOWN
$(for i in "${!nodes[@]}"; do echo "NodeName=${nodes[i]} NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 1 + i))"; done)
PartitionName=DEFAULT DefaultTime=10 MaxTime=INFINITE DefMemPerCPU=100
PartitionName=training Nodes=training[0-1] Default=YES PriorityTier=1 GraceTime=5
PartitionName=urgent Nodes=training[0-1] PriorityTier=2 PreemptMode=OFF
PartitionName=inference Nodes=inference[0-1] PriorityTier=1 PreemptMode=OFF
PartitionName=buffer State=DOWN PreemptMode=OFF
CONF

export SLURM_CONF=$root/slurm.conf
trap '[ $? = 0 ] || { tail -n 3 "$root"/log/*.log >&2; "$0" stop "$root"; }' EXIT
"$(daemon munged)" --key-file="$root/munge/key" --socket="$root/munge/socket" --pid-file="$root/munge/pid" \
  --log-file="$root/log/munge.log" --seed-file="$root/munge/seed" --num-threads=2 --force 2>>"$root/log/munge.log"
[ -z "${SLURM_ACCOUNTING:-}" ] || accounting start $((port + 5))
"$(daemon slurmctld)" -f "$root/slurm.conf"
for node in "${nodes[@]}"; do start_node "$node"; done
for _ in $(seq 200); do
  idle=$(sinfo -hN -o '%N %T' 2>/dev/null | sort -u | grep -c ' idle$' || true)
  [ "$idle" = "${#nodes[@]}" ] && break
  sleep 0.1
done
[ "$idle" = "${#nodes[@]}" ] || { echo "only $idle of ${#nodes[@]} nodes are up" >&2; exit 1; }
echo "export SLURM_CONF=$SLURM_CONF"
