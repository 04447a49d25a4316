"""A plain reference of the distance score, the window, the drift check and the held-back threshold.

scikit-learn grows the trees; all else is numpy, written for reading rather than for speed. Sums run
in the order that the Rust code uses: features in their order, readings from the oldest to the newest.
record_distance.py records the results for the tests.
"""

import math

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.ensemble._iforest import _average_path_length
from sklearn.preprocessing import StandardScaler

LEAF = -1
DRIFT_MEAN = 10  # readings in one mean of the drift check
DRIFT_LAG = 100  # the long lag; the short one is DRIFT_MEAN
DRIFT_RATIO = 8.0  # a random walk has 10, a steady sensor 1
DRIFT_READINGS = 400  # the drift check needs as many
SPREAD_FLOOR = 0.05  # keeps the logarithm of a stuck sensor's deviation finite
FOLDS = 5
VIEWS = ("value", "level", "spread")


def average_path(rows):
    """c(n), the mean depth at which n rows part, as scikit-learn computes it."""
    return float(_average_path_length(np.array([rows]))[0])


# ------------------------------------------------------------------ the distance score


class Tree:
    """One tree of the forest, with the box of the training rows that reached each node."""

    def __init__(self, estimator, rows):
        tree = estimator.tree_
        self.left, self.right = tree.children_left, tree.children_right
        self.feature, self.threshold = tree.feature, tree.threshold
        self.rows = tree.n_node_samples
        self.average_path = [average_path(n) for n in self.rows]
        self.boxes = [None] * tree.node_count  # (least, greatest) per feature, f32 widened to f64
        self.ranges = [0.0] * tree.node_count  # R, the summed ranges
        reached = [(0, rows)]
        while reached:
            node, here = reached.pop()
            assert len(here) == self.rows[node]
            if len(here) > 1:
                low = here.min(axis=0).astype(np.float64)
                high = here.max(axis=0).astype(np.float64)
                self.boxes[node] = low, high
                for a, b in zip(low, high):
                    self.ranges[node] += float(b - a)
            if self.left[node] != LEAF:
                goes_left = here[:, self.feature[node]] <= self.threshold[node]
                reached.append((self.left[node], here[goes_left]))
                reached.append((self.right[node], here[~goes_left]))

    def excess(self, node, rows):
        """How far each row lies outside the node's box in each feature, and the sum over features."""
        low, high = self.boxes[node]
        each = np.maximum(0.0, np.maximum(low - rows, rows - high))
        total = np.zeros(len(rows))
        for feature in range(rows.shape[1]):
            total = total + each[:, feature]
        return each, total

    def remain(self, node, total):
        """The probability R / (R + S) that a random cut of the node does not part the row."""
        outside = total > 0.0
        with np.errstate(invalid="ignore"):
            return np.where(outside, self.ranges[node] / (self.ranges[node] + np.where(outside, total, 1.0)), 1.0)

    def depths(self, rows):
        """The expected depth of each row (f32 widened to f64)."""
        together = np.ones(len(rows))  # p, the probability that no cut has parted the row yet
        expected = np.zeros(len(rows))
        plain = np.zeros(len(rows))
        reached = [(0, np.arange(len(rows)), 0)]
        while reached:
            node, here, edges = reached.pop()
            if len(here) == 0:
                continue
            if self.boxes[node] is not None:
                together[here] *= self.remain(node, self.excess(node, rows[here])[1])
            if self.left[node] == LEAF:
                expected[here] += together[here] * self.average_path[node]
                plain[here] = (edges + 1) + self.average_path[node] - 1.0
            else:
                expected[here] += together[here]
                goes_left = rows[here, self.feature[node]] <= self.threshold[node]
                reached.append((self.left[node], here[goes_left], edges + 1))
                reached.append((self.right[node], here[~goes_left], edges + 1))
        # The minimum keeps the depth from rising with distance by rounding.
        return np.where(together < 1.0, np.minimum(expected, plain), plain)

    def parts(self, row):
        """Per feature: the probability that a cut in it parts the row, summed over the nodes."""
        parts = np.zeros(len(row))
        node, together = 0, 1.0
        while True:
            if self.boxes[node] is not None:
                each, total = self.excess(node, row[None, :])
                each, total = each[0], float(total[0])
                if math.isinf(total):
                    # Infinite excesses share what is left; finite ones beside them count nothing.
                    far = np.isinf(each)
                    return parts + together * far / np.count_nonzero(far)
                if total > 0.0:
                    parts = parts + together * each / (self.ranges[node] + total)
                    together *= self.ranges[node] / (self.ranges[node] + total)
            if self.left[node] == LEAF:
                return parts
            goes_left = row[self.feature[node]] <= self.threshold[node]
            node = self.left[node] if goes_left else self.right[node]


