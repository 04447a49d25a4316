"""What the scripts in benches/ share: the build, our programs as processes, and figures as text.

Needs Python 3.11 or newer and no packages. Servers listen on 127.0.0.1 only.
"""

import atexit
import contextlib
import http.client
import json
import os
import pathlib
import platform
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def build(smoke=False):
    """Builds the benches, then the program as released: without features that only benches enable.

    For a smoke run, builds all as the tests do. That is slow code, but quickly built.
    """
    say("building")
    found = {}

    def cargo(*command):
        messages = subprocess.run(
            ["cargo", *command, "--locked", "--message-format", "json-render-diagnostics"],
            cwd=ROOT, env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)},
            check=True, stdout=subprocess.PIPE, text=True,
        ).stdout
        for line in messages.splitlines():
            message = json.loads(line)
            if message.get("reason") == "compiler-artifact" and message.get("executable"):
                found[message["target"]["name"]] = pathlib.Path(message["executable"])

    benches = ["--bench", "anchors", "--bench", "http"]
    if smoke:
        cargo("build", "--bin", "iforest-server", *benches)
    else:
        cargo("bench", "--no-run", *benches)
        cargo("build", "--release", "--bin", "iforest-server")
    return found["anchors"], found["http"], found["iforest-server"]


def alternate(rounds, contenders):
    """Runs each contender once per round, in reverse order every other round; returns their results."""
    results = {name: [] for name in contenders}
    for i in range(rounds):
        order = list(contenders.items())
        for name, run in order if i % 2 == 0 else reversed(order):
            results[name].append(run())
    return results


def anchors(program, *names):
    """Runs tasks of benches/anchors.rs; returns what each printed, as a list of words."""
    output = subprocess.run([program, *names], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {name: words for name, *words in map(str.split, output.splitlines())}


def anchor(program, name):
    """Our median figure, in seconds or bytes, for a task of benches/anchors.rs."""
    return statistics.median(map(float, anchors(program, name)[name]))


def seconds(value):
    for unit, size in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:.0f} {unit}"
    return f"{value * 1e9:.3g} ns"


def times(value):
    return f"{value:,.0f} ×" if value >= 100 else f"{value:.1f} ×" if value >= 10 else f"{value:.2f} ×"


def megabytes(value):
    return f"{value / 1e6:.1f} MB" if value else "unknown"


def kilobytes(value):
    return f"{value / 1e3:.0f} KB"


def machine():
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        names = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
        model = names[0] if names else model
    load = f", load average before: {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}{load}"


def request(method, path, body=""):
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()


PREDICT = request("POST", "/predict", '{"value": 2.5}')


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process, and the time from its start to its first response, to /predict by default."""

    def __init__(self, command, port=None, first=PREDICT, **options):
        start = time.perf_counter()
        options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
        if port:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
        else:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
        atexit.register(self.stop)
        if not port:
            port = int(self.process.stdout.readline().rpartition(":")[2])
        self.port, self.address = port, f"127.0.0.1:{port}"
        while not self.answers(first):
            if self.process.poll() is not None or time.perf_counter() > start + 60:
                sys.exit(f"{command[0]} does not answer")
            time.sleep(0.0002)
        self.first_answer = time.perf_counter() - start

    def answers(self, request):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as client:
            client.sendall(request)
            return client.recv(4096).split(b" ")[1:2] == [b"200"]
        return False

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def processes(self):
        """The ids of the process and its workers."""
        family = [self.process.pid]
        for pid in family:
            with contextlib.suppress(OSError):
                children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
                family += map(int, children.split())
        return family

    def memory(self, field="VmRSS"):
        """Bytes of resident memory, or None without /proc; VmHWM is the peak."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
                total += int(re.search(rf"{field}:\s*(\d+) kB", status)[1]) * 1024
        return total or None

    def cpu(self):
        """Processor time used so far by all threads and workers, in seconds."""
        ticks = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.0


def ours(program, *prefix):
    """Starts our server with the default store, a folder on disk; `prefix` may be `taskset -c 1`."""
    port = free_port()
    store = tempfile.TemporaryDirectory()
    atexit.register(store.cleanup)
    command = [*prefix, str(program), "--host", "127.0.0.1", "--port", str(port), "--store", store.name]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("IFOREST_")}
    return Server(command, port, env=environment)


def retrain(server, model, rows):
    """Trains a model of our server."""
    client = http.client.HTTPConnection("127.0.0.1", server.port)
    client.request("POST", f"/models/{model}/retrain", json.dumps({"samples": rows}), {"Content-Type": "application/json"})
    answer = client.getresponse()
    if answer.status != 200:
        sys.exit(f"retrain of {model}: status {answer.status}: {answer.read()}")
    client.close()


def training_rows(rows, columns):
    """Training readings with three decimals, like those that `http batch` sends."""
    draw = random.Random(2)
    return [[round(draw.uniform(0, 5), 3) for _ in range(columns)] for _ in range(rows)]


def two_cores():
    """Commands that keep a server on one core and its client on another, or None if that is not possible."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2 or not shutil.which("taskset"):
        return None
    return ["taskset", "-c", str(cores[-1])], ["taskset", "-c", str(cores[0])]


def batch_load(loader, pin, server, path, shape, burst):
    """The rows per second of a server that gets batches, the client's figures, and CPU time per row."""
    rows, columns = shape
    before = server.cpu()
    command = [*pin, loader, "batch", server.address, path, f"{rows}x{columns}", str(burst)]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if result["failed"] or not result["requests"]:
        sys.exit(f"{server.process.args}: {result['failed']} batches failed, {result['requests']} did not")
    result["rows"] = result["per_second"] * rows
    result["cpu"] = (server.cpu() - before) / (result["requests"] * rows)
    return result
