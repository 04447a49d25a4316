//! Picks an evaluation method for a forest and scores rows with it.

use std::sync::OnceLock;

use fearless_simd::Level;
use linfa::Float;
use ndarray::{ArrayBase, Axis, Data, Ix2, Slice};
use rayon::prelude::*;

use super::distance::DistanceTrees;
use super::normal::normal_ranges;
use super::path_length::{anomaly_score, average_path_length};
use super::perfect::PerfectTrees;
use super::planes::{PlaneTrees, ROWS};
use super::search::LANES;
use super::step::StepFunction;
use super::walk::Walk;
use crate::forest::convert::{as_f32, as_f64};
use crate::forest::level::at_level;
use crate::forest::tree::{Boxes, Trees};

/// Rows that are scored together: padded, they fit into the first-level cache beside a tree.
const BLOCK: usize = 128;

/// A batch of fewer rows is not worth a block of planes, which takes the same time for any number of
/// rows.
const MIN_PLANE_ROWS: usize = 160;

/// With fewer rows, compiling planes takes longer than it saves.
pub(in crate::forest) const MIN_COMPILE_ROWS: usize = 2 * 1024;

/// With fewer values, starting threads costs more than it saves.
const MIN_PARALLEL_VALUES: usize = 32 * 1024;

/// Scores rows with a compiled form of the trees.
#[derive(Debug, Clone)]
pub(in crate::forest) struct Evaluator {
    method: Method,
    /// The planes, compiled for the first large batch; `None` for trees that are too deep.
    planes: OnceLock<Option<PlaneTrees>>,
    /// Divides the sum of path lengths: the number of trees times their average path length.
    denominator: f64,
}

#[derive(Debug, Clone)]
enum Method {
    Step(StepFunction),
    Perfect(PerfectTrees),
    Walk(Walk),
    Distance(DistanceTrees),
}

impl Evaluator {
    /// Compiles trees that were grown from `max_samples` rows each. With their boxes, scores know how
    /// far outside the training rows a row is.
    pub(in crate::forest) fn new(
        trees: &Trees,
        n_features: usize,
        max_samples: u32,
        boxes: Option<Boxes>,
    ) -> Self {
        let denominator = trees.len() as f64 * average_path_length(max_samples);
        let fast = match (boxes, n_features) {
            (Some(boxes), _) => {
                let trees = DistanceTrees::new(trees, n_features, boxes);
                Some(Method::Distance(trees))
            }
            (None, 1) => StepFunction::new(trees, denominator).map(Method::Step),
            (None, _) => PerfectTrees::new(trees, n_features).map(Method::Perfect),
        };
        // Not padded: with one feature only forests of very many trees are walked, and each padded
        // tree takes at least 4 KB.
        let method = fast.unwrap_or_else(|| Method::Walk(Walk::new(trees)));
        Self {
            method,
            planes: OnceLock::new(),
            denominator,
        }
    }

    /// Frees what was compiled for large batches.
    pub(in crate::forest) fn drop_planes(&mut self) {
        self.planes = OnceLock::new();
    }

    /// The bytes that it holds.
    pub(in crate::forest) fn memory_size(&self) -> usize {
        let method = match &self.method {
            Method::Step(step) => step.memory_size(),
            Method::Perfect(trees) => trees.memory_size(),
            Method::Walk(walk) => walk.memory_size(),
            Method::Distance(trees) => trees.memory_size(),
        };
        method + self.planes_memory_size()
    }

    /// The bytes of them that are planes.
    pub(in crate::forest) fn planes_memory_size(&self) -> usize {
        let planes = self.planes.get().and_then(Option::as_ref);
        planes.map_or(0, PlaneTrees::memory_size)
    }

    /// The boxes of the nodes; `None` if scores do not know distances.
    pub(in crate::forest) fn boxes(&self) -> Option<&[f32]> {
        match &self.method {
            Method::Distance(trees) => Some(trees.boxes()),
            _ => None,
        }
    }

