#!/usr/bin/env bash
# A SLURM cluster of this machine alone, for tests: single_node_slurm.sh start DIR | stop DIR
# Needs the programs of Debian's packages slurm-wlm and munge. All files are in DIR; afterwards
# `export SLURM_CONF=DIR/slurm.conf` makes squeue, sbatch and the others use it.
set -euo pipefail
action=$1 dir=$(realpath -m "$2") host=$(hostname -s) user=$(id -un)
if [[ $action == stop ]]; then
  for name in slurmd slurmctld munged; do
    [[ -f $dir/$name.pid ]] || continue
    process=$(cat "$dir/$name.pid")
    kill "$process" 2>/dev/null || continue
    # It writes into DIR until it has ended, and whoever deletes DIR then finds it not empty.
    for _ in {1..100}; do kill -0 "$process" 2>/dev/null || break; sleep 0.1; done
  done
  exit 0
fi
mkdir -p "$dir"/{state,spool}
chmod 700 "$dir"
dd if=/dev/urandom of="$dir/munge.key" bs=1024 count=1 2>/dev/null
chmod 400 "$dir/munge.key"
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
  --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
KillWait=5
MaxArraySize=4
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(free -m | awk '/Mem:/{print $2}') * 9 / 10)) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PreemptMode=OFF
CONF
export SLURM_CONF=$dir/slurm.conf
slurmctld
sleep 1
slurmd
for _ in $(seq 40); do
  if sinfo -h -o %t 2>/dev/null | grep -q idle; then exit 0; fi
  sleep 0.5
done
echo "slurm did not come up; see $dir/slurmctld.log and $dir/slurmd.log" >&2
exit 1
