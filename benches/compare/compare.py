#!/usr/bin/env python3
"""Compares iforest-server with scikit-learn, PyOD, isotree and server.py; prints Markdown tables.

    python3 benches/compare/compare.py --server path/to/server.py > table.md

Needs Python 3.11 or newer, cargo and a C++ compiler (for isotree). The packages of
requirements.txt are installed into a virtual environment in cargo's target folder. In each round all
contenders run the same task; every other round runs them in reverse order. Servers listen on
127.0.0.1 only.
"""

import argparse
import atexit
import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
ENV = TARGET / "compare-env"
REQUIREMENTS = HERE / "requirements.txt"

# One thread for everybody's linear algebra; the forests get one thread by their own parameters.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def say(*words):
    print(*words, file=sys.stderr, flush=True)


# ------------------------------------------------------------------ environment and build


def enter_environment():
    """Installs the pinned packages into the virtual environment, and re-runs this script in it."""
    python = ENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    installed = ENV / "installed.txt"
    wanted = REQUIREMENTS.read_text()
    if not installed.exists() or installed.read_text() != wanted:
        say(f"installing {REQUIREMENTS.name} into a virtual environment; isotree is compiled, which takes minutes")
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENV], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        installed.write_text(wanted)
    if pathlib.Path(sys.prefix).resolve() != ENV.resolve() or os.environ.get("OMP_NUM_THREADS") != "1":
        command = [str(python), str(HERE / "compare.py"), *sys.argv[1:]]
        sys.exit(subprocess.run(command, env={**os.environ, **ONE_THREAD}).returncode)


