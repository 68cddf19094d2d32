#!/usr/bin/env bash
# Debian packages that tests use: a browser, which opens the pages, a font with Chinese characters, and Slurm.
# Installed only by root and only where missing; without them those tests are skipped and say why.
set -euo pipefail

missing=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
  missing+=(chromium)
command -v fc-list >/dev/null && [ -n "$(fc-list :lang=zh 2>/dev/null | head -n 1)" ] || missing+=(fontconfig fonts-wqy-microhei)
command -v sbatch >/dev/null || missing+=(slurm-wlm)
[ -x /usr/sbin/munged ] || command -v munged >/dev/null || missing+=(munge)
[ "${#missing[@]}" -gt 0 ] || exit 0

without="tests in a browser or on Slurm will be skipped"
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed (needs root and apt): ${missing[*]}; $without"
  exit 0
fi
echo "set-up: Debian packages ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
if ! { timeout 300 apt-get -qq update && timeout 600 apt-get -qq install -y --no-install-recommends "${missing[@]}"; } \
  >/dev/null 2>&1; then
  echo "apt-get could not install ${missing[*]}; $without"
fi