    /// scikit-learn's `score_samples` of one row; `row` must have one value per feature.
    pub(in crate::forest) fn score_one(&self, row: &[f64]) -> f64 {
        let narrow = |row: &[f64]| row.iter().map(|&value| value as f32).collect::<Vec<_>>();
        match &self.method {
            Method::Step(step) => -step.score(row[0] as f32),
            Method::Perfect(trees) => self.score(trees.path_length_sum(&narrow(row))),
            Method::Walk(walk) => self.score(walk.path_length_sum(&narrow(row))),
            Method::Distance(trees) => self.score(trees.depth_sum(Level::new(), &narrow(row))),
        }
    }

    /// The work to score a row, in plain walks down a tree: none if scores are looked up.
    pub(in crate::forest) fn walks_per_row(&self) -> usize {
        match &self.method {
            Method::Step(_) => 0,
            Method::Perfect(trees) => trees.len(),
            Method::Walk(walk) => walk.len(),
            // Each level compares a box with all values of the row.
            Method::Distance(trees) => trees.len() * (1 + trees.n_features() / 4),
        }
    }

    /// For each feature, its share of the row's distance from the training rows: see
    /// [`DistanceTrees::shares`]. `None` if the row is inside all boxes on its way, or scores do not
    /// know distances.
    pub(in crate::forest) fn distance_shares(&self, row: &[f64]) -> Option<Vec<f64>> {
        let Method::Distance(trees) = &self.method else {
            return None;
        };
        let row: Vec<f32> = row.iter().map(|&value| value as f32).collect();
        trees.shares(&row)
    }

    /// The ranges of values that are normal, for a forest over one feature whose scores know
    /// distances: as [`IsolationForest::normal_ranges`](crate::forest::IsolationForest::normal_ranges).
    /// `is_normal` says so of a value of `score_samples`.
    pub(in crate::forest) fn normal_ranges(
        &self,
        is_normal: impl Fn(f64) -> bool,
    ) -> Option<Vec<(f32, f32)>> {
        match &self.method {
            Method::Distance(trees) if trees.n_features() == 1 => {
                let depth = |value: f32| trees.depth_sum(Level::new(), &[value]);
                let is_normal = |depth| is_normal(self.score(depth));
                Some(normal_ranges(&trees.edges(), depth, is_normal))
            }
            _ => None,
        }
    }

    /// The intervals of constant score, adjacent and ascending: the greatest value of each, and
    /// scikit-learn's `score_samples` of its values. `None` unless scores are looked up.
    pub(in crate::forest) fn intervals(&self) -> Option<impl Iterator<Item = (f32, f64)>> {
        match &self.method {
            Method::Step(step) => Some(step.intervals().map(|(upper, score)| (upper, -score))),
            _ => None,
        }
    }

    /// Writes scikit-learn's `score_samples` of each row to `scores`. Returns whether all values are
    /// finite; if not, the scores mean nothing.
    #[must_use]
    pub(in crate::forest) fn score_samples<F: Float, D: Data<Elem = F> + Sync>(
        &self,
        rows: &ArrayBase<D, Ix2>,
        scores: &mut [f64],
    ) -> bool {
        self.score_samples_at(Level::new(), rows, scores)
    }

    fn score_samples_at<F: Float, D: Data<Elem = F> + Sync>(
        &self,
        level: Level,
        rows: &ArrayBase<D, Ix2>,
        scores: &mut [f64],
    ) -> bool {
        let planes = self.planes_for(rows.nrows());
        let block = match (&self.method, planes) {
            // So many that each box is read once for several rows.
            (Method::Distance(_), _) | (_, Some(_)) => ROWS,
            _ => BLOCK,
        };
        let score_block = |(i, scores): (usize, &mut [f64])| {
            let block = Slice::from(i * block..i * block + scores.len());
            let rows = rows.slice_axis(Axis(0), block);
            // Rows that do not lie one after the other are copied.
            let copy: Vec<F>;
            let values = match rows.as_slice() {
                Some(values) => values,
                None => {
                    copy = rows.iter().copied().collect();
                    &copy
                }
            };
            let is_finite = at_level(
                level,
                #[inline(always)]
                || self.sum_block(level, planes, values, scores),
            );
            // In code of its own: within the code above, looking up scores took 1.5 times as long.
            at_level(
                level,
                #[inline(always)]
                || self.finish_block(level, scores),
            );
            is_finite
        };
        if rows.len() < MIN_PARALLEL_VALUES {
            scores.chunks_mut(block).enumerate().all(score_block)
        } else {
            scores.par_chunks_mut(block).enumerate().all(score_block)
        }
    }