def build():
    """Builds the benches, then the program as released: without features that only benches enable."""
    say("building")
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}
    command = ["cargo", "bench", "--locked", "--no-run", "--bench", "anchors", "--bench", "http"]
    messages = subprocess.run(
        [*command, "--message-format", "json-render-diagnostics"],
        cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout
    found = {}
    for line in messages.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            found[message["target"]["name"]] = message["executable"]
    command = ["cargo", "build", "--locked", "--release", "--bin", "iforest-server"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=sys.stderr)
    name = "iforest-server" + (".exe" if os.name == "nt" else "")
    return found["anchors"], found["http"], TARGET / "release" / name


# ------------------------------------------------------------------ rounds


def alternate(rounds, contenders):
    """Runs each contender once per round, in reverse order every other round; returns their results."""
    results = {name: [] for name in contenders}
    for i in range(rounds):
        order = list(contenders.items())
        for name, run in order if i % 2 == 0 else reversed(order):
            results[name].append(run())
    return results


def ratios(above, below):
    """The median of the rounds' ratios, so that a slow round cancels out, and median and range as text."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    median = statistics.median(each)
    return median, f"{times(median)} ({times(min(each))[:-2]} to {times(max(each))[:-2]})"


def seconds(value):
    for unit, size in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:.0f} {unit}"
    return f"{value * 1e9:.3g} ns"


def times(value):
    return f"{value:,.0f} ×" if value >= 100 else f"{value:.1f} ×" if value >= 10 else f"{value:.2f} ×"


class Table:
    def __init__(self):
        self.rows = []

    def add(self, task, ours, other, theirs, ratio, target, met):
        self.rows.append((task, ours, other, theirs, ratio, target, {True: "yes", False: "no", None: ""}[met]))
        say("  " + " | ".join(self.rows[-1]))

    def skip(self, task, why):
        self.rows.append((task, "", "", "", "", "", why))

    def print(self):
        print("| task | ours | compared with | theirs | ratio | target | met |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for row in self.rows:
            print("| " + " | ".join(row) + " |")


# ------------------------------------------------------------------ the library


def data(rows, columns):
    """The data of benches/work.rs: SplitMix64, uniform in 0 to 5."""
    import numpy as np

    z = np.uint64(1) + np.arange(1, rows * columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) >> np.uint64(11)
    return (5.0 * z.astype(np.float64) * 2.0**-53).reshape(rows, columns)


def anchor(program, name):
    """Our median time, in seconds, for a task of benches/anchors.rs."""
    output = subprocess.run([program, name], check=True, stdout=subprocess.PIPE, text=True).stdout
    return statistics.median(map(float, output.split()[1:]))


def clock(run, repeat=1):
    last = None
    start = time.perf_counter()
    for _ in range(repeat):
        # As in a server, a model lives until the next one replaces it.
        last = run()
    return (time.perf_counter() - start) / repeat


def library(table, anchors, quick):
    import isotree
    from pyod.models.iforest import IForest
    from sklearn.ensemble import IsolationForest

    def sklearn_forest():
        return IsolationForest(contamination=0.05, random_state=42, n_jobs=1)

    def pyod_forest():
        return IForest(contamination=0.05, random_state=42, n_jobs=1)

    def isotree_forest():
        # A plain isolation forest, with the parameters that isotree's documentation gives for the paper.
        return isotree.IsolationForest(
            ntrees=100, sample_size=256, max_depth=8, ndim=1, prob_pick_pooled_gain=0.0,
            missing_action="fail", nthreads=1, random_seed=42,
        )

    million = 20_000 if quick else 1_000_000
    many = 5_000 if quick else 100_000

    index = 1_000_000
    if float(data(index + 1, 1)[index, 0]) != anchor(anchors, f"value_{index}"):
        sys.exit("the data of compare.py and of work.rs differ")

    def compare(task, name, others, targets, rounds=5, repeat=1, limit=None):
        say(task)
        contenders = {"ours": lambda: anchor(anchors, name)}
        for other, run in others.items():
            if repeat > 1:
                run()  # imports, caches
            contenders[other] = lambda run=run: clock(run, repeat)
        results = alternate(2 if quick else rounds, contenders)
        ours = results["ours"]
        if limit:
            median = statistics.median(ours)
            table.add(task, seconds(median), "", "", "", f"≤ {seconds(limit)}", median <= limit)
        for other, target in targets.items():
            ratio, shown = ratios(results[other], ours)
            figures = seconds(statistics.median(ours)), other, seconds(statistics.median(results[other]))
            if target:
                table.add(task, *figures, shown, f"≥ {target:,} ×", ratio >= target)
            else:
                table.add(task, *figures, shown, "none", None)

    small = data(500, 1)
    model = pyod_forest().fit(small)
    row = data(8, 1)[7:8]
    compare(
        "predict one value, library", "predict_one",
        {"PyOD predict + decision_function": lambda: (model.predict(row), model.decision_function(row))},
        {"PyOD predict + decision_function": 100_000}, repeat=5 if quick else 20, limit=30e-9,
    )

    for columns, fitted, targets in (
        (1, small, {"scikit-learn": 300, "isotree": 300}),
        (10, data(100_000, 10), {"scikit-learn": 8, "isotree": 11}),
    ):
        rows = data(million, columns)
        theirs = sklearn_forest().fit(fitted)
        tree = isotree_forest().fit(fitted)
        compare(
            f"score {million:,} × {columns}, one thread", f"score_{million}x{columns}",
            {"scikit-learn": lambda: theirs.decision_function(rows), "isotree": lambda: tree.predict(rows)},
            targets, rounds=3,
        )

    compare(
        "fit 500 × 1 with threshold, one thread", "fit_500x1",
        {"PyOD": lambda: pyod_forest().fit(small), "isotree": lambda: isotree_forest().fit(small)},
        {"PyOD": 60, "isotree": 1}, repeat=3 if quick else 10,
    )
    wide = data(many, 10)
    compare(
        f"fit {many:,} × 10 with threshold, one thread", f"fit_{many}x10",
        {
            "scikit-learn": lambda: sklearn_forest().fit(wide),
            "PyOD": lambda: pyod_forest().fit(wide),
            "isotree (no threshold)": lambda: isotree_forest().fit(wide),
        },
        {"scikit-learn": 8, "PyOD": 12, "isotree (no threshold)": None},
    )


# ------------------------------------------------------------------ HTTP


REQUEST = (
    b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b'Content-Length: 14\r\nConnection: close\r\n\r\n{"value": 2.5}'
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process, and the time from its start to its first response to /predict."""

    def __init__(self, command, port=None, **options):
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
        while not self.answers():
            if self.process.poll() is not None or time.perf_counter() > start + 60:
                sys.exit(f"{command[0]} does not answer")
            time.sleep(0.0002)
        self.first_answer = time.perf_counter() - start

    def answers(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as client:
            client.sendall(REQUEST)
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


def ours(program):
    port = free_port()
    # The default store: a folder on disk.
    store = tempfile.TemporaryDirectory()
    atexit.register(store.cleanup)
    command = [str(program), "--host", "127.0.0.1", "--port", str(port), "--store", store.name]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("IFOREST_")}
    return Server(command, port, env=environment)


def http(table, loader, program, script, quick):
    rounds = 2 if quick else 7
    burst = 0.5 if quick else 1.5
    details = []

    def load(server, connections, how="load", retrained=None):
        before, client = server.cpu(), client_cpu()
        command = [loader, how, server.address, str(connections), str(burst)]
        command += [retrained.address] if retrained else []
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        if result["failed"]:
            say(f"  {result['failed']} requests to {server.process.args[0]} failed")
        result["client"] = (client_cpu() - client) / result["seconds"]
        result["cpu"] = (server.cpu() - before) / max(result["requests"], 1)
        return result

    def client_cpu():
        spent = os.times()
        return spent.children_user + spent.children_system

    def median(results, key):
        return statistics.median(result[key] for result in results)

    say("time to first response")
    starts, resident = [], []
    for _ in range(3 if quick else 11):
        server = ours(program)
        starts.append(server.first_answer)
        resident.append(server.memory() or 0)
        server.stop()

    servers = {"iforest-server": ours(program), "constant response": Server([loader, "baseline"])}
    if script:
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="compare-"))
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        script = pathlib.Path(script).resolve()
        (scratch / "wsgi.py").write_text(
            f"import sys\nsys.path.insert(0, {str(script.parent)!r})\nfrom {script.stem} import app\n"
        )
        (scratch / "flask_server.py").write_text(
            "import sys\nfrom wsgi import app\napp.run(host='127.0.0.1', port=int(sys.argv[1]))\n"
        )
        # As a user runs it: with the libraries' default number of threads.
        environment = {k: v for k, v in os.environ.items() if k not in ONE_THREAD}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        options = {"cwd": scratch, "env": environment}
        say("starting server.py")
        port = free_port()
        flask = [sys.executable, str(scratch / "flask_server.py"), str(port)]
        servers["server.py, Flask"] = Server(flask, port, **options)
        port = free_port()
        gunicorn = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", "wsgi:app"]
        servers["server.py, gunicorn"] = Server(gunicorn, port, **options)

    bare = {"bare loop": Server([loader, "bare"])}
    started = {name: server.memory() for name, server in servers.items()}
    for connections, how, task in (
        (1, "load", "/predict, 1 connection, sleeping client"),
        (1, "poll", "/predict, 1 connection, polling client"),
        (64, "load", "/predict, 64 connections"),
    ):
        say(task)
        contenders = {**servers, **bare} if connections == 1 else servers
        results = alternate(
            rounds, {name: lambda s=s: load(s, connections, how) for name, s in contenders.items()}
        )
        for name, runs in results.items():
            details.append((
                task, name, f"{median(runs, 'per_second'):,.0f}", seconds(median(runs, "p50")),
                seconds(median(runs, "p99")), seconds(median(runs, "cpu")),
                f"{median(runs, 'client'):.0%}", str(sum(run["failed"] for run in runs)),
            ))
        rates = {name: [run["per_second"] for run in runs] for name, runs in results.items()}
        mine = rates["iforest-server"]
        for other, target in (("constant response", 0.95), ("server.py, gunicorn", 500), ("bare loop", None)):
            if other not in rates:
                if target:
                    table.skip(f"{task}, compared with {other}", "not run: no --server")
                continue
            ratio, shown = ratios(mine, rates[other])
            figures = [f"{statistics.median(r):,.0f}/s" for r in (mine, rates[other])]
            met = ratio >= target if target else None
            table.add(task, figures[0], other, figures[1], shown, f"≥ {target} ×" if target else "none", met)

    loaded = servers["iforest-server"].memory("VmHWM")
    memory = [
        (name, started[name], server.memory("VmHWM"), server.first_answer)
        for name, server in servers.items()
    ]
    for name, server in {**servers, **bare}.items():
        if name != "iforest-server":
            server.stop()

    # In both cases both processes run, and the same client sends the same requests.
    say("/predict while /retrain runs")
    first, second = servers["iforest-server"], ours(program)
    both = alternate(rounds + rounds % 2, {
        "here": lambda: load(first, 4, retrained=first), "elsewhere": lambda: load(first, 4, retrained=second),
    })
    task = "p99 of /predict, 4 connections, during /retrain (500)"
    p99 = {name: [run["p99"] for run in runs] for name, runs in both.items()}
    ratio, shown = ratios(p99["here"], p99["elsewhere"])
    table.add(
        task, seconds(statistics.median(p99["here"])), "/retrain in a second process",
        seconds(statistics.median(p99["elsewhere"])), shown, "≤ 2 ×", ratio <= 2,
    )
    for name, label in (("here", "/retrain in this process"), ("elsewhere", "/retrain in a second process")):
        runs = both[name]
        details.append((
            "/predict, 4 connections", f"iforest-server, {label} {median(runs, 'retrains') / burst:,.0f}/s",
            f"{median(runs, 'per_second'):,.0f}", seconds(median(runs, "p50")), seconds(median(runs, "p99")),
            "", f"{median(runs, 'client'):.0%}", str(sum(run["failed"] for run in runs)),
        ))
    retrained = first.memory("VmHWM")
    first.stop()
    second.stop()

    def megabytes(value):
        return f"{value / 1e6:.1f} MB" if value else "unknown"

    def limit(task, value, maximum, show):
        if value:
            table.add(task, show(value), "", "", "", f"≤ {show(maximum)}", value <= maximum)
        else:
            table.skip(task, "not measured on this system")

    limit("resident memory after start", statistics.median(resident), 8e6, megabytes)
    limit("peak resident memory, 64 connections", loaded, 16e6, megabytes)
    limit("peak resident memory, 64 connections and /retrain", retrained, 16e6, megabytes)
    limit("time to first response", statistics.median(starts), 20e-3, seconds)
    limit("size of the executable", program.stat().st_size, 8e6, megabytes)

    print("\n| task | server | requests/s | p50 | p99 | CPU per request | client busy | failed |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in details:
        print("| " + " | ".join(row) + " |")
    print("\n| server | memory after start | peak under load | time to first response |")
    print("| --- | --- | --- | --- |")
    for name, start, most, answer in memory:
        print(f"| {name} | {megabytes(start)} | {megabytes(most)} | {seconds(answer)} |")


# ------------------------------------------------------------------ main


def machine():
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        names = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
        model = names[0] if names else model
    load = f", load average before: {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}{load}"


def versions():
    from importlib.metadata import version

    def run(*command):
        result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return result.stdout.strip()

    names = [re.split("==| ", line)[0] for line in REQUIREMENTS.read_text().splitlines() if line]
    others = ", ".join(f"{name} {version(name)}" for name in [*names, "scipy"])
    commit = run("git", "describe", "--always", "--dirty", "--exclude=*")
    rust = " ".join(run("rustc", "--version").split()[:2])
    return f"iforest-server at {commit} ({rust}); Python {platform.python_version()}, {others}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", metavar="FILE", help="server.py to compare with, run under Flask and gunicorn")
    parser.add_argument("--quick", action="store_true", help="small data and few rounds, to check that everything runs")
    parser.add_argument("--only", choices=["library", "http"], help="run one of the two parts")
    arguments = parser.parse_args()
    if arguments.server and not pathlib.Path(arguments.server).is_file():
        parser.error(f"file not found: {arguments.server}")
    enter_environment()
    anchors, loader, program = build()

    about = [machine(), versions()]
    table = Table()
    if arguments.only != "http":
        library(table, anchors, arguments.quick)
    # The main table is printed first but completed last, so hold back the rest.
    output = tempfile.TemporaryFile("w+")
    if arguments.only != "library":
        with contextlib.redirect_stdout(output):
            http(table, loader, program, arguments.server, arguments.quick)
    if arguments.quick:
        print("**This is a quick run: its figures mean nothing.**\n")
    table.print()
    output.seek(0)
    print(output.read())
    print(f"{datetime.date.today()}. {about[0]}. {about[1]}.\n")
    print(
        "Medians over rounds in alternating order. A ratio is the median of the rounds' ratios, so what slows down a "
        "whole round cancels out; the lowest and the highest of them are in brackets. The constant answer is an axum "
        "handler that parses `{\"value\":x}` and returns a constant, under the same runtime. The bare loop is one thread "
        "that answers a constant to every request, unread, and never sleeps. The client and the servers share the cores. "
        "The client has a thread for each core; \"client busy\" is the share of one core that they use together. Flask's "
        "server and gunicorn close the connection after each answer, and their client connects again."
    )


if __name__ == "__main__":
    main()
