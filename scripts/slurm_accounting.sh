#!/usr/bin/env bash
# Slurm's accounting for a cluster of scripts/slurm.sh: slurmdbd with a MariaDB of its own, reached by a socket only.
#   SLURM_ACCOUNTING=1 scripts/slurm.sh start FOLDER    calls `start` here; `stop`, `kill` and `revive … slurmdbd` work, too
# Debian packages slurmdbd and mariadb-server, which `make test` does not install.
set -euo pipefail

action=$1 root=$2 port=${3:-26900}
home=$root/accounting
export PATH=$PATH:/usr/sbin
query() { mariadb --no-defaults --socket="$home/socket" --user=root --execute="$1"; }
daemon() { # libmariadb takes the socket from the environment
  MYSQL_UNIX_PORT=$home/socket SLURM_CONF=$home/slurmdbd.conf "$(type -P slurmdbd)"
}
end() { # PIDFILE SIGNAL
  local pid; pid=$(cat "$1" 2>/dev/null) || return 0
  kill "-$2" "$pid" 2>/dev/null || true
  for _ in $(seq 100); do [[ $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) =~ ^[^ZX] ]] || break; sleep 0.05; done
  rm -f "$1"
}

case $action in
  stop) end "$home/slurmdbd.pid" TERM; end "$home/mariadb.pid" TERM; exit 0 ;;
  kill) end "$home/slurmdbd.pid" KILL; exit 0 ;;
  revive) daemon; exit 0 ;;
esac

for tool in slurmdbd mariadbd mariadb-install-db sacctmgr; do
  type -P $tool >/dev/null || { echo "$tool is missing: apt-get install slurmdbd mariadb-server" >&2; exit 1; }
done
mkdir -p "$home"
user=$(id -un)
mariadb-install-db --no-defaults --datadir="$home/data" --user="$user" --auth-root-authentication-method=normal \
  --skip-test-db > "$root/log/mariadb.log" 2>&1
setsid mariadbd --no-defaults --datadir="$home/data" --socket="$home/socket" --pid-file="$home/mariadb.pid" \
  --skip-networking --user="$user" --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
  --innodb-flush-log-at-trx-commit=0 >> "$root/log/mariadb.log" 2>&1 < /dev/null &
for _ in $(seq 300); do query 'select 1' >/dev/null 2>&1 && break; sleep 0.1; done
query "create database slurm; create user slurm@localhost identified by 'slurm'; grant all on slurm.* to slurm@localhost"
cat > "$home/slurmdbd.conf" <<CONF
AuthType=auth/none
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$port
SlurmUser=$user
LogFile=$root/log/slurmdbd.log
PidFile=$home/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
CONF
chmod 600 "$home/slurmdbd.conf"
daemon
for _ in $(seq 300); do timeout 3 sacctmgr -n list cluster >/dev/null 2>&1 && break; sleep 0.1; done
sacctmgr -i add cluster stepvideo >/dev/null
sacctmgr -i add account stepvideo >/dev/null
sacctmgr -i add user "$user" account=stepvideo >/dev/null