class Forest:
    """An isolation forest on scaled rows. `plain` scores as scikit-learn does, without boxes."""

    def __init__(self, rows, random_state, n_estimators=100, max_samples=256, plain=False):
        self.max_samples = min(max_samples, len(rows))
        self.plain = plain
        self.model = IsolationForest(
            n_estimators=n_estimators, max_samples=self.max_samples, random_state=random_state
        ).fit(rows)
        trained = self.narrow(rows)
        self.median, self.low, self.high = np.median(rows, axis=0), rows.min(axis=0), rows.max(axis=0)
        self.trees = [
            Tree(estimator, trained[chosen])
            for estimator, chosen in zip(self.model.estimators_, self.model.estimators_samples_)
        ]
        self.denominator = n_estimators * average_path(self.max_samples)

    @staticmethod
    def narrow(rows):
        with np.errstate(over="ignore"):
            return np.asarray(rows, dtype=np.float64).astype(np.float32)

    def score_samples(self, rows):
        """As scikit-learn's: -1 for the most abnormal."""
        if self.plain:
            return self.model.score_samples(rows)
        rows = self.narrow(rows).astype(np.float64)
        total = np.zeros(len(rows))
        for tree in self.trees:
            total = total + tree.depths(rows)
        return -(2.0 ** -(total / self.denominator))

    def abnormality(self, rows):
        return -self.score_samples(rows)

    def is_inside(self, row):
        """Whether the row lies inside all boxes of its way."""
        row = self.narrow(row).astype(np.float64)
        return not any(np.any(tree.parts(row) > 0.0) for tree in self.trees)

    def contributions(self, row):
        """Each feature's share of the score of one scaled row; empty where no feature has one.

        Where the row lies outside: without boxes, how far outside the training range; with boxes,
        how likely a cut in the feature parts the row. Elsewhere: how much the score drops when the
        feature has its training median, or its mean (0) in a model without boxes.
        """
        if self.plain:
            parts = np.maximum(0.0, np.maximum(self.low - row, row - self.high))
            neutral = np.zeros(len(row))
        else:
            narrow = self.narrow(row).astype(np.float64)
            parts = np.zeros(len(row))
            for tree in self.trees:
                parts = parts + tree.parts(narrow)
            neutral = self.median
        if not np.any(parts > 0.0):
            replaced = np.tile(row, (len(row), 1))
            np.fill_diagonal(replaced, neutral)
            parts = np.maximum(0.0, self.abnormality(row[None, :])[0] - self.abnormality(replaced))
        total = 0.0
        for part in parts:
            total += float(part)
        return [] if total == 0.0 else [float(part) / total for part in parts]


# ------------------------------------------------------------------ runs, drift and the window


def run_starts(run_lengths):
    return np.concatenate([[0], np.cumsum(run_lengths)]).astype(int)


def drift_ratios(rows, run_lengths=None):
    """V(100) / V(10) per sensor, from rolling means of 10 readings; differences stay within runs."""
    starts = run_starts(run_lengths or [len(rows)])
    near, far = [], []
    for start, end in zip(starts[:-1], starts[1:]):
        run = rows[start:end]
        count = max(0, len(run) - DRIFT_MEAN + 1)
        means = np.zeros((count, rows.shape[1]))
        for i in range(DRIFT_MEAN):
            means = means + run[i : i + count]
        means = means / DRIFT_MEAN
        for lag, differences in ((DRIFT_MEAN, near), (DRIFT_LAG, far)):
            differences.append((means[lag:] - means[: max(0, count - lag)]) ** 2)
    near, far = np.concatenate(near), np.concatenate(far)
    if len(far) == 0:
        return np.zeros(rows.shape[1])
    near, far = near.mean(axis=0), far.mean(axis=0)
    # Where no mean differs from the one a short lag later, none differs from those further on.
    return np.where(near > 0.0, far / np.where(near > 0.0, near, 1.0), 0.0)


def steady_sensors(rows, run_lengths=None):
    """The sensors that the forest sees: those that do not drift, or all if all do."""
    every = list(range(rows.shape[1]))
    if len(rows) < DRIFT_READINGS:
        return every
    ratios = drift_ratios(rows, run_lengths)
    kept = [sensor for sensor in every if not ratios[sensor] > DRIFT_RATIO]
    return kept or every


def window_features(scaled, window):
    """The features of each full window of one run: all values, all means, all spreads."""
    count = len(scaled) - window + 1
    if count <= 0:
        return np.zeros((0, 3 * scaled.shape[1]))
    mean = np.zeros((count, scaled.shape[1]))
    for i in range(window):
        mean = mean + scaled[i : i + count]
    mean = mean / window
    spread = np.zeros_like(mean)
    for i in range(window):
        spread = spread + (scaled[i : i + count] - mean) ** 2
    spread = np.sqrt(spread / window)
    return np.hstack([scaled[window - 1 :], mean, np.log(spread + SPREAD_FLOOR)])


# ------------------------------------------------------------------ the held-back threshold