    /// The planes, if they make a batch of so many rows faster.
    fn planes_for(&self, rows: usize) -> Option<&PlaneTrees> {
        if rows >= MIN_COMPILE_ROWS {
            self.prepare_batches();
        }
        if rows < MIN_PLANE_ROWS {
            return None;
        }
        self.planes.get()?.as_ref()
    }

    /// Compiles the planes that a large batch would compile.
    pub(in crate::forest) fn prepare_batches(&self) {
        if let Method::Perfect(trees) = &self.method {
            self.planes.get_or_init(|| PlaneTrees::new(trees));
        }
    }

    /// Writes the sum of path lengths of each row of a block, or its anomaly score if scores are looked
    /// up. The values of the rows follow one another. Returns whether they are finite.
    #[inline(always)]
    fn sum_block<F: Float>(
        &self,
        level: Level,
        planes: Option<&PlaneTrees>,
        values: &[F],
        scores: &mut [f64],
    ) -> bool {
        // Without a branch, so that values are checked side by side.
        let is_finite = values
            .iter()
            .fold(true, |all, &value| all & as_f64(value).is_finite());
        let width = values.len() / scores.len();
        let value = |row: usize, feature: usize| as_f32(values[row * width + feature]);
        match (&self.method, planes) {
            (Method::Step(step), _) => {
                for (scores, values) in scores.chunks_mut(LANES).zip(values.chunks(LANES)) {
                    let mut narrow = [0.0; LANES];
                    for (narrow, &value) in narrow.iter_mut().zip(values) {
                        *narrow = as_f32(value);
                    }
                    step.scores(&narrow, scores);
                }
            }
            (_, Some(planes)) => planes.path_length_sums(level, value, scores),
            (Method::Perfect(trees), None) => trees.path_length_sums(value, scores),
            (Method::Walk(walk), _) => {
                each_row(values, scores, |row| walk.path_length_sum(row));
            }
            (Method::Distance(trees), _) => {
                let narrow: Vec<f32> = values.iter().map(|&value| as_f32(value)).collect();
                trees.depth_sums(level, &narrow, scores);
            }
        }
        is_finite
    }

    /// Makes `score_samples` of what [`sum_block`](Self::sum_block) wrote.
    #[inline(always)]
    fn finish_block(&self, level: Level, scores: &mut [f64]) {
        match &self.method {
            Method::Step(_) => {
                for score in scores {
                    *score = -*score;
                }
            }
            _ => {
                for sum in scores {
                    *sum = -anomaly_score(level, *sum, self.denominator);
                }
            }
        }
    }

    /// scikit-learn's `score_samples` for a sum of path lengths.
    fn score(&self, path_length_sum: f64) -> f64 {
        let level = Level::new();
        at_level(
            level,
            #[inline(always)]
            || -anomaly_score(level, path_length_sum, self.denominator),
        )
    }
}

/// Writes what `sum` returns for each row to `sums`.
fn each_row<F: Float>(values: &[F], sums: &mut [f64], sum: impl Fn(&[f32]) -> f64) {
    let mut narrow = Vec::new();
    let rows = values.chunks_exact(values.len() / sums.len());
    for (to, row) in sums.iter_mut().zip(rows) {
        narrow.clear();
        narrow.extend(row.iter().map(|&value| as_f32(value)));
        *to = sum(&narrow);
    }
}

#[cfg(test)]
mod tests {
    use linfa::ParamGuard;
    use ndarray::Array2;

    use super::*;
    use crate::forest::level::levels;
    use crate::forest::random::NumpyRandom;
    use crate::forest::{IsolationForest, MaxSamples};

    /// Values that make trees of all kinds: spread, skewed, whole numbers, and of a huge range.
    fn values(kind: usize, random: &mut NumpyRandom, rows: usize, columns: usize) -> Array2<f64> {
        Array2::from_shape_simple_fn((rows, columns), || {
            let value = random.uniform();
            match kind {
                0 => value,
                1 => (40.0 * value - 20.0).exp(),
                2 => (9.0 * value).floor() - 4.0,
                _ => (value - 0.5) * 6e38,
            }
        })
    }

