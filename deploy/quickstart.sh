#!/usr/bin/env bash
# From a fresh system to streamed tokens: installs packages, builds, starts kvasird with the bundled model, streams one
# generation and shows what its KV cache cost. Serves until Ctrl-C; with --once it stops after the generation.
#
#   deploy/quickstart.sh [--once]
#
# KVASIR_PORT, KVASIR_HTTP_PORT and KVASIR_METRICS_PORT choose the ports (default 50051, 8080 and 9464; when taken, free
# ones are used).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="$root/build/release"
model=tale-7m-gqa2
prompt="Once upon a time"
log=

once=false
case "${1:-}" in
  "") ;;
  --once) once=true ;;
  *)
    echo "usage: $0 [--once]" >&2
    exit 2
    ;;
esac

step() { printf '\n\033[1m[%s/5] %s\033[0m\n' "$1" "$2"; }

daemon_pid=
stop_daemon() {
  trap - EXIT
  if [ -n "$daemon_pid" ] && kill -0 "$daemon_pid" 2>/dev/null; then
    echo "stopping kvasird: running streams may finish; Ctrl-C again ends them"
    trap 'kill -TERM "$daemon_pid" 2>/dev/null || true' INT TERM
    kill -TERM "$daemon_pid"
    # A signal ends wait early; the daemon has ended when nothing answers to its id.
    while kill -0 "$daemon_pid" 2>/dev/null; do wait "$daemon_pid" || true; done
    rm -f "$log"
  fi
}
trap stop_daemon EXIT
trap 'echo; stop_daemon; exit 0' INT TERM

fail() {
  trap - EXIT
  [ -z "$daemon_pid" ] || kill -KILL "$daemon_pid" 2>/dev/null || true
  echo >&2
  echo "quickstart failed: $1" >&2
  if [ -n "$log" ] && [ -s "$log" ]; then
    echo "--- the end of $log:" >&2
    tail -n 30 "$log" >&2
  fi
  exit 1
}

# A port that something listens on already is replaced by 0: the system then picks a free one.
free_port_or_zero() {
  if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then
    echo "port $1 is in use: taking a free one" >&2
    echo 0
  else
    echo "$1"
  fi
}

step 1 "packages"
"$root/deploy/install_dependencies.sh" build

step 2 "build (Release, into $build)"
cd "$root"
if [ ! -f "$build/build.ninja" ]; then
  cmake --preset release -DBUILD_TESTING=OFF
fi
cmake --build --preset release --target kvasird kvasir

step 3 "start kvasird with $model"
port=$(free_port_or_zero "${KVASIR_PORT:-50051}")
http_port=$(free_port_or_zero "${KVASIR_HTTP_PORT:-8080}")
metrics_port=$(free_port_or_zero "${KVASIR_METRICS_PORT:-9464}")
log=$(mktemp "$build/quickstart.XXXXXX.log")
# A session of its own, so that Ctrl-C reaches only this script, which then asks for an orderly end.
setsid "$build/bin/kvasird" --model "$model=$root/deploy/models/$model" --listen "127.0.0.1:$port" \
  --http_listen "127.0.0.1:$http_port" --metrics_listen "127.0.0.1:$metrics_port" >"$log" 2>&1 &
daemon_pid=$!
listening=
for _ in $(seq 600); do
  listening=$(grep -m1 '^listening grpc=' "$log" || true)
  [ -z "$listening" ] || break
  if ! kill -0 "$daemon_pid" 2>/dev/null; then
    exit_code=0
    wait "$daemon_pid" || exit_code=$?
    fail "kvasird ended with exit code $exit_code before it was listening"
  fi
  sleep 0.1
done
[ -n "$listening" ] || fail "kvasird was not listening after 60 seconds"
grpc_address=$(sed 's/.*grpc=\([^ ]*\).*/\1/' <<<"$listening")
metrics_address=$(sed 's/.*metrics=\([^ ]*\).*/\1/' <<<"$listening")
export KVASIR_SERVER="$grpc_address"
"$build/bin/kvasir" health --wait --timeout 60 >/dev/null || fail "gRPC health did not say SERVING within 60 seconds"
echo "kvasird is SERVING (process $daemon_pid, log $log)"

step 4 "one generation: \"$prompt\""
printf '\n\033[2m%s\033[0m' "$prompt"
# Its standard error carries the usage: what the request's KV cache cost.
"$build/bin/kvasir" generate --model "$model" --max_tokens 120 --temperature 0.7 --top_p 0.9 --stats "$prompt" \
  || fail "the generation failed"
echo
"$build/bin/kvasir" models

step 5 "ready"
cat <<TEXT
gRPC     $grpc_address        (build/release/bin/kvasir generate --server $grpc_address "...", or any gRPC client)
metrics  http://$metrics_address/metrics
stop     Ctrl-C here, or kill -TERM $daemon_pid
TEXT
if $once; then
  exit 0
fi
echo
echo "serving until Ctrl-C ..."
exit_code=0
wait "$daemon_pid" || exit_code=$?
daemon_pid=
[ "$exit_code" -eq 0 ] || fail "kvasird ended with exit code $exit_code"
