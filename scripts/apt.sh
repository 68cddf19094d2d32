#!/usr/bin/env bash
# Debian packages that tests use: a browser, which opens the pages, a font with Chinese characters, Slurm, and the servers
# of the team stack (docs/team.md): PostgreSQL, Ceph's S3 gateway and two Python packages of MLflow's server.
# Installed only by root and only where missing; without them those tests are skipped and say why.
set -euo pipefail

missing=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
  missing+=(chromium)
command -v fc-list >/dev/null && [ -n "$(fc-list :lang=zh 2>/dev/null | head -n 1)" ] || missing+=(fontconfig fonts-wqy-microhei)
command -v sbatch >/dev/null || missing+=(slurm-wlm)
[ -x /usr/sbin/munged ] || command -v munged >/dev/null || missing+=(munge)
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null || missing+=(postgresql)
for program in ceph-mon ceph-osd radosgw; do
  command -v $program >/dev/null || missing+=($program)
done
for package in psycopg:python3-psycopg flask_wtf:python3-flaskext.wtf; do
  [ -d "/usr/lib/python3/dist-packages/${package%:*}" ] || missing+=("${package#*:}")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

without="tests in a browser, on Slurm or on the team stack will be skipped"
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed (needs root and apt): ${missing[*]}; $without"
  exit 0
fi
echo "set-up: Debian packages ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
if [[ " ${missing[*]} " == *" postgresql "* ]]; then # the programs only: Debian would make a database and start its server
  mkdir -p /etc/postgresql-common/createcluster.d
  echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/stepvideo.conf
fi
if ! { timeout 300 apt-get -qq update && timeout 600 apt-get -qq install -y --no-install-recommends "${missing[@]}"; } \
  >/dev/null 2>&1; then
  echo "apt-get could not install ${missing[*]}; $without"
fi
