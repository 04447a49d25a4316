#!/usr/bin/env python3
"""Compares iforest-server with scikit-learn, PyOD, isotree, MLServer and server.py; prints Markdown tables.

    python3 benches/compare/compare.py --server path/to/server.py > table.md
    python3 benches/compare/compare.py --smoke

Needs Python 3.11 or newer, cargo and a C++ compiler (for isotree). The packages of
requirements.txt are installed into a virtual environment in cargo's target folder. In each round all
contenders run the same task; every other round runs them in reverse order. Servers listen on
127.0.0.1 only.

A smoke run takes all steps that need no package, on small data and with slow code. It fails if a figure is
missing, whatever the figure is.
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
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from measure import (  # noqa: E402
    ROOT, TARGET, Server, alternate, anchor, anchors, batch_load, build, free_port, kilobytes, machine, megabytes, ours,
    request, retrain, say, seconds, times, training_rows, two_cores,
)

ENV = TARGET / "compare-env"
REQUIREMENTS = HERE / "requirements.txt"

# Three times the ratio of the first version (0.327) that scored with distances, 100,000 × 24, to plain walks without.
DISTANCE = 0.98

# One thread for everybody's linear algebra; the forests get one thread by their own parameters.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


# ------------------------------------------------------------------ environment


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


# ------------------------------------------------------------------ rounds


def ratios(above, below):
    """The median of the rounds' ratios, so that a slow round cancels out, and median and range as text."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    median = statistics.median(each)
    return median, f"{times(median)} ({times(min(each))[:-2]} to {times(max(each))[:-2]})"


class Table:
    def __init__(self):
        self.rows = []

    def add(self, task, ours, other, theirs, ratio, target, met):
        self.rows.append((task, ours, other, theirs, ratio, target, {True: "yes", False: "no", None: ""}[met]))
        say("  " + " | ".join(self.rows[-1]))

    def skip(self, task, why):
        self.rows.append((task, "", "", "", "", "", why))

    def limit(self, task, value, maximum, show):
        if value:
            self.add(task, show(value), "", "", "", f"≤ {show(maximum)}", value <= maximum)
        else:
            self.skip(task, "not measured on this system")

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


def clock(run, repeat=1):
    last = None
    start = time.perf_counter()
    for _ in range(repeat):
        # As in a server, a model lives until the next one replaces it.
        last = run()
    return (time.perf_counter() - start) / repeat


def library(table, program, quick, alone):
    if not alone:
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
    if not alone and float(data(index + 1, 1)[index, 0]) != anchor(program, f"value_{index}"):
        sys.exit("the data of compare.py and of work.rs differ")

    def compare(task, name, others, targets, rounds=5, repeat=1, limit=None):
        """Runs our task `name` beside others: functions, or names of other tasks of ours."""
        say(task)
        if alone:
            others = {other: run for other, run in others.items() if isinstance(run, str)}
        contenders = {"ours": lambda: anchor(program, name)}
        for other, run in others.items():
            if isinstance(run, str):
                contenders[other] = lambda run=run: anchor(program, run)
                continue
            if repeat > 1:
                run()  # imports, caches
            contenders[other] = lambda run=run: clock(run, repeat)
        results = alternate(2 if quick else rounds, contenders)
        ours = results["ours"]
        median = statistics.median(ours)
        if limit:
            table.add(task, seconds(median), "", "", "", f"≤ {seconds(limit)}", median <= limit)
        elif not others:
            table.add(task, seconds(median), "", "", "", "none", None)
        for other, target in targets.items():
            if other not in others:
                continue
            ratio, shown = ratios(results[other], ours)
            figures = seconds(statistics.median(ours)), other, seconds(statistics.median(results[other]))
            if target:
                table.add(task, *figures, shown, f"≥ {target:,} ×", ratio >= target)
            else:
                table.add(task, *figures, shown, "none", None)

    if alone:
        small = wide = model = row = None
    else:
        small, wide = data(500, 1), data(many, 10)
        model = pyod_forest().fit(small)
        row = data(8, 1)[7:8]
    compare(
        "predict one value, library", "predict_one",
        {"PyOD predict + decision_function": lambda: (model.predict(row), model.decision_function(row))},
        {"PyOD predict + decision_function": 100_000}, repeat=5 if quick else 20, limit=30e-9,
    )

    level = anchors(program, "level")["level"][0]
    for columns, targets in (
        (1, {"scikit-learn": 600, "isotree": 300}),
        (10, {"scikit-learn": 30 if level == "AVX-512" else 22, "isotree": 11}),
    ):
        others = {}
        if not alone:
            rows, fitted = data(million, columns), small if columns == 1 else data(100_000, columns)
            theirs = sklearn_forest().fit(fitted)
            tree = isotree_forest().fit(fitted)
            others = {"scikit-learn": lambda: theirs.decision_function(rows), "isotree": lambda: tree.predict(rows)}
        compare(
            f"score {million:,} × {columns}, one thread", f"score_{million}x{columns}", others, targets, rounds=3,
        )

    shape = f"{1_000 if quick else many}x24"
    compare(
        f"score {shape.replace('x', ' × ')} with distances, one thread", f"distance_{shape}",
        {"plain walks without distances": f"plain_{shape}"}, {"plain walks without distances": DISTANCE}, rounds=3,
    )

    compare(
        "fit 500 × 1 with threshold, one thread", "fit_500x1",
        {"PyOD": lambda: pyod_forest().fit(small), "isotree": lambda: isotree_forest().fit(small)},
        {"PyOD": 100, "isotree": 1}, repeat=3 if quick else 10,
    )
    compare(
        f"fit {many:,} × 10 with threshold, one thread", f"fit_{many}x10",
        {
            "scikit-learn": lambda: sklearn_forest().fit(wide),
            "PyOD": lambda: pyod_forest().fit(wide),
            "isotree (no threshold)": lambda: isotree_forest().fit(wide),
        },
        {"scikit-learn": 20, "PyOD": 12, "isotree (no threshold)": None},
    )

    say("memory of a model")
    for shape, label, maximum in (("500x1", "500 × 1", 110e3), ("5000x10", "5,000 × 10", 250e3)):
        size = anchor(program, f"memory_{shape}")
        table.limit(f"memory of a model fitted to {label}", size, maximum, kilobytes)


