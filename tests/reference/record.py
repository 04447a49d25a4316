#!/usr/bin/env python3
"""Records the results of scikit-learn, PyOD and server.py for the tests of this repository.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python record.py [--server path/to/server.py]

writes ../fixtures/forest.json and ../fixtures/scaler.json, and with --server also
../fixtures/server.json. To keep the files small, data sets come from a formula, which
tests/it/support/data.rs repeats, and long results are stored as hashes.
"""

import os
import sys

# The AVX-512 routines of numpy differ from the C library in the last bit of a power. Without them
# every machine records the same.
PORTABLE = "X86_V4 AVX512_ICL AVX512_SPR"
if os.environ.get("NPY_DISABLE_CPU_FEATURES") != PORTABLE:
    os.environ["NPY_DISABLE_CPU_FEATURES"] = PORTABLE
    os.execv(sys.executable, [sys.executable, *sys.argv])

import argparse
import json
import math
import struct
import warnings
from pathlib import Path

import numpy as np
from pyod.models.iforest import IForest
from sklearn.preprocessing import StandardScaler

warnings.filterwarnings("ignore")
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
MASK = (1 << 64) - 1


class SplitMix:
    """SplitMix64 (Steele, Lea and Flood, 2014): short enough to repeat in any language."""

    def __init__(self, seed):
        self.state = seed

    def uniform(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def value(kind, column, row, random):
    """Uses only operations that IEEE 754 rounds in one way: + - * / floor."""
    if kind == "uniform":
        return 5.0 * random.uniform()
    if kind == "bimodal":
        upper = random.uniform() < 0.3
        v = random.uniform()
        return 10.0 + 0.5 * v if upper else v
    if kind == "skewed":
        return 1.0 / (random.uniform() + 0.01)
    if kind == "quantised":
        return math.floor(20.0 * random.uniform()) * 0.25
    if kind == "constant":
        return 7.0
    if kind == "index":
        return float(row)
    if kind == "mixed":
        return value(("uniform", "quantised", "constant", "skewed")[column % 4], column, row, random)
    raise ValueError(kind)


def dataset(kind, rows, columns, seed, scale=1.0, shift=0.0, tail=()):
    """`tail` replaces the first values of the last rows."""
    random = SplitMix(seed)
    data = np.array(
        [[value(kind, c, r, random) * scale + shift for c in range(columns)] for r in range(rows)]
    )
    for i, v in enumerate(tail):
        data[rows - len(tail) + i, 0] = v
    return data


def hash_words(words):
    """FNV-1a over 64-bit words."""
    h = 0xCBF29CE484222325
    for word in words:
        h = ((h ^ word) * 0x100000001B3) & MASK
    return f"{h:016x}"


def bits(v):
    return struct.unpack("<Q", struct.pack("<d", v))[0]


def hash_floats(values):
    return hash_words(bits(float(v)) for v in values)


def tree_words(estimators):
    leaf = 0xFFFFFFFF
    for estimator in estimators:
        t = estimator.tree_
        yield t.node_count
        for node in range(t.node_count):
            if t.children_left[node] < 0:
                yield from (leaf, 0, 0, 0)
            else:
                yield from (
                    int(t.feature[node]),
                    bits(float(t.threshold[node])),
                    int(t.children_left[node]),
                    int(t.children_right[node]),
                )
            yield int(t.n_node_samples[node])


def probes(model, data):
    """Rows at thresholds of the forest and one ulp beside them, and rows far away."""
    rows = []
    trees = model.detector_.estimators_
    for index in sorted({0, len(trees) // 2, len(trees) - 1}):
        t = trees[index].tree_
        splits = [n for n in range(t.node_count) if t.children_left[n] >= 0]
        for k, node in enumerate(splits[:: max(1, len(splits) // 20)]):
            threshold = float(t.threshold[node])
            with np.errstate(over="ignore"):
                near = np.float32(threshold)
                values = [
                    threshold,
                    np.nextafter(threshold, -np.inf),
                    np.nextafter(threshold, np.inf),
                    near,
                    np.nextafter(near, np.float32(-np.inf)),
                    np.nextafter(near, np.float32(np.inf)),
                ]
            for v in values:
                row = data[k % len(data)].copy()
                row[t.feature[node]] = float(v)
                rows.append(row)
    for v in (0.0, -0.0, 5e-324, -5e-324, 1e-40, 1e30, -1e30, 1e39, -1e39, 1.7e308, -1.7e308):
        rows.append(np.full(data.shape[1], v))
    rows = np.array(rows)
    return rows[np.isfinite(rows).all(axis=1)]


def forest_cases():
    one = lambda kind, rows, **more: dict(kind=kind, rows=rows, columns=1, **more)
    several = lambda kind, rows, columns, **more: dict(kind=kind, rows=rows, columns=columns, **more)
    for seed in range(12):
        yield one("uniform", 500, seed=100 + seed), dict(random_state=seed)
    for kind in ("uniform", "bimodal", "skewed", "quantised", "constant"):
        for rows in (1, 2, 3, 12, 100, 256, 257, 500):
            yield one(kind, rows, seed=rows), dict(random_state=rows + 1)
    for rows in (5000, 30000):
        yield one("uniform", rows, seed=rows), dict(random_state=5)
        yield several("mixed", rows, 3, seed=rows), dict(random_state=6)
    for columns in (2, 3, 5, 10, 30):
        for kind in ("uniform", "quantised", "mixed"):
            yield several(kind, 300, columns, seed=columns), dict(random_state=columns)
    for scale in (1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e12, 1e30, 1e37):
        yield one("bimodal", 200, seed=9, scale=scale), dict(random_state=9)
    yield one("uniform", 200, seed=9, scale=1e-8, shift=1.0), dict(random_state=9)
    yield one("uniform", 200, seed=9, shift=1.7e9), dict(random_state=9)
    for tail in ([1e39], [-1e39], [1e39, -1e39], [1e39, 1e300], [-1e39, -1e300, 1e39]):
        yield one("index", 10 + len(tail), seed=0, tail=tail), dict(random_state=3)
        yield several("uniform", 60, 2, seed=0, tail=tail), dict(random_state=3)
    for contamination in (0.001, 0.01, 0.05, 0.2, 0.37, 0.5):
        yield one("skewed", 400, seed=4), dict(random_state=1, contamination=contamination)
        yield several("mixed", 90, 4, seed=4), dict(random_state=1, contamination=contamination)
    # Here 100 * (1 - contamination) and 100 - 100 * contamination differ, and so does the threshold.
    for contamination in (0.021, 0.151):
        yield one("uniform", 500, seed=100), dict(random_state=0, contamination=contamination)
    yield several("mixed", 90, 4, seed=4), dict(random_state=1, contamination=0.048)
    for n_estimators in (1, 2, 7, 250):
        yield one("uniform", 300, seed=2), dict(random_state=2, n_estimators=n_estimators)
    for max_samples in (1, 2, 3, 50, 299, 300, 5000, 0.004, 0.011, 0.1, 0.5, 0.985, 0.995, 1.0):
        yield several("uniform", 300, 2, seed=3), dict(random_state=3, max_samples=max_samples)
    # With these seeds the random targets of two neighbours almost agree, which ends a branch early.
    for seed in (142225, 357702, 162267, 28586, 235369, 286661, 293055, 275374, 34217, 340157):
        yield one("index", 256, seed=0), dict(random_state=seed)
    # A split is rejected if it increases the variance of the targets by more than 2**-52,
    large = dict(max_samples=2000, n_estimators=10)
    yield one("uniform", 2000, seed=1), dict(random_state=549, **large)
    for seed in (21408, 23377):
        yield several("uniform", 1000, 3, seed=1), dict(random_state=seed, max_samples=1000, n_estimators=20)
    # and kept if it increases it by less.
    yield several("uniform", 2000, 3, seed=1), dict(random_state=201, **large)
    for seed in (112, 802):
        yield one("index", 256, seed=0), dict(random_state=seed)
    yield one("uniform", 500, seed=0), dict(random_state=4294967295)
    yield several("uniform", 2000, 3, seed=8), dict(random_state=8, max_samples=1500, n_estimators=20)


def record_forest():
    cases = []
    for data_spec, params in forest_cases():
        data = dataset(**data_spec)
        model = IForest(**{"contamination": 0.1, **params}).fit(data)
        rows = probes(model, data)
        decisions = model.decision_function(rows)
        cases.append(
            dict(
                data=data_spec,
                params=params,
                nodes=sum(e.tree_.node_count for e in model.detector_.estimators_),
                trees=hash_words(tree_words(model.detector_.estimators_)),
                offset=f"{bits(float(model.detector_.offset_)):016x}",
                threshold=f"{bits(float(model.threshold_)):016x}",
                train_decisions=hash_floats(model.decision_function(data)),
                train_anomalies=int(model.labels_.sum()),
                probes=len(rows),
                score_samples=hash_floats(model.detector_.score_samples(rows)),
                decisions=hash_floats(decisions),
                anomalies=int(model.predict(rows).sum()),
                first_decisions=[f"{bits(float(d)):016x}" for d in decisions[:4]],
            )
        )
        print(len(cases), data_spec, params, flush=True)
    write("forest.json", cases)


def record_scaler():
    specs = [
        dict(kind=kind, rows=rows, columns=columns, seed=rows + columns, scale=scale, shift=shift)
        for kind in ("uniform", "skewed", "quantised", "constant", "mixed")
        for rows in (1, 2, 3, 7, 8, 9, 127, 128, 129, 300, 1025)
        for columns in (1, 2, 5)
        for scale, shift in ((1.0, 0.0), (1e-9, 0.0), (1.0, 1.7e9), (1e-9, 1.0), (1e39, 0.0))
    ]
    specs += [
        dict(kind="index", rows=2 + len(tail), columns=1, seed=0, tail=tail)
        for tail in ([1e200, -1e200], [1e308, -1e308], [1e-200], [1e-20, 2e-20], [5e-324])
    ]
    specs += [dict(kind="uniform", rows=30000, columns=1, seed=1)]
    specs += [dict(kind="uniform", rows=100, columns=1, seed=1, scale=s) for s in (1e-18, 1e-30, 1e-170)]
    # With so large a mean, a deviation up to about rows * mean * 2**-52 is rounding error, and the
    # column counts as constant. These cases lie on both sides of that limit.
    specs += [
        dict(kind=kind, rows=rows, columns=columns, seed=1, scale=scale, shift=shift)
        for kind in ("uniform", "quantised")
        for rows in (30, 300)
        for columns in (1, 2)
        for scale, shift in ((rows * 2e-7, 1.7e9), (rows * 3e-7, 1.7e9), (rows * 1e-9, -3e7))
    ]
    cases = []
    for spec in specs:
        data = dataset(**spec)
        scaler = StandardScaler().fit(data)
        cases.append(
            dict(
                data=spec,
                mean=hash_floats(scaler.mean_),
                scale=hash_floats(scaler.scale_),
                scaled=hash_floats(scaler.transform(data).ravel()),
            )
        )
    write("scaler.json", cases)


def record_server(path):
    """Records server.py itself. Only random_state is added."""
    source = Path(path).read_text()
    seeded = source.replace("IForest(contamination=0.05)", "IForest(contamination=0.05, random_state=RANDOM_STATE)")
    assert seeded.count("RANDOM_STATE") == 2, "server.py is not the one expected"
    np.random.seed(0)
    space = {"__name__": "server", "RANDOM_STATE": 42}
    exec(compile(seeded, path, "exec"), space)
    client = space["app"].test_client()
    cases = []
    for data_spec, low, high in (
        (dict(kind="uniform", rows=500, columns=1, seed=11), -1.0, 6.0),
        (dict(kind="quantised", rows=120, columns=1, seed=12), -1.0, 1000.0),
        (dict(kind="bimodal", rows=5000, columns=1, seed=13), -0.5, 11.0),
        (dict(kind="skewed", rows=300, columns=1, seed=14, scale=1e-7), 0.0, 1.2e-5),
        (dict(kind="uniform", rows=200, columns=1, seed=15, shift=1.7e9), 1.7e9 - 1.0, 1.7e9 + 6.0),
        (dict(kind="uniform", rows=40, columns=1, seed=16, scale=-1e25), -6e25, 1e25),
        (dict(kind="constant", rows=50, columns=1, seed=0), 0.0, 14.0),
    ):
        samples = dataset(**data_spec).ravel().tolist()
        reply = client.post("/retrain", json={"samples": samples})
        assert reply.status_code == 200
        count = 700
        bodies = []
        for i in range(count):
            v = low + (high - low) * i / (count - 1)
            bodies.append(client.post("/predict", json={"value": v}).data)
        cases.append(
            dict(
                data=data_spec,
                random_state=42,
                retrain=reply.data.decode(),
                low=low,
                high=high,
                count=count,
                bodies=[hash_words(body)[:8] for body in bodies],
                samples={str(i): bodies[i].decode() for i in range(0, count, 70)},
            )
        )
    write("server.json", cases)


def write(name, cases):
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (FIXTURES / name).write_text(f"[\n{lines}\n]\n")
    print("wrote", name, len(cases), "cases")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", help="path of the server.py to record")
    arguments = parser.parse_args()
    record_forest()
    record_scaler()
    if arguments.server:
        record_server(arguments.server)
