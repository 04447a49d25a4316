#!/usr/bin/env python3
"""Measures a server with many models: its start, its memory, models that are read back, and GET /models.

    python3 benches/scale/scale.py
    python3 benches/scale/scale.py --smoke

Needs Python 3.11 or newer, cargo, and disk space for a folder for each model; most files are hard links. A smoke
run has few models and slow code.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from measure import Server, build, free_port, machine, megabytes, ours, retrain, say, seconds, training_rows  # noqa: E402

# Hard links per file: file systems allow 65,000 or fewer.
LINKS = 200
LIMIT = "1GB"


def make_store(program, folder, count):
    """A store with so many models of one feature, all trained on the same readings."""
    server = ours(program)
    retrain(server, "one", training_rows(500, 1))
    command = server.process.args
    stored = pathlib.Path(command[command.index("--store") + 1]) / "models"
    version = next((stored / "one").glob("*.iforest"))
    content = version.read_bytes()
    for i in range(count):
        path = folder / "models" / name(i) / version.name
        path.parent.mkdir(parents=True)
        if i % LINKS == 0:
            path.write_bytes(content)
            first = path
        else:
            os.link(first, path)
    server.stop()


def name(i):
    return f"m{i:06}"


def start(program, folder, *options):
    port = free_port()
    command = [program, "--host", "127.0.0.1", "--port", str(port), "--store", folder, "--log-level", "warn", *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("IFOREST_")}
    return Server([str(word) for word in command], port, env=environment)


class Client:
    def __init__(self, server):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port)
        self.socket = socket.create_connection(("127.0.0.1", server.port))

    def get(self, path):
        self.connection.request("GET", path)
        return self.connection.getresponse().read()

    def metric(self, metric):
        """A metric, summed over its labels."""
        found = re.findall(rf"^{metric}(?:{{.*?}})? (\S+)", self.get("/metrics").decode(), re.M)
        return sum(map(float, found))

    def predict(self, model):
        """Asks a model; returns the seconds until its answer.

        Python's own client takes longer for a request than the server does.
        """
        body = '{"value":2.5}'
        head = f"POST /models/{model}/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        begin = time.perf_counter()
        self.socket.sendall(request)
        answer = self.socket.recv(65536)
        while not answer.endswith(b"}\n"):
            received = self.socket.recv(65536)
            if not received:
                sys.exit(f"{model}: the connection is closed after {answer}")
            answer += received
        elapsed = time.perf_counter() - begin
        if not answer.startswith(b"HTTP/1.1 200 "):
            sys.exit(f"{model}: {answer}")
        return elapsed


def load(loader, server, burst, meanwhile=None):
    """Latencies of /predict on one connection. Calls `meanwhile` until the load has ended."""
    command = [loader, "load", server.address, "1", str(burst)]
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    while meanwhile and process.poll() is None:
        meanwhile()
    result = json.loads(process.communicate()[0])
    if result["failed"] or not result["requests"]:
        sys.exit(f"{result['failed']} requests failed, {result['requests']} did not")
    return result


def at(latencies, share):
    return sorted(latencies)[min(len(latencies) - 1, int(share * len(latencies)))]


def measure_start(program, loader, folder, count, burst):
    begin = time.perf_counter()
    server = start(program, folder)
    client = Client(server)
    warm = None

    def watch():
        nonlocal warm
        if warm is None and client.metric("iforest_models_loaded") >= count:
            warm = time.perf_counter() - begin
        time.sleep(0.02)

    during = load(loader, server, burst, watch)
    while warm is None:
        watch()
    quiet = load(loader, server, burst)
    listed = load(loader, server, burst, lambda: client.get("/models"))
    names = [model["name"] for model in json.loads(client.get("/models"))["models"]]
    if names != sorted(["default", *map(name, range(count))]):
        sys.exit(f"GET /models lists {len(names)} models, not {count} and default")
    yield f"first answer after the start, {count:,} models", seconds(server.first_answer), "≤ 500 ms"
    yield "all of them in memory", seconds(warm), "≤ 5 s"
    ratio = during["p99"] / quiet["p99"]
    yield "p99 of /predict meanwhile", f"{seconds(during['p99'])}, {ratio:.1f} × that of a quiet server", "≤ 2 ×"
    memory = client.metric("iforest_memory_used_bytes")
    yield "resident memory, and what counts for --memory-limit", f"{megabytes(server.memory())}, {megabytes(memory)}", ""
    ratio = listed["p50"] / quiet["p50"]
    yield "p50 of /predict while GET /models is asked again and again", f"{seconds(listed['p50'])}, {ratio:.1f} ×", "≤ 2 ×"
    server.stop()


def measure_limit(program, folder, count, requests):
    server = start(program, folder, "--memory-limit", LIMIT)
    client = Client(server)
    loaded = -1
    while loaded < (loaded := client.metric("iforest_models_loaded")):
        time.sleep(0.5)
    loaded = int(loaded)
    draw = random.Random(3)
    # Popular models are anywhere in the list.
    models = list(range(count))
    draw.shuffle(models)
    cumulated, total = [], 0.0
    for rank in range(1, count + 1):
        total += 1 / rank
        cumulated.append(total)
    asked, back, kept = set(), [], []
    for model in draw.choices(models, cum_weights=cumulated, k=requests):
        latency = client.predict(name(model))
        # The start loads models in the order of their names; another is read back when first asked.
        if model >= loaded and model not in asked:
            back.append(latency)
        asked.add(model)
        kept.append(client.predict(name(model)))
    yield f"{count:,} models, {LIMIT}: in memory after the start", f"{loaded:,}", ""
    if back:
        figures = f"{seconds(at(back, 0.99))} (p50 {seconds(statistics.median(back))}, {len(back):,} requests)"
        yield "p99 of a model that is read back, asked by Zipf's law", figures, "≤ 5 ms"
    figures = f"{seconds(at(kept, 0.99))} (p50 {seconds(statistics.median(kept))})"
    yield "p99 of a model in memory", figures, "≤ 0.3 ms"
    yield "resident memory", megabytes(server.memory()), f"≤ {LIMIT}"
    server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few models, with the program as the tests build it")
    options = parser.parse_args()
    about = machine()
    _, loader, program = build(options.smoke)
    many, more, requests, burst = (1_100, 100, 50, 1) if options.smoke else (20_000, 100_000, 20_000, 2)
    print("| work | figure | goal |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for count, measure in (
            (many, lambda store: measure_start(program, loader, store, many, burst)),
            (more, lambda store: measure_limit(program, store, more, requests)),
        ):
            say(f"making {count} models")
            store = folder / str(count)
            make_store(program, store, count)
            for row in measure(store):
                print("| " + " | ".join(row) + " |", flush=True)
    print(f"\n{about}. The client is a program in Python, except for /predict of the default model.")


if __name__ == "__main__":
    main()
