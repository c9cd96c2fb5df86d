# shellcheck shell=bash
# A scheduler and executors as processes of this machine; sourced. All end with the script that sources it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# Three ports from here on, and two more for each executor.
port=${PORT:-50150}
profile=${PROFILE:-dev}
# The table and where its stations are many enough that a query takes some seconds.
rows=${ROWS:-1000000}
stations=${STATIONS:-100}
work=$(mktemp -d "${TMPDIR:-/tmp}/ballista.XXXXXX")
declare -A pids=()

# Whatever happens, no process and no file stays behind.
stop() {
  {
    [ ${#pids[@]} = 0 ] || kill -KILL "${pids[@]}"
    wait
  } 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM HUP

# One build for the example and the cluster: apart, each would have features of its own.
build() {
  cargo build -q --profile "$profile" -p wgpu-attention-ballista -p wgpu-attention-datafusion --bins --example station_posteriors
  local folder=${CARGO_TARGET_DIR:-target}/$profile
  [ "$profile" != dev ] || folder=${CARGO_TARGET_DIR:-target}/debug
  ballista=$folder/wgpu-attention-ballista
  example=$folder/examples/station_posteriors
}

# The table that the example writes; with all else that the example does.
readings() {
  "$example" --rows "$rows" --stations "$stations" --out "$work/stations" --file "$work/readings.parquet"
}

# Starts a process, whose id is in `pids` under its name.
start() {
  local name=$1
  shift
  RUST_LOG=${RUST_LOG:-info} "$ballista" "$@" >>"$work/$name.log" 2>&1 &
  pids[$name]=$!
}

start_scheduler() { start scheduler scheduler --bind "127.0.0.1:$port" --executors 2; }

# `start_executor NAME NUMBER`: each process has a folder and ports of its own.
start_executor() {
  start "$1" executor --scheduler "127.0.0.1:$port" --port $((port + 1 + 2 * $2)) --work-dir "$work/$1"
}

# Waits until the scheduler has two executors that have not gone silent.
ready() {
  local _
  for _ in $(seq 120); do
    curl -sf --noproxy '*' -m 2 "http://127.0.0.1:$port/readyz" >/dev/null && return
    sleep 0.5
  done
  echo "no two executors within a minute; what they said last:"
  tail -n 5 "$work"/*.log
  return 1
}

# Asks for the answer; all arguments are those of the command.
ask() { timeout -k 5 60 "$ballista" query --file "$work/readings.parquet" "$@"; }
on_cluster() { ask --scheduler "http://127.0.0.1:$port" "$@"; }