def fold_of_rows(runs):
    """The fold of each row, from the run of each row: whole runs where there are at least five."""
    names = list(dict.fromkeys(runs.tolist()))
    if len(names) >= FOLDS:
        fold = {run: FOLDS * i // len(names) for i, run in enumerate(names)}
        return np.array([fold[run] for run in runs.tolist()])
    sizes = [len(block) for block in np.array_split(np.arange(len(runs)), FOLDS)]
    return np.repeat(np.arange(FOLDS), sizes)


def training_rows(fold, folds, runs, places, window):
    """The rows that share no reading with a window of the fold."""
    kept = folds != fold
    for run in np.unique(runs[folds == fold]):
        held = places[(folds == fold) & (runs == run)]
        near = (places > held.min() - window) & (places < held.max() + window)
        kept &= ~((runs == run) & near)
    return kept


def held_back_scores(rows, runs, places, window, random_state, **forest):
    """Each row's score by a forest of the other folds. `places`: the row's place in its run.

    The scaler of the rows is fitted to the fold's training rows too, so that nothing leaks.
    """
    folds = fold_of_rows(runs)
    scores = np.zeros(len(rows))
    sizes = []
    for fold in range(FOLDS):
        kept = training_rows(fold, folds, runs, places, window)
        scaler = StandardScaler().fit(rows[kept])
        model = Forest(scaler.transform(rows[kept]), random_state + 1 + fold, **forest)
        scores[folds == fold] = model.abnormality(scaler.transform(rows[folds == fold]))
        sizes.append((int(np.count_nonzero(folds == fold)), int(np.count_nonzero(kept))))
    return scores, sizes


def promised_rate(scores, window, false_alarm_rate):
    """The false-alarm rate that the training can back: overlapping windows do not count as several."""
    independent = max(1, len(scores) // window)
    return max(false_alarm_rate, 1.0 / independent)


def threshold_of(scores, false_alarm_rate):
    """The (1 - rate) quantile; the greatest score where there are too few for that."""
    if len(scores) * false_alarm_rate < 1.0:
        return float(np.max(scores))
    return float(np.quantile(scores, 1.0 - false_alarm_rate))


# ------------------------------------------------------------------ models


class Model:
    """Rows without a window: the distance score and the held-back threshold."""

    def __init__(self, rows, random_state, false_alarm_rate, run_lengths=None, **forest):
        self.scaler = StandardScaler().fit(rows)
        self.forest = Forest(self.scaler.transform(rows), random_state, **forest)
        lengths = run_lengths or [len(rows)]
        runs = np.repeat(np.arange(len(lengths)), lengths)
        places = np.concatenate([np.arange(n) for n in lengths])
        self.held_back, self.folds = held_back_scores(rows, runs, places, 1, random_state, **forest)
        self.threshold = threshold_of(self.held_back, false_alarm_rate)

    def abnormality(self, rows):
        return self.forest.abnormality(self.scaler.transform(rows))

    def predict(self, rows):
        return self.abnormality(rows) > self.threshold


class WindowModel:
    """The values, means and spreads of the last `window` readings of the steady sensors."""

    def __init__(
        self, rows, window, random_state, false_alarm_rate=0.001, run_lengths=None, keep_drifting=False, **forest
    ):
        lengths = run_lengths or [len(rows)]
        starts = run_starts(lengths)
        self.window = window
        self.kept = list(range(rows.shape[1])) if keep_drifting else steady_sensors(rows, lengths)
        self.values = StandardScaler().fit(rows[:, self.kept])
        scaled = self.values.transform(rows[:, self.kept])
        parts = [window_features(scaled[a:b], window) for a, b in zip(starts[:-1], starts[1:])]
        features = np.concatenate(parts)
        runs = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        places = np.concatenate([np.arange(len(part)) for part in parts])
        self.scaler = StandardScaler().fit(features)
        self.forest = Forest(self.scaler.transform(features), random_state, **forest)
        self.held_back, self.folds = held_back_scores(features, runs, places, window, random_state, **forest)
        self.threshold = threshold_of(self.held_back, false_alarm_rate)

    def features(self, rows):
        """The scaled features of each full window of one run."""
        features = window_features(self.values.transform(rows[:, self.kept]), self.window)
        return self.scaler.transform(features) if len(features) else features

    def abnormality(self, rows):
        """NaN while the window fills."""
        scores = np.full(len(rows), np.nan)
        features = self.features(rows)
        if len(features):
            scores[self.window - 1 :] = self.forest.abnormality(features)
        return scores

    def predict(self, rows):
        return self.abnormality(rows) > self.threshold

    def contributions(self, features):
        """Sensor, view and share of each of the scaled features of one window."""
        names = [(sensor, view) for view in VIEWS for sensor in self.kept]
        shares = self.forest.contributions(features)
        return [(sensor, view, share) for (sensor, view), share in zip(names, shares)]


def alarms(predictions, window):
    """True from the second of three predictions that says anomaly, for `window` readings."""
    alarm = np.zeros(len(predictions), dtype=bool)
    for i in range(len(predictions)):
        if np.count_nonzero(predictions[max(0, i - 2) : i + 1]) >= 2:
            alarm[i : i + window] = True
    return alarm
