#!/usr/bin/env bash
# A Slurm cluster of two nodes, with accounting, for as long as one command runs: cluster.sh COMMAND ARGUMENTS...
#
# It lives in namespaces of its own (processes, mounts, network, host name): nothing of it is seen outside or left
# afterwards, and nothing that the machine has is touched. Needs root, and Debian's slurm-wlm, slurmdbd, munge and
# mariadb-server, which it installs where apt-get is and they are not.
set -euo pipefail

cpus_per_node=2
packages=(slurm-wlm slurmdbd munge mariadb-server)

fail() {
    echo "tests/slurm/cluster.sh: $*" >&2
    exit 1
}

# bounded SECONDS WHAT COMMAND...: waits until the command succeeds.
bounded() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || {
            tail -n 20 "$state"/log/* >&2
            fail "$what did not come up; its logs are above"
        }
        sleep 0.3
    done
}

outside() {
    [[ $(id -u) == 0 ]] || fail "needs root, for namespaces and for slurmd"
    if ! command -v slurmctld slurmd slurmdbd munged mariadbd >/dev/null; then
        command -v apt-get >/dev/null || fail "install ${packages[*]} first"
        echo "installing ${packages[*]}" >&2
        # No daemon of theirs is to start on this machine.
        printf '#!/bin/sh\nexit 101\n' >/tmp/no-daemons.$$ && chmod +x /tmp/no-daemons.$$
        local policy=/usr/sbin/policy-rc.d
        [[ -e $policy ]] || { cp /tmp/no-daemons.$$ $policy && trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
        rm -f /tmp/no-daemons.$$
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >/dev/null ||
            fail "apt-get could not install ${packages[*]}"
        rm -f $policy && trap - EXIT
    fi
    state=$(mktemp -d)
    trap 'rm -rf "$state"' EXIT
    # The shell inside is process 1 of its namespace: when it ends, the kernel ends all that is left there.
    unshare --mount --net --uts --ipc --pid --fork --mount-proc --kill-child -- "$BASH" "${BASH_SOURCE[0]}" --inside "$state" "$@"
}

inside() {
    state=$1
    shift
    hostname controller
    ip link set lo up
    # Slurm asks for addresses of families that an interface other than loopback has.
    ip link add wire0 type veth peer name wire1
    ip address add 10.91.0.1/24 dev wire0
    ip link set wire0 up
    ip link set wire1 up
    # Names are looked up here alone: there is nobody to ask.
    printf '127.0.0.1 localhost controller n1 n2\n::1 localhost\n10.91.0.1 controller\n' >"$state/hosts"
    mount --bind "$state/hosts" /etc/hosts
    printf 'passwd: files\ngroup: files\nhosts: files\n' >"$state/nsswitch"
    mount --bind "$state/nsswitch" /etc/nsswitch.conf
    mkdir -p /etc/slurm "$state"/{log,munge,spool/n1,spool/n2,controller,database,etc}
    mount -t tmpfs none /run
    mkdir -p /run/munge /run/lock /run/mysqld
    mount --bind "$state/etc" /etc/slurm
    chmod 755 "$state"

    dd if=/dev/urandom of="$state/munge/key" bs=1024 count=1 status=none
    chown -R munge:munge "$state/munge" /run/munge
    chmod 400 "$state/munge/key"
    setpriv --reuid=munge --regid=munge --clear-groups munged --key-file="$state/munge/key" --log-file="$state/munge/log" \
        --pid-file="$state/munge/pid" --seed-file="$state/munge/seed"
    bounded 20 munged munge -n

    chown mysql "$state/database" /run/mysqld
    mariadb-install-db --user=mysql --datadir="$state/database" --auth-root-authentication-method=normal >"$state/log/install" 2>&1
    mariadbd --no-defaults --user=mysql --datadir="$state/database" --socket=/run/mysqld/mysqld.sock --skip-networking \
        --innodb-buffer-pool-size=64M >"$state/log/mariadbd" 2>&1 &
    bounded 60 mariadbd mariadb-admin --no-defaults --user=root --socket=/run/mysqld/mysqld.sock ping

    cat >/etc/slurm/slurmdbd.conf <<CONF
DbdHost=controller
SlurmUser=root
AuthType=auth/munge
StorageType=accounting_storage/mysql
StorageUser=root
StorageLoc=accounting
LogFile=$state/log/slurmdbd
PidFile=/run/slurmdbd.pid
CONF
    chmod 600 /etc/slurm/slurmdbd.conf
    cat >/etc/slurm/slurm.conf <<CONF
ClusterName=test
SlurmctldHost=controller
SlurmUser=root
AuthType=auth/munge
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=controller
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
# The time for a checkpoint between SIGTERM and SIGKILL.
KillWait=60
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/spool/%n
SlurmctldLogFile=$state/log/slurmctld
SlurmdLogFile=$state/log/slurmd-%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd-%n.pid
NodeName=n1 NodeHostname=controller NodeAddr=127.0.0.1 Port=17001 CPUs=$cpus_per_node RealMemory=4000
NodeName=n2 NodeHostname=controller NodeAddr=127.0.0.1 Port=17002 CPUs=$cpus_per_node RealMemory=4000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=60 State=UP
CONF
    slurmdbd
    bounded 60 slurmdbd sacctmgr --immediate --noheader list cluster
    sacctmgr --immediate add cluster test >/dev/null || true
    slurmctld
    slurmd -N n1
    slurmd -N n2
    nodes_idle() { [[ $(sinfo --noheader --format=%D --states=idle) == 2 ]]; }
    bounded 60 "nodes n1 and n2" nodes_idle
    HOME_DIST_SLURM=1 "$@"
}

if [[ ${1:-} == --inside ]]; then
    shift
    inside "$@"
elif (($#)); then
    outside "$@"
else
    fail "usage: cluster.sh COMMAND ARGUMENTS..."
fi
