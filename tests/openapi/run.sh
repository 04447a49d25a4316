#!/usr/bin/env bash
# Sends thousands of generated requests to a server, and checks each answer against the document that it
# serves: run.sh PROGRAM. Needs schemathesis.
set -euo pipefail
program=$(realpath "$1")
settings=$(realpath "$(dirname "$0")")/schemathesis.toml

folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT

"$program" --host 127.0.0.1 --port 0 --store memory: --random-state 42 >"$folder/log" 2>&1 &
server=$!
# schemathesis leaves files where it runs.
cd "$folder"
address=
for _ in $(seq 300); do
  address=$(sed -n 's/.*listening on \([0-9.:]*\).*/\1/p' "$folder/log")
  [ -z "$address" ] || break
  sleep 0.1
done
[ -n "$address" ] || { cat "$folder/log"; exit 1; }

schemathesis --config-file "$settings" run "http://$address/openapi.json" \
  --seed 42 --no-color --generation-database none || {
  cat "$folder/log"
  exit 1
}
# The server must have survived all that.
kill -0 "$server"