# ------------------------------------------------------------------ batches over HTTP


def batches(table, loader, program, quick, alone):
    pins = two_cores() or (([], []) if alone else None)
    if not pins:
        table.skip("batches over HTTP, one core", "not run: needs taskset and two cores")
        return
    on_server, on_client = pins
    rounds, burst = (2, 0.1 if alone else 0.5) if quick else (7, 1.5)
    print("\n| task | server | rows/s | p50 | CPU per row | bytes per row |")
    print("| --- | --- | --- | --- | --- | --- |")
    shapes = [((50, 10), 600_000), ((100, 1), 3_000_000)] if quick else [((5_000, 10), 600_000), ((10_000, 1), 3_000_000)]
    for shape, target in shapes:
        rows, columns = shape
        task = f"batch of {rows:,} × {columns} over HTTP, one core"
        say(task)
        training = training_rows(5_000, columns)
        server = ours(program, *on_server)
        retrain(server, "batch", training)
        servers = {"iforest-server": (server, "/models/batch/predict")}
        answer = batch_load(loader, on_client, *servers["iforest-server"], shape, 0.1)["answer"]
        kind = "values" if columns == 1 else "rows"
        first = request("POST", f"/{kind}/2", '{"values":[]}')
        limit = Server([*on_server, loader, "limit"], first=first)
        servers["the limit"] = limit, f"/{kind}/{answer}"
        if not alone:
            servers["MLServer"] = mlserver(on_server, training), "/v2/models/forest/infer"
        results = alternate(
            rounds, {name: lambda s=s: batch_load(loader, on_client, *s, shape, burst) for name, s in servers.items()}
        )
        for server, _ in servers.values():
            server.stop()

        def median(name, key):
            return statistics.median(result[key] for result in results[name])

        for name in servers:
            print(
                f"| {task} | {name} | {median(name, 'rows'):,.0f} | {seconds(median(name, 'p50'))} | "
                f"{seconds(median(name, 'cpu'))} | {median(name, 'answer') / rows:,.0f} |"
            )
        mine = f"{median('iforest-server', 'rows'):,.0f}/s"
        table.add(task, mine, "", "", "", f"≥ {target:,}/s", median("iforest-server", "rows") >= target)
        for other in servers:
            if other != "iforest-server":
                _, shown = ratios(*([r["rows"] for r in results[name]] for name in ("iforest-server", other)))
                table.add(task, mine, other, f"{median(other, 'rows'):,.0f}/s", shown, "none", None)


