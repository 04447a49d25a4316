#!/usr/bin/env python3
"""Measures how the cost of a reading grows; writes the tables and plots of docs/performance.md.

    python3 benches/plots/plots.py
    python3 benches/plots/plots.py --smoke

Needs Python 3.11 or newer, cargo, taskset, and two cores. A smoke run measures little, with slow code, and
writes nothing.
"""

import argparse
import datetime
import json
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from chart import chart  # noqa: E402
from measure import (  # noqa: E402
    ROOT, anchors, batch_load, build, kilobytes, machine, megabytes, ours, retrain, say, seconds, times,
    training_rows, two_cores,
)

DOCUMENT = ROOT / "docs" / "performance.md"

# The sizes that are measured: everything, and for a smoke run.
FULL = {
    "rows": 20_000,
    "features": [1, 2, 4, 8, 16, 32, 64, 128, 256],
    "trees": [25, 50, 100, 200, 400, 800],
    "training": [100, 1_000, 10_000, 100_000, 1_000_000],
    # More readings of ten features, with all their digits, are more than a request may hold.
    "batches": {1: [1, 10, 100, 1_000, 10_000], 10: [1, 10, 100, 1_000, 5_000]},
    "models": [1, 10, 100, 1_000],
    "large": (1_000_000, 100_000),
    "runs": 3,
    "burst": 1.0,
}
SMOKE = {
    "rows": 500,
    "features": [1, 8, 64],
    "trees": [50, 100],
    "training": [100, 1_000],
    "batches": {1: [1, 100], 10: [1, 100]},
    "models": [1, 10],
    "large": (2_000, 1_000),
    "runs": 1,
    "burst": 0.1,
}


class Library:
    """Figures of benches/anchors.rs, each measured when it is first asked for."""

    def __init__(self, program, runs):
        self.program, self.runs, self.figures = program, runs, {}

    def __getitem__(self, name):
        if name not in self.figures:
            say(name)
            # Other programs can only slow a run down.
            runs = [map(float, anchors(self.program, name)[name]) for _ in range(self.runs)]
            self.figures[name] = min(map(min, runs))
        return self.figures[name]


def plural(count, noun):
    return f"{count:,} {noun}{'s' * (count > 1)}"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# ------------------------------------------------------------------ the library


def library_plots(library, sizes):
    rows, features, trees = sizes["rows"], sizes["features"], sizes["trees"]
    yield "features", chart(
        "The time of a reading by its features", "features", "time per reading, one thread",
        {
            "alone": [(n, library[f"one_1000x{n}"]) for n in features],
            "in a batch": [(n, library[f"score_{rows}x{n}"] / rows) for n in features],
            "with distances, in a batch": [(n, library[f"distance_1000x{n}"] / 1000) for n in features],
        }, seconds,
    )
    yield "trees", chart(
        "The time of a reading by the trees of its model", "trees", "time per reading, one thread",
        {
            "1 feature, alone": [(n, library[f"one_1000x1x{n}"]) for n in trees],
            "10 features, alone": [(n, library[f"one_1000x10x{n}"]) for n in trees],
            "10 features, in a batch": [(n, library[f"score_{rows}x10x{n}"] / rows) for n in trees],
        }, seconds,
    )
    yield "training", chart(
        "The time of a training by its readings", "training readings", "time, one thread",
        {plural(n, "feature"): [(r, library[f"fit_{r}x{n}"]) for r in sizes["training"]] for n in (1, 10)},
        seconds,
    )


def growth(library, sizes):
    """How much more each costs where one size grows and the others stay."""
    rows, (few, many) = sizes["rows"], (sizes["training"][1], sizes["training"][-1])

    def ratio(above, below, divide=1):
        return times(library[above] / library[below] / divide)

    def grown(label, below, above):
        """Compares two shapes of features and trees."""
        return [
            label, ratio(f"one_1000x{above}", f"one_1000x{below}"),
            ratio(f"score_{rows}x{above}", f"score_{rows}x{below}"), ratio(f"fit_1000x{above}", f"fit_1000x{below}"),
            ratio(f"memory_1000x{above}", f"memory_1000x{below}"),
        ]

    return table(
        ["what grows", "a reading alone", "a reading in a batch", "a training", "the memory of a model"],
        [
            grown("features, 1 to 2", "1", "2"),
            grown("features, 2 to 10", "2", "10"),
            grown("features, 10 to 100", "10", "100"),
            grown("trees, 100 to 200, 1 feature", "1", "1x200"),
            grown("trees, 100 to 200, 10 features", "10", "10x200"),
            [
                f"training readings, {few:,} to {many:,}, 10 features", ratio(f"one_{few}x10", f"one_{few}x10"), "",
                ratio(f"fit_{many}x10", f"fit_{few}x10"), ratio(f"memory_{many}x10", f"memory_{few}x10"),
            ],
        ],
    )


# ------------------------------------------------------------------ HTTP


def load(loader, pin, server, connections, sizes):
    """The best of some runs."""
    command = [*pin, loader, "load", server.address, str(connections), str(sizes["burst"])]
    runs = []
    for _ in range(sizes["runs"]):
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        if result["failed"] or not result["requests"]:
            sys.exit(f"{result['failed']} requests failed, {result['requests']} did not")
        runs.append(result)
    return max(runs, key=lambda run: run["per_second"])


