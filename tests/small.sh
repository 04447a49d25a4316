#!/usr/bin/env bash
# Checks a program that is built with --no-default-features: it serves, and says what it lacks.
#
#     tests/small.sh target/small/iforest-server
set -euo pipefail
program=$1
work=$(mktemp -d)
. "$(dirname "$0")/start.sh"
trap '[ -z "$server" ] || kill "$server"; rm -r "$work"' EXIT

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

refused() {
  local expected=$1
  shift
  if "$program" --port 0 --host 127.0.0.1 "$@" 2>"$work/error"; then
    fail "it starts with $*"
  fi
  grep -qF "$expected" "$work/error" || fail "expected: $expected; got: $(cat "$work/error")"
}

refused 'this program is built without stores in the cloud' --store s3://bucket/path
refused 'this program is built without TLS' --store memory: --tls-cert cert.pem --tls-key key.pem

start "$program" "$work" --store "$work/store"
answer=$(curl -sS "http://$address/predict" -H 'Content-Type: application/json' -d '{"value": 25}')
[[ $answer == *'"prediction":1'* ]] || fail "unexpected answer: $answer"
"$program" healthcheck --host 127.0.0.1 --port "${address##*:}"
echo "$program serves, and refuses TLS and stores in the cloud"