def mlserver(pin, rows):
    """MLServer with scikit-learn's forest, in one process."""
    import joblib
    import numpy as np
    from sklearn.ensemble import IsolationForest

    folder = pathlib.Path(tempfile.mkdtemp(prefix="compare-mlserver-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    forest = IsolationForest(contamination=0.05, random_state=42, n_jobs=1).fit(np.array(rows))
    joblib.dump(forest, folder / "forest.joblib")
    port = free_port()
    (folder / "settings.json").write_text(json.dumps({
        "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
        "parallel_workers": 0, "debug": False,
    }))
    (folder / "model-settings.json").write_text(json.dumps({
        "name": "forest", "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./forest.joblib"},
    }))
    command = [*pin, str(pathlib.Path(sys.executable).with_name("mlserver")), "start", str(folder)]
    return Server(command, port, first=request("GET", "/v2/models/forest/ready"))


# ------------------------------------------------------------------ HTTP


def http(table, loader, program, script, quick, alone):
    rounds, burst = (2, 0.1 if alone else 0.5) if quick else (7, 1.5)
    details = []

    def load(server, connections, how="load", retrained=None):
        before, client = server.cpu(), client_cpu()
        command = [loader, how, server.address, str(connections), str(burst)]
        command += [retrained.address] if retrained else []
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        if result["failed"]:
            say(f"  {result['failed']} requests to {server.process.args[0]} failed")
            if alone:
                sys.exit("a request failed")
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

    table.limit("resident memory after start", statistics.median(resident), 8e6, megabytes)
    table.limit("peak resident memory, 64 connections", loaded, 16e6, megabytes)
    table.limit("peak resident memory, 64 connections and /retrain", retrained, 16e6, megabytes)
    table.limit("time to first response", statistics.median(starts), 20e-3, seconds)
    table.limit("size of the executable", program.stat().st_size, 8e6, megabytes)

    print("\n| task | server | requests/s | p50 | p99 | CPU per request | client busy | failed |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in details:
        print("| " + " | ".join(row) + " |")
    print("\n| server | memory after start | peak under load | time to first response |")
    print("| --- | --- | --- | --- |")
    for name, start, most, answer in memory:
        print(f"| {name} | {megabytes(start)} | {megabytes(most)} | {seconds(answer)} |")


# ------------------------------------------------------------------ main


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
    parser.add_argument("--smoke", action="store_true", help="check that what needs no package runs")
    parser.add_argument("--only", choices=["library", "batches", "http"], help="run one of the parts")
    arguments = parser.parse_args()
    arguments.quick |= arguments.smoke
    if arguments.server and not pathlib.Path(arguments.server).is_file():
        parser.error(f"file not found: {arguments.server}")
    if not arguments.smoke:
        enter_environment()
    program, loader, server = build(arguments.smoke)

    level = anchors(program, "level")["level"][0]
    about = [f"{machine()}, {level}", "a smoke run" if arguments.smoke else versions()]
    table = Table()
    sizes = arguments.quick, arguments.smoke
    if arguments.only in (None, "library"):
        library(table, program, *sizes)
    # The main table is printed first but completed last, so hold back the rest.
    output = tempfile.TemporaryFile("w+")
    with contextlib.redirect_stdout(output):
        if arguments.only in (None, "batches"):
            batches(table, loader, server, *sizes)
        if arguments.only in (None, "http"):
            http(table, loader, server, arguments.server, *sizes)
    if arguments.quick:
        print("**This is a quick run: its figures mean nothing.**\n")
    table.print()
    output.seek(0)
    print(output.read())
    print(f"{datetime.date.today()}. {about[0]}. {about[1]}.\n")
    if arguments.smoke:
        missing = [row[0] for row in table.rows if any("nan" in cell for cell in row[1:5])]
        sys.exit(f"no figure for {missing}" if missing else 0)
    print(
        "Medians over rounds in alternating order. A ratio is the median of the rounds' ratios, so what slows down a "
        "whole round cancels out; the lowest and the highest of them are in brackets. The constant answer is an axum "
        "handler that parses `{\"value\":x}` and returns a constant, under the same runtime. The bare loop is one thread "
        "that answers a constant to every request, unread, and never sleeps. The client and the servers share the cores. "
        "The client has a thread for each core; \"client busy\" is the share of one core that they use together. Flask's "
        "server and gunicorn close the connection after each answer, and their client connects again. For batches, the "
        "server has one core, and a client with two connections the other. MLServer runs scikit-learn's forest in one "
        "process, gets a tensor in JSON, and answers labels only. The limit is an axum handler that parses the same "
        "body with serde and answers as many bytes as iforest-server does. The plain walks go down all trees for one "
        "row after the other, without distances."
    )


if __name__ == "__main__":
    main()
