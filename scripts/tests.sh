#!/usr/bin/env bash
# All tests in N processes; up to three that fail beside the others then run once more, alone on the machine, and decide.
# These tests start servers, clusters and trainings on machines of any speed: what a busy machine upsets is told apart
# from what is wrong, and named. More failures than three, or an error of pytest's own, are not tried again.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
unset PYTHONDONTWRITEBYTECODE # or every process compiles the sources anew, and every worker all the tests
pytest=(.venv/bin/python -m pytest)

status=0
"${pytest[@]}" -n "${N:-3}" --dist loadfile --no-loadscope-reorder "$@" || status=$?
[ "$status" -eq 1 ] || exit "$status"

failed=$(.venv/bin/python -c 'import json; print(*json.load(open(".pytest_cache/v/cache/lastfailed")), sep="\n")')
count=$(printf '%s\n' "$failed" | grep -c .)
if [ "$count" -gt 3 ]; then
  echo "$count tests failed"
  exit 1
fi
printf 'failed beside the others, now alone:\n%s\n' "$failed"
mapfile -t names <<<"$failed"
"${pytest[@]}" -n 0 "${names[@]}"
printf 'PASSED ALONE, after failing beside the others; a test to be made sturdier:\n%s\n' "$failed"
