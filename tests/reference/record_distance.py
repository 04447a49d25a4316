#!/usr/bin/env python3
"""Records the results of distance.py for the tests of this repository.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python record_distance.py

writes ../fixtures/distance.json within minutes. Data sets come from the formula of record.py, with
some columns summed up to a random walk. Each case has its kind in `what`; rows are given as they
are scored (`scaled`) or as the sensors send them (`rows`).
"""

import numpy as np

import record  # first: it starts Python again with the portable routines of numpy
import distance
from sklearn.preprocessing import StandardScaler


SEVEN = [80, 120, 100, 90, 110, 10, 190]  # runs; the shortest has no window


def dataset(walks=(), **spec):
    """record.dataset, where the columns `walks` become the sum of their values less 2.5 so far."""
    data = record.dataset(**spec)
    for column in walks:
        total = 0.0
        for row in range(len(data)):
            total = total + (data[row, column] - 2.5)
            data[row, column] = total
    return data


def floats(values):
    """For JSON, which has no NaN."""
    return [None if np.isnan(v) else float(v) for v in values]


def table(rows):
    return [floats(row) for row in rows]


# ------------------------------------------------------------------ scores


def queries(scaled):
    """Scaled rows inside, on the edges, and at growing distances outside."""
    low, high = scaled.min(axis=0), scaled.max(axis=0)
    columns = scaled.shape[1]
    rows = [row for row in scaled[:: max(1, len(scaled) // 12)]]
    for column in range(min(columns, 3)):
        start = scaled[(7 * column + 1) % len(scaled)]
        for v in (
            low[column],
            high[column],
            np.nextafter(high[column], np.inf),
            high[column] + 1e-6,
            high[column] + 0.01,
            low[column] - 0.1,
            high[column] + 1.0,
            low[column] - 10.0,
            high[column] + 1e6,
            1e30,
            -3.4e38,
            1e39,
            -1e300,
        ):
            row = start.copy()
            row[column] = v
            rows.append(row)
        # A constant feature, or one whose values have gaps, also parts rows inside the range.
        for v in (0.5, -0.037):
            row = start.copy()
            row[column] = v
            rows.append(row)
    for v in (0.0, 0.3, -2.0, 5.0, 1e10, 3e38, 1e39):
        rows.append(np.full(columns, v))
    row = scaled[5 % len(scaled)].copy()
    row[0], row[-1] = high[0] + 2.0, 1e39
    rows.append(row)
    return np.array(rows)


def record_scores():
    for spec, params in (
        (dict(kind="bimodal", rows=200, columns=1, seed=1), dict(random_state=1)),
        (dict(kind="uniform", rows=300, columns=1, seed=2), dict(random_state=2)),
        (dict(kind="quantised", rows=300, columns=1, seed=3), dict(random_state=3, n_estimators=30)),
        (dict(kind="constant", rows=50, columns=1, seed=4), dict(random_state=4, n_estimators=10)),
        (dict(kind="index", rows=2, columns=1, seed=4), dict(random_state=4, n_estimators=10)),
        (dict(kind="uniform", rows=100, columns=2, seed=5, scale=1e-9, shift=1.0), dict(random_state=5)),
        # The columns of "mixed": uniform, quantised (ties), constant, skewed, and again.
        (dict(kind="mixed", rows=400, columns=3, seed=6), dict(random_state=6)),
        (dict(kind="mixed", rows=1000, columns=8, seed=7), dict(random_state=7)),
        (dict(kind="uniform", rows=250, columns=3, seed=8), dict(random_state=8, max_samples=20, n_estimators=40)),
    ):
        data = dataset(**spec)
        scaled = StandardScaler().fit_transform(data)
        forest = distance.Forest(scaled, **params)
        rows = queries(scaled)
        scores = forest.score_samples(rows)
        inside = [forest.is_inside(row) for row in rows]
        for row, score, within in zip(rows, scores, inside):
            if within:
                assert score == forest.model.score_samples(row[None, :])[0], (spec, row)
        print(spec, len(rows), "rows,", sum(inside), "inside", flush=True)
        yield dict(
            what="score", data=spec, params=params, scaled=table(rows), inside=inside, score_samples=floats(scores)
        )


# ------------------------------------------------------------------ held-back thresholds


def held_back(model):
    return dict(
        # per fold: the scored rows, and the rows that trained its forest
        folds=model.folds,
        held_back=floats(model.held_back[::20]),
        held_back_hash=record.hash_floats(model.held_back),
        scored=len(model.held_back),
        threshold=model.threshold,
    )


def record_held_back():
    for spec, rate, lengths in (
        (dict(kind="skewed", rows=1000, columns=2, seed=11), 0.01, None),
        (dict(kind="uniform", rows=1003, columns=2, seed=12), 0.001, None),
        (dict(kind="mixed", rows=700, columns=2, seed=13), 0.01, SEVEN),
        (dict(kind="uniform", rows=600, columns=1, seed=14), 0.05, [300, 200, 100]),
    ):
        data = dataset(**spec)
        model = distance.Model(data, 21, rate, lengths, n_estimators=50)
        rows = dataset(**{**spec, "seed": spec["seed"] + 100, "rows": 30, "scale": 1.1})
        print("held back", spec, rate, lengths, model.folds, flush=True)
        yield dict(
            what="held_back", data=spec, random_state=21, n_estimators=50, false_alarm_rate=rate, run_lengths=lengths,
            **held_back(model), promised_rate=distance.promised_rate(model.held_back, 1, rate),
            rows=table(rows), abnormality=floats(model.abnormality(rows)),
            predictions=[int(p) for p in model.predict(rows)],
        )


# ------------------------------------------------------------------ drift


def record_drift():
    for spec, lengths in (
        (dict(kind="mixed", rows=400, columns=6, seed=21, walks=[0, 4]), None),
        (dict(kind="mixed", rows=400, columns=6, seed=21, walks=[0, 4]), [250, 150]),
        (dict(kind="uniform", rows=1000, columns=3, seed=22, walks=[0, 1, 2]), [5, 400, 104, 105, 109, 110, 167]),
        (dict(kind="uniform", rows=399, columns=2, seed=23, walks=[0]), None),
        (dict(kind="uniform", rows=450, columns=2, seed=24, walks=[0]), [90, 90, 90, 90, 90]),
        (dict(kind="index", rows=500, columns=1, seed=0), None),
    ):
        data = dataset(**spec)
        yield dict(
            what="drift", data=spec, run_lengths=lengths, ratios=floats(distance.drift_ratios(data, lengths)),
            kept=distance.steady_sensors(data, lengths),
        )


# ------------------------------------------------------------------ windows


def following(spec, rows):
    """Readings after the training: some normal, a step, a stuck sensor, and one far away."""
    data = dataset(**{**spec, "seed": spec["seed"] + 100, "rows": rows})
    step, stuck = rows * 2 // 3, rows * 5 // 6
    data[step : step + 6, 0] += 4.0
    data[stuck:, 1] = data[stuck, 1]
    data[-1, 0] = 1e6
    return data


def record_windows():
    for spec, window, rate, lengths, keep in (
        (dict(kind="mixed", rows=700, columns=4, seed=31, walks=[3]), 30, 0.001, [400, 300], False),
        (dict(kind="uniform", rows=700, columns=3, seed=32, walks=[1]), 12, 0.01, SEVEN, False),
        (dict(kind="uniform", rows=300, columns=2, seed=33), 10, 0.02, None, False),
        (dict(kind="uniform", rows=420, columns=2, seed=34, walks=[0]), 5, 0.001, None, True),
    ):
        data = dataset(**spec)
        params = dict(n_estimators=50)
        model = distance.WindowModel(data, window, 41, rate, lengths, keep, **params)
        rows = following(spec, window - 1 + 50)
        scores = model.abnormality(rows)
        predictions = model.predict(rows)
        features = distance.window_features(model.values.transform(rows[:, model.kept]), window)
        chosen = [0, 24, len(features) - 1]
        print("window", spec, window, "kept", model.kept, model.folds, predictions.sum(), flush=True)
        yield dict(
            what="window", data=spec, window=window, random_state=41, **params, false_alarm_rate=rate,
            run_lengths=lengths, keep_drifting=keep, kept=model.kept, **held_back(model),
            promised_rate=distance.promised_rate(model.held_back, window, rate),
            rows=table(rows), abnormality=floats(scores), predictions=[int(p) for p in predictions],
            alarms=[int(a) for a in distance.alarms(predictions, window)],
            # of the windows that begin at these rows, before and after the second scaler
            chosen=chosen, features=table(features[chosen]),
            scaled_features=table(model.scaler.transform(features[chosen])),
            contributions=[model.contributions(model.scaler.transform(features[[i]])[0]) for i in chosen],
        )


# ------------------------------------------------------------------ contributions


def record_contributions():
    for spec, plain in (
        (dict(kind="uniform", rows=200, columns=4, seed=51), False),
        (dict(kind="mixed", rows=500, columns=8, seed=52), False),
        (dict(kind="uniform", rows=200, columns=1, seed=53), False),
        (dict(kind="mixed", rows=500, columns=8, seed=52), True),
    ):
        data = dataset(**spec)
        scaler = StandardScaler().fit(data)
        scaled = scaler.transform(data)
        forest = distance.Forest(scaled, 61, n_estimators=50, plain=plain)
        rows = [scaled[3], scaled[77], forest.median, np.zeros(scaled.shape[1])]
        for column in range(scaled.shape[1]):
            row = scaled[11 + column].copy()
            row[column] = scaled[:, column].max() + (0.02, 0.7, 30.0)[column % 3]
            rows.append(row)
        if scaled.shape[1] > 1:
            row = scaled[40].copy()
            row[0], row[1] = scaled[:, 0].max() + 1.0, scaled[:, 1].min() - 2.0
            rows.append(row)
            if not plain:
                row = scaled[41].copy()
                row[0], row[1], row[-1] = 3.0, 1e39, -1e40
                rows.append(row)
        # A constant feature keeps its scale 1, so that these are also readings to ask for.
        rows = np.array(rows)
        yield dict(
            what="contributions", data=spec, plain=plain, random_state=61, n_estimators=50, scaled=table(rows),
            rows=table(scaler.inverse_transform(rows)), shares=[forest.contributions(row) for row in rows],
        )


if __name__ == "__main__":
    cases = []
    for recorder in (record_scores, record_held_back, record_drift, record_windows, record_contributions):
        cases += recorder()
    record.write("distance.json", cases)