    /// Checks that batches have the scores of single rows, in every bit, on all levels. Single rows are
    /// scored by other methods, which are checked against a plain walk.
    fn check_batches(
        (trees, rows_per_tree, columns): (usize, usize, usize),
        with_boxes: bool,
        has_planes: bool,
    ) {
        for kind in 0..4 {
            let mut random = NumpyRandom::new(11);
            let training = values(kind, &mut random, 700, columns);
            let params = IsolationForest::params()
                .n_estimators(trees)
                .max_samples(MaxSamples::Count(rows_per_tree))
                .random_state(1);
            let params = params.check().expect("valid");
            let forest = params.grow(&training, with_boxes).expect("it fits");
            let evaluator = forest.evaluator();
            let mut batch = values(kind, &mut random, MIN_COMPILE_ROWS + 3, columns);
            // The thresholds themselves, and beyond the range of `f32`.
            for (row, tree) in forest.trees().take(200).enumerate() {
                if let Some((feature, threshold)) = tree.split(0) {
                    batch[(row, feature)] = threshold;
                }
            }
            batch[(300, 0)] = 1e300;
            batch[(301, 0)] = -1e300;
            batch[(302, columns - 1)] = -0.0;
            let expected: Vec<f64> = batch
                .rows()
                .into_iter()
                .map(|row| evaluator.score_one(&row.to_vec()))
                .collect();
            let reversed = batch.slice_axis(Axis(0), Slice::new(0, None, -1));
            for level in levels() {
                let context = format!("{level:?}, {trees} trees x {columns}, kind {kind}");
                let mut scores = vec![0.0; batch.nrows()];
                assert!(evaluator.score_samples_at(level, &batch, &mut scores));
                assert_eq!(scores, expected, "{context}");
                assert!(evaluator.score_samples_at(level, &reversed, &mut scores));
                scores.reverse();
                assert_eq!(scores, expected, "{context}, reversed");
            }
            let planes = evaluator.planes.get().and_then(Option::as_ref);
            assert_eq!(planes.is_some(), has_planes);
            // A smaller batch uses the planes that are there.
            let some = batch.slice_axis(Axis(0), Slice::from(..MIN_PLANE_ROWS + 1));
            let mut scores = vec![0.0; some.nrows()];
            assert!(evaluator.score_samples(&some, &mut scores));
            assert_eq!(scores, expected[..some.nrows()]);
        }
    }

    #[test]
    fn batches_have_the_bits_of_single_rows_on_all_levels() {
        check_batches((100, 256, 1), false, false);
        check_batches((30, 100, 1), false, false);
        check_batches((100, 256, 2), false, true);
        check_batches((100, 256, 10), false, true);
        check_batches((7, 64, 3), false, true);
        check_batches((3, 1, 3), false, true);
        // Several groups of planes.
        check_batches((300, 256, 3), false, true);
        check_batches((20, 256, 40), false, true);
        // Too deep for planes.
        check_batches((20, 600, 3), false, false);
    }

    #[test]
    fn batches_with_distances_have_the_bits_of_single_rows_on_all_levels() {
        for columns in [1, 2, 3, 4, 6, 11, 15, 18, 30] {
            check_batches((30, 256, columns), true, false);
        }
        check_batches((5, 700, 24), true, false);
    }

    #[test]
    fn a_value_that_is_not_finite_is_found_wherever_it_is() {
        let training = Array2::from_shape_fn((50, 2), |(row, column)| (row * column) as f64);
        let params = IsolationForest::params().random_state(1);
        let params = params.check().expect("valid");
        let forest = params.grow(&training, false).expect("it fits");
        for rows in [1, 130, 5000, 40_000] {
            for row in [0, rows / 2, rows - 1] {
                let mut batch = Array2::zeros((rows, 2));
                batch[(row, 1)] = f64::NAN;
                let mut scores = vec![0.0; rows];
                assert!(!forest.evaluator().score_samples(&batch, &mut scores));
            }
        }
    }
}
