#!/usr/bin/env python3
"""Sends server.py and iforest-server the same requests and prints where the answers differ.

    venv/bin/python compare.py --server path/to/server.py [--binary path/to/iforest-server]

Only random_state is added to server.py. Exits with 1 when answers differ that must not:

* To a request that server.py answers with 200, iforest-server must answer with the same status,
  content type and bytes.
* A request that server.py refuses or fails at, iforest-server must refuse as JSON with a status
  from 400 to 499.
* A refused retrain breaks server.py, which then answers 500 to every prediction. iforest-server
  must answer as before.
"""

import os
import sys

PORTABLE = "X86_V4 AVX512_ICL AVX512_SPR"  # as in record.py
if os.environ.get("NPY_DISABLE_CPU_FEATURES") != PORTABLE:
    os.environ["NPY_DISABLE_CPU_FEATURES"] = PORTABLE
    os.execv(sys.executable, [sys.executable, *sys.argv])

import argparse
import http.client
import json
import logging
import random
import subprocess
import threading
import warnings
from pathlib import Path

import numpy as np
from werkzeug.serving import make_server

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
ROOT = Path(__file__).resolve().parent.parent.parent
JSON = "application/json"


def start_reference(path):
    source = Path(path).read_text().replace(
        "IForest(contamination=0.05)", "IForest(contamination=0.05, random_state=42)"
    )
    np.random.seed(42)
    space = {"__name__": "server"}
    exec(compile(source, path, "exec"), space)
    server = make_server("127.0.0.1", 0, space["app"], threaded=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.port


def start_ours(binary):
    process = subprocess.Popen(
        [binary, "--host", "127.0.0.1", "--port", "0", "--store", "memory:", "--random-state", "42"],
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "listening on" in line:
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, int(line.split("listening on ")[1].split(",")[0].split(":")[1])
    sys.exit("iforest-server did not start")


def ask(port, method, path, body, content_type):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {} if content_type is None else {"Content-Type": content_type}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    # Flask writes these from a set, whose order differs from start to start.
    allow = sorted(response.getheader("Allow", "").split(", "))
    return response.status, response.getheader("Content-Type"), allow, response.read()


def questions():
    good = b'{"value": 2.5}'
    for content_type in (JSON, JSON + "; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json", "text/plain", None):
        yield "POST", "/predict", good, content_type
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in ("/predict", "/retrain"):
            yield method, path, None, None
    for path in ("/predict/", "/retrain/", "/nope", "/predict?x=1", "//predict", "/%70redict"):
        yield "POST", path, good, JSON
    values = (
        "2.5 9 9.0 -3 0 -0 -0.0 1e-5 1e16 1e22 1e39 1e308 1e400 NaN Infinity null true false [2.5] {} "
        '"2.5" "\\t2.5\\n" "abc" "nan" "inf" "1e400" "" ".5" "5." "+5" "1_000" "1__0" "2,5" "0x10" "\\ud800" '
        "123456789012345678901234567890 9007199254740993 5e-324 0.1 4.35 0.30000000000000004"
    ).split(" ")
    for value in values:
        yield "POST", "/predict", f'{{"value": {value}}}'.encode(), JSON
    for body in (
        b"", b"{bad", b"{}", b"[]", b"3", b'"value"', b'{"value": 2.5}x', b' {"value": 2.5}\n', b'{"Value": 1}',
        b'{"value": 2.5, "extra": 1}', b'{"value": 2.5, "value": 9}', b'{"value": "abc", "value": 9}',
        b'{"v\\u0061lue": 3}', b'{"value": 2.5, "x": "\\ud800"}', b'\xef\xbb\xbf{"value": 2.5}',
        '{"value": 2.5}'.encode("utf-16"), '{"value": 2.5}'.encode("utf-16-be"), b'{"value": 2.5, "a": "\xff"}',
    ):
        yield "POST", "/predict", body, JSON
    samples = (
        "[1, 2, 3]|[[1], [2], [3]]|[[1, 2], [3, 4]]|[[[1, 2], [3, 4]]]|5|\"5\"|true|[1]|[2, 2, 2, 2]|"
        '["1", "2", "3"]|[" 1 ", "2_0"]|[1.5, "2"]|[[1, 2], ["3", "4"]]|[true, false, true]|[true, 2.5]|'
        '[true, "1"]|[1, null, 3]|[1, NaN, 3]|["a"]|["nan"]|[]|[[]]|[[1], [2, 3]]|[1, [2]]|[[1], 2]|{"a": 1}|'
        "null|[1e308, 1e308]|[1e308, -1e308]|[1e308]|[1e400]|[5e-324, 0]|[1e200, -1e200, 3]|[-0]|"
        "[123456789012345678901234567890, 1]|[18446744073709551615, -1]|[1e-20, 2e-20, 5e-20]"
    ).split("|")
    asked = [json.dumps({"value": value}).encode() for value in (2.5, 1.0, 1000.0)]
    for sample in samples:
        # A refused retrain leaves server.py broken, so a good retrain comes before each sample. The
        # predictions are the same before and after the sample.
        for retrain in (b'{"samples": [1, 2, 3, 4, 5, 6]}', f'{{"samples": {sample}}}'.encode()):
            yield "POST", "/retrain", retrain, JSON
            for body in asked:
                yield "POST", "/predict", body, JSON
    draw = random.Random(1)
    for rows, scale, shift in ((500, 5, 0), (40, 1e-6, 0), (3000, 20, 101325), (256, 1e12, -1e13)):
        history = [draw.random() * scale + shift for _ in range(rows)]
        yield "POST", "/retrain", json.dumps({"samples": history}).encode(), JSON
        for _ in range(500):
            value = shift + scale * (1.5 * draw.random() - 0.25)
            yield "POST", "/predict", json.dumps({"value": value}).encode(), JSON


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True, help="path of server.py")
    parser.add_argument("--binary", default=str(ROOT / "target/release/iforest-server"))
    arguments = parser.parse_args()
    reference = start_reference(arguments.server)
    process, ours = start_ours(arguments.binary)
    same = refused = kept = wrong = 0
    broken = False
    before = {}  # the answers of iforest-server since its last training
    try:
        for method, path, body, content_type in questions():
            a = ask(reference, method, path, body, content_type)
            b = ask(ours, method, path, body, content_type)
            is_refusal = 400 <= b[0] < 500 and b[1] == JSON and b[3].startswith(b'{"error":"')
            question = (method, path, body, content_type)
            if path == "/retrain" and method == "POST":
                broken = a[0] == 500
                if not is_refusal:
                    before = {}
            elif not broken:
                before[question] = b
            if (a[0], a[3]) == (b[0], b[3]) and (a[0] != 200 or method == "OPTIONS" or a[1] == b[1]):
                same += 1
            elif broken and path == "/predict":
                if before.get(question) == b:
                    kept += 1
                else:
                    wrong += 1
                    print("CHANGED by a refused retrain", body[:70], "\n  ", before.get(question), "\n  ", b)
            elif a[0] >= 400 and is_refusal and a[2] == b[2]:
                refused += 1
            else:
                wrong += 1
                print("DIFFERS", method, path, (body or b"")[:70], content_type, "\n  ", a, "\n  ", b)
    finally:
        process.terminate()
    print(
        f"{same} the same, {refused} refused as JSON where server.py fails, "
        f"{kept} as before a retrain that broke server.py, {wrong} differ"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
