#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh virtual environment, and asks the server as a user would.
#
#     deploy/wheel/test.sh [WHEEL]
#
# Given a wheel, tests that one.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
. tests/start.sh
trap '[ -z "$server" ] || kill "$server"; rm -r "$work"' EXIT

wheel=${1:-}
if [ -z "$wheel" ]; then
  python3 -m venv target/wheel-tools
  target/wheel-tools/bin/pip install --quiet 'maturin>=1.9,<2' ziglang
  # Linked by zig, so that the program runs with the C library of 2014 and newer.
  PATH="$PWD/target/wheel-tools/bin:$PATH" maturin build --release --zig --compatibility manylinux2014 --out "$work"
  wheel=$(echo "$work"/*.whl)
fi

python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --no-index "$wheel"
"$work/env/bin/iforest-server" --version

start "$work/env/bin/iforest-server" "$work" --store "$work/store"
answer=$(curl -sS "http://$address/predict" -H 'Content-Type: application/json' -d '{"value": 9}')
echo "$answer"
[[ $answer == *'"status":"Anomaly Detected"'* ]] || exit 1
echo "$(basename "$wheel"): it installs, serves and predicts"
