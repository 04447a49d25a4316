#!/usr/bin/env bash
# Sends thousands of generated requests to a server, and checks each answer against the document that it
# serves: run.sh PROGRAM. Needs schemathesis.
set -euo pipefail
program=$(realpath "$1")
settings=$(realpath "$(dirname "$0")")/schemathesis.toml

folder=$(mktemp -d)
. "$(dirname "$0")/../start.sh"
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT

start "$program" "$folder" --store memory:
# schemathesis leaves files where it runs.
cd "$folder"

schemathesis --config-file "$settings" run "http://$address/openapi.json" \
  --seed 42 --no-color --generation-database none || {
  cat "$folder/log"
  exit 1
}
# The server must have survived all that.
kill -0 "$server"
