# shellcheck shell=bash disable=SC2034
# For scripts to source: `start PROGRAM FOLDER [OPTIONS]` starts a server on any free port of the loopback
# interface, writes its log to FOLDER/log, and waits until it listens. Sets `address` and `server`, its process id.
server=
address=

start() {
  local program=$1 log=$2/log
  shift 2
  "$program" --host 127.0.0.1 --port 0 --random-state 42 "$@" >"$log" 2>&1 &
  server=$!
  for _ in $(seq 300); do
    address=$(sed -n 's/.*listening on \([0-9.:]*\).*/\1/p' "$log")
    [ -z "$address" ] || return 0
    sleep 0.1
  done
  cat "$log" >&2
  return 1
}