def batch_plot(loader, program, pins, sizes, figures):
    on_server, on_client = pins
    lines = {}
    for columns, batches in sizes["batches"].items():
        say(f"batches of {plural(columns, 'feature')}")
        server = ours(program, *on_server)
        retrain(server, "batch", training_rows(5_000, columns))
        line = []
        for rows in batches:
            work = server, "/models/batch/predict", (rows, columns), sizes["burst"]
            line.append((rows, max(batch_load(loader, on_client, *work)["rows"] for _ in range(sizes["runs"]))))
        figures[f"batch of {columns}"] = line[-1]
        lines[plural(columns, "feature")] = line
        server.stop()
    return chart(
        "Readings per second over HTTP, on one core", "readings in a request", "readings per second", lines,
        lambda value: f"{value:,.0f}",
    )


def model_plot(program, sizes, figures):
    lines = {}
    for columns in (1, 10):
        say(f"memory of models of {plural(columns, 'feature')}")
        server, line, training = ours(program), [], training_rows(500, columns)
        for models in sizes["models"]:
            new = range(line[-1][0] if line else 0, models)
            start = time.perf_counter()
            for number in new:
                retrain(server, f"model-{number}", training)
            figures[f"retrain of {columns}"] = (time.perf_counter() - start) / len(new)
            line.append((models, server.memory()))
        figures[f"models of {columns}"] = line[-1]
        lines[plural(columns, "feature")] = line
        server.stop()
    return chart(
        "The memory of the server by its models", "models", "resident memory", lines,
        lambda value: f"{value / 1e6:,.0f} MB",
    )


def http_figures(loader, program, pins, sizes, figures):
    on_server, on_client = pins
    say("/predict")
    server = ours(program, *on_server)
    figures["start"], figures["memory"] = server.first_answer, server.memory()
    figures["alone"] = load(loader, on_client, server, 1, sizes)
    figures["one core"] = load(loader, on_client, server, 64, sizes)
    server.stop()
    server = ours(program)
    figures["all cores"] = load(loader, [], server, 64, sizes)
    figures["busy memory"] = server.memory("VmHWM")
    server.stop()


# ------------------------------------------------------------------ the document


def fill(text, name, content):
    """Replaces what stands between the markers of a measured part."""
    pattern = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        sys.exit(f"{DOCUMENT.name} has no part for {name}")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="check that everything runs")
    arguments = parser.parse_args()
    pins = two_cores() or (([], []) if arguments.smoke else None)
    if not pins:
        sys.exit("needs taskset and two cores")
    sizes = SMOKE if arguments.smoke else FULL
    program, loader, server = build(arguments.smoke)

    about, level = machine(), anchors(program, "level")["level"][0]
    library, figures = Library(program, sizes["runs"]), {}
    plots = dict(library_plots(library, sizes))
    plots["batches"] = batch_plot(loader, server, pins, sizes, figures)
    plots["models"] = model_plot(server, sizes, figures)
    http_figures(loader, server, pins, sizes, figures)

    score, fit = sizes["large"]
    alone, one_core, all_cores = figures["alone"], figures["one core"], figures["all cores"]
    batches, models = [], []
    for columns in (1, 10):
        (rows, rate), (count, memory) = figures[f"batch of {columns}"], figures[f"models of {columns}"]
        features = plural(columns, "feature")
        batches.append([f"readings of {features} in requests of {rows:,}, one core", f"{rate:,.0f}/s"])
        models.append([f"memory with {count:,} models of {features}", megabytes(memory)])
    parts = {
        "machine": f"Measured on {datetime.date.today()}: {about}; the processor offers {level}.",
        "gateway": table(["what", "figure"], [
            ["first answer after the start", seconds(figures["start"])],
            ["memory after the start", megabytes(figures["memory"])],
            ["a further model of 1 feature", kilobytes(library["memory_500x1"])],
            ["a further model of 10 features", kilobytes(library["memory_5000x10"])],
            ["a reading, without HTTP", seconds(library["predict_one"])],
            ["`/predict`, 1 connection, one core", f"p50 {seconds(alone['p50'])}, p99 {seconds(alone['p99'])}"],
            ["`/predict`, 64 connections, one core", f"{one_core['per_second']:,.0f}/s"],
            ["a retrain with 500 readings, stored", seconds(figures["retrain of 1"])],
        ]),
        "server": table(["what", "figure"], [
            ["`/predict`, 64 connections, all cores", f"{all_cores['per_second']:,.0f}/s, p99 {seconds(all_cores['p99'])}"],
            *batches,
            [f"{score:,} × 10 scored by the library, one thread", seconds(library[f"score_{score}x10"])],
            [f"a training with {fit:,} × 10, one thread", seconds(library[f"fit_{fit}x10"])],
            ["the most memory under this load, one model", megabytes(figures["busy memory"])],
            *models,
        ]),
        "growth": growth(library, sizes),
    }
    text = DOCUMENT.read_text()
    for name, content in parts.items():
        text = fill(text, name, content)
    for svg in plots.values():
        xml.etree.ElementTree.fromstring(svg)
    if arguments.smoke:
        print(*parts.values(), sep="\n\n")
        return
    DOCUMENT.write_text(text)
    for name, svg in plots.items():
        (DOCUMENT.with_suffix("") / f"{name}.svg").write_text(svg)


if __name__ == "__main__":
    main()
