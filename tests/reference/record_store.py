#!/usr/bin/env python3
"""Records a store and its answers as a release writes them, for the tests of later releases.

    python3 record_store.py path/to/iforest-server ../fixtures/stores/0.3

starts the program on an empty store, trains models of every kind that it knows, and keeps the store
and `answers.json` in the folder. Needs no packages.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

SMALL = {"n_estimators": 10, "random_state": 7}
ONE = [9.0 + 0.01 * (i * 37 % 41) for i in range(60)]
TWO = [[2.0 + 0.01 * (i * 29 % 31), 60.0 + 0.5 * (i * 17 % 13)] for i in range(60)]
LONG = [20.0 + 0.1 * (i * 53 % 59) for i in range(300)]

# The body of each retrain, in order. A release that does not know a setting refuses the request.
RETRAINS = [
    ("default", {"samples": ONE, **SMALL}),
    ("default", {"samples": ONE[:30]}),
    ("Press-1.left_hall", {"samples": ONE, **SMALL, "contamination": 0.1, "max_samples": 0.5}),
    ("press-1", {"samples": TWO, **SMALL, "feature_names": ["vibration", "temperature"], "out_of_range": "anomaly", "out_of_range_margin": 0.25}),
    ("press-1", {"samples": TWO[:40]}),
    ("distance", {"samples": TWO, **SMALL, "out_of_range": "distance"}),
    ("held-back", {"samples": LONG, **SMALL, "false_alarm_rate": 0.02}),
    ("window", {"samples": LONG, **SMALL, "window": 10, "drift": "keep"}),
]

# One reading inside the training ranges and one outside, for each model.
READINGS = {
    "default": [9.2, 12.5],
    "Press-1.left_hall": [9.2, 12.5],
    "press-1": [[2.1, 63.0], [2.1, 90.0]],
    "distance": [[2.1, 63.0], [2.1, 90.0]],
    "held-back": [22.0, 40.0],
    "window": [LONG[:10], LONG[:9] + [40.0]],
}


def ask(address, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def main(program, folder):
    answers = []
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary) / "store"
        command = [program, "--port", "0", "--host", "127.0.0.1", "--store", str(store)]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            for line in server.stderr:
                if found := re.search(r"listening on \S*?(127\.0\.0\.1:\d+)", line):
                    break
            address = "http://" + found[1]
            known = set()
            for name, body in RETRAINS:
                try:
                    ask(address, "POST", f"/models/{name}/retrain", body)
                    known.add(name)
                except urllib.error.HTTPError as error:
                    print(f"no model {name}: {error.read().decode()}")
            ask(address, "POST", "/models/press-1/rollback")
            for name in sorted(known):
                answers.append({"path": f"/models/{name}/versions", "answer": ask(address, "GET", f"/models/{name}/versions")})
                for reading in READINGS[name]:
                    body = {"window" if name == "window" else "value": reading}
                    path = f"/models/{name}/predict"
                    answers.append({"path": path, "body": body, "answer": ask(address, "POST", path, body)})
        finally:
            server.terminate()
            server.communicate(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir(parents=True)
        shutil.copytree(store, Path(folder) / "store")
    text = ",\n".join("  " + json.dumps(answer) for answer in answers)
    (Path(folder) / "answers.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
