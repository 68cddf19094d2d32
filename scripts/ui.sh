#!/usr/bin/env bash
# MLflow and Prefect in the browser, over what `stepvideo run` recorded under runs/. Stops both when it is stopped.
#   MLFLOW_PORT (5000) and PREFECT_PORT (4200) choose the ports, WORK another folder than runs/.
set -euo pipefail
cd "$(dirname "$0")/.."

work="$(realpath -m "${WORK:-runs}")"
mlflow_port="${MLFLOW_PORT:-5000}"
prefect_port="${PREFECT_PORT:-4200}"
export DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true PREFECT_SERVER_ANALYTICS_ENABLED=false
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # eight processes, of which nothing here makes use
export PREFECT_HOME="${PREFECT_HOME:-$work/.prefect}"

if [ ! -e "$work/mlflow.db" ]; then
  echo "nothing was recorded under $work yet; run \`make demo\` or \`make smoke\` first"
  exit 1
fi

children=()
stop() {
  trap - EXIT INT TERM
  [ "${#children[@]}" -eq 0 ] || kill "${children[@]}" 2>/dev/null || true
  wait
}
trap stop EXIT
trap 'exit 0' INT TERM

mkdir -p "$work/logs"
.venv/bin/mlflow ui --backend-store-uri "sqlite:///$work/mlflow.db" --host 127.0.0.1 --port "$mlflow_port" \
  >"$work/logs/mlflow-ui.log" 2>&1 &
children+=($!)
.venv/bin/prefect server start --host 127.0.0.1 --port "$prefect_port" >"$work/logs/prefect-ui.log" 2>&1 &
children+=($!)

wait_for() { # name, port, pid, log
  for _ in $(seq 120); do
    kill -0 "$3" 2>/dev/null || break
    if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then
      echo "$1: http://127.0.0.1:$2"
      return
    fi
    sleep 0.5
  done
  echo "$1 did not start; the end of $4:"
  tail -n 5 "$4"
  exit 1
}
wait_for MLflow "$mlflow_port" "${children[0]}" "$work/logs/mlflow-ui.log"
wait_for Prefect "$prefect_port" "${children[1]}" "$work/logs/prefect-ui.log"
echo "Ctrl-C stops both"
wait -n || true
