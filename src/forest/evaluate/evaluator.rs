//! Picks an evaluation method for a forest and scores rows with it.

use linfa::Float;
use ndarray::{ArrayBase, Data, Ix2};
use rayon::prelude::*;

use super::distance::DistanceTrees;
use super::normal::normal_ranges;
use super::path_length::{anomaly_score, average_path_length};
use super::perfect::PerfectTrees;
use super::step::StepFunction;
use super::walk::Walk;
use crate::forest::convert::as_f32;
use crate::forest::tree::{Boxes, Trees};

/// Rows that are scored together: padded, they fit into the first-level cache beside a tree.
const BLOCK: usize = 128;

/// With fewer values, starting threads costs more than it saves.
const MIN_PARALLEL_VALUES: usize = 32 * 1024;

/// Scores rows with a compiled form of the trees.
#[derive(Debug, Clone)]
pub(in crate::forest) struct Evaluator {
    method: Method,
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
            denominator,
        }
    }

    /// The bytes that it holds.
    pub(in crate::forest) fn memory_size(&self) -> usize {
        match &self.method {
            Method::Step(step) => step.memory_size(),
            Method::Perfect(trees) => trees.memory_size(),
            Method::Walk(walk) => walk.memory_size(),
            Method::Distance(trees) => trees.memory_size(),
        }
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
            Method::Distance(trees) => self.score(trees.depth_sum(&narrow(row))),
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
                let depth = |value: f32| trees.depth_sum(&[value]);
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

    /// Writes scikit-learn's `score_samples` of each row to `scores`.
    pub(in crate::forest) fn score_samples<F: Float, D: Data<Elem = F> + Sync>(
        &self,
        rows: &ArrayBase<D, Ix2>,
        scores: &mut [f64],
    ) {
        let score_block = |(block, scores): (usize, &mut [f64])| {
            self.score_block(rows, block * BLOCK, scores);
        };
        if rows.len() < MIN_PARALLEL_VALUES {
            scores.chunks_mut(BLOCK).enumerate().for_each(score_block);
        } else {
            scores
                .par_chunks_mut(BLOCK)
                .enumerate()
                .for_each(score_block);
        }
    }

    /// Scores `scores.len()` rows, starting with row `first`.
    fn score_block<F: Float, D: Data<Elem = F>>(
        &self,
        rows: &ArrayBase<D, Ix2>,
        first: usize,
        scores: &mut [f64],
    ) {
        match &self.method {
            Method::Step(step) => {
                let column = rows.column(0);
                match column.as_slice() {
                    Some(values) => {
                        for (score, &value) in scores.iter_mut().zip(&values[first..]) {
                            *score = -step.score(as_f32(value));
                        }
                    }
                    None => {
                        for (score, &value) in scores.iter_mut().zip(column.iter().skip(first)) {
                            *score = -step.score(as_f32(value));
                        }
                    }
                }
                return;
            }
            Method::Perfect(trees) => {
                let value = |row, feature| as_f32(rows[(first + row, feature)]);
                trees.path_length_sums(value, scores);
            }
            Method::Walk(walk) => {
                each_row(rows, first, scores, |row| walk.path_length_sum(row));
            }
            Method::Distance(trees) => each_row(rows, first, scores, |row| trees.depth_sum(row)),
        }
        for score in scores {
            *score = self.score(*score);
        }
    }

    /// scikit-learn's `score_samples` for a sum of path lengths.
    fn score(&self, path_length_sum: f64) -> f64 {
        -anomaly_score(path_length_sum, self.denominator)
    }
}

/// Writes what `sum` returns for each row to `sums`, starting with row `first`.
fn each_row<F: Float, D: Data<Elem = F>>(
    rows: &ArrayBase<D, Ix2>,
    first: usize,
    sums: &mut [f64],
    path_length_sum: impl Fn(&[f32]) -> f64,
) {
    let mut row = Vec::with_capacity(rows.ncols());
    for (i, sum) in sums.iter_mut().enumerate() {
        row.clear();
        row.extend(rows.row(first + i).iter().map(|&value| as_f32(value)));
        *sum = path_length_sum(&row);
    }
}
