#!/usr/bin/env bash
# A real S3 server on this machine: Ceph's gateway over one monitor and one store in memory. Any user; Debian packages
# ceph-mon ceph-osd radosgw (61 MB).
#   scripts/s3_server.sh start FOLDER [PORT]   prints the AWS_* variables of a client; what is in it is lost at the stop
#   scripts/s3_server.sh stop FOLDER
set -euo pipefail

action=${1:-} root=${2:-} port=${3:-27480}
[[ $action =~ ^(start|stop)$ && -n $root ]] || { sed -n '2,5s/^# \?//p' "$0"; exit 2; }

if [ "$action" = stop ]; then
  for pid in "$root"/*.pid; do [ -s "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true; done
  exit 0
fi

for tool in ceph ceph-mon ceph-osd radosgw radosgw-admin monmaptool curl; do
  command -v $tool >/dev/null || { echo "$tool is missing: apt-get install ceph-mon ceph-osd radosgw curl" >&2; exit 1; }
done
mkdir -p "$root"
root=$(cd "$root" && pwd)
mkdir -p "$root"/{mon,osd,rgw}
fsid=$(cat /proc/sys/kernel/random/uuid)
monitor="v1:127.0.0.1:$((port + 1))"

cat > "$root/ceph.conf" <<CONF
[global]
fsid = $fsid
mon host = $monitor
mon initial members = only
public addr = 127.0.0.1
ms bind ipv6 = false
ms bind msgr2 = false
# nobody but this machine can reach it
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
keyring = $root/keyring
run dir = $root
pid file = $root/\$name.pid
admin socket = $root/\$name.asok
log file = $root/\$name.log
crash dir = $root
mon data = $root/mon
osd data = $root/osd
rgw data = $root/rgw
# one copy of everything, in memory
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd class load list = *
osd class default list = *
mon allow pool size one = true
mon max pg per osd = 2000
mon data avail warn = 1
mon data avail crit = 1
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw thread pool size = 32
CONF
: > "$root/keyring"
ceph() { command ceph -c "$root/ceph.conf" "$@" >/dev/null 2>&1; }

monmaptool --create --clobber --fsid "$fsid" --addv only "[$monitor]" "$root/monmap" >/dev/null
ceph-mon -c "$root/ceph.conf" --mkfs -i only --monmap "$root/monmap" 2>/dev/null
ceph-mon -c "$root/ceph.conf" -i only
store=$(cat /proc/sys/kernel/random/uuid)
ceph osd new "$store"
ceph-osd -c "$root/ceph.conf" -i 0 --mkfs --osd-uuid "$store" >/dev/null 2>&1
ceph osd crush add-bucket here host
ceph osd crush move here root=default
ceph osd crush add osd.0 1 root=default host=here
ceph-osd -c "$root/ceph.conf" -i 0 >/dev/null 2>&1
radosgw -c "$root/ceph.conf" -n client.rgw
for _ in $(seq 600); do curl -so /dev/null "http://127.0.0.1:$port/" && break; sleep 0.2; done
radosgw-admin -c "$root/ceph.conf" -n client.rgw user create --uid=step --display-name=step \
  --access-key=stepaccess --secret=stepsecret >/dev/null 2>&1

cat <<ENV
AWS_ENDPOINT_URL=http://127.0.0.1:$port
AWS_ACCESS_KEY_ID=stepaccess
AWS_SECRET_ACCESS_KEY=stepsecret
AWS_DEFAULT_REGION=us-east-1
AWS_EC2_METADATA_DISABLED=true
ENV
