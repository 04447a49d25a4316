//! From trees to scores, fast and with the bits of the plain evaluation: walk down every tree, add
//! the path lengths in the order of the trees, take the power.
//!
//! Which evaluator is used when, and why:
//!
//! * [`step`], for one feature: the whole forest is a step function of the value, so its scores
//!   are worked out once and looked up.
//! * [`perfect`], for 2 to 256 features and trees up to [`perfect::MAX_DEPTH`] deep (those of up to
//!   1,024 rows each): trees padded to perfect ones are walked without a branch that could be
//!   mispredicted, many rows at a time.
//! * [`walk`], for the rest: deeper trees are too sparse, and longer rows too long, to be padded.
//!
//! Values are `f32`. For them `value <= threshold` decides the same when the `f64` threshold is
//! replaced by the largest `f32` not above it, so evaluators hold thresholds as `f32`.

mod perfect;
mod step;
mod walk;

use linfa::Float;
use ndarray::{ArrayBase, Data, Ix2};
use rayon::prelude::*;

use self::perfect::PerfectTrees;
use self::step::StepFunction;
use self::walk::Walk;
use super::convert::as_f32;
use super::tree::{Tree, Trees};

/// Rows that are scored together: padded, they fit the first-level cache beside a tree.
const BLOCK: usize = 128;

/// Below this many values, starting threads costs more than it brings.
const PARALLEL_FROM: usize = 32 * 1024;

/// Scores rows.
#[derive(Debug, Clone)]
pub(super) struct Evaluator {
    method: Method,
    /// What scores divide the sum of path lengths by.
    denominator: f64,
}

#[derive(Debug, Clone)]
enum Method {
    Step(StepFunction),
    Perfect(PerfectTrees),
    Walk(Walk),
}

impl Evaluator {
    /// For trees that were grown from `max_samples` rows each.
    pub(super) fn new(trees: &Trees, n_features: usize, max_samples: u32) -> Self {
        let denominator = trees.len() as f64 * average_path_length(max_samples);
        let step = match n_features {
            1 => StepFunction::new(trees, denominator).map(Method::Step),
            _ => None,
        };
        let method = step
            .or_else(|| PerfectTrees::new(trees, n_features).map(Method::Perfect))
            .unwrap_or_else(|| Method::Walk(Walk::new(trees)));
        Self {
            method,
            denominator,
        }
    }

    /// scikit-learn's `score_samples` of one row, which has as many values as the forest features.
    pub(super) fn score_one(&self, row: &[f64]) -> f64 {
        let narrow = |row: &[f64]| row.iter().map(|&value| value as f32).collect::<Vec<_>>();
        match &self.method {
            Method::Step(step) => -step.score(row[0] as f32),
            Method::Perfect(trees) => self.score(trees.path_length_sum(&narrow(row))),
            Method::Walk(walk) => self.score(walk.path_length_sum(&narrow(row))),
        }
    }

    /// For one feature: the intervals without gaps, from below to above, each with the greatest value
    /// in it and scikit-learn's `score_samples` of it.
    pub(super) fn intervals(&self) -> Option<impl Iterator<Item = (f32, f64)>> {
        match &self.method {
            Method::Step(step) => Some(step.intervals().map(|(upper, score)| (upper, -score))),
            _ => None,
        }
    }

    /// scikit-learn's `score_samples`, into `scores`, one for each row.
    pub(super) fn score_samples<F: Float, D: Data<Elem = F> + Sync>(
        &self,
        rows: &ArrayBase<D, Ix2>,
        scores: &mut [f64],
    ) {
        let score_block = |(block, scores): (usize, &mut [f64])| {
            self.score_block(rows, block * BLOCK, scores);
        };
        if rows.len() < PARALLEL_FROM {
            scores.chunks_mut(BLOCK).enumerate().for_each(score_block);
        } else {
            scores
                .par_chunks_mut(BLOCK)
                .enumerate()
                .for_each(score_block);
        }
    }

    /// Scores the rows from `first` on.
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
                let mut row = Vec::with_capacity(rows.ncols());
                for (i, sum) in scores.iter_mut().enumerate() {
                    row.clear();
                    row.extend(rows.row(first + i).iter().map(|&value| as_f32(value)));
                    *sum = walk.path_length_sum(&row);
                }
            }
        }
        for score in scores {
            *score = self.score(*score);
        }
    }

    fn score(&self, path_length_sum: f64) -> f64 {
        -anomaly_score(path_length_sum, self.denominator)
    }
}

/// Average path length of an unsuccessful search in a binary search tree of `n` rows: equation 1
/// of Liu, Ting and Zhou (2008), with scikit-learn's values for 1 and 2 rows and its order of
/// operations.
fn average_path_length(n: u32) -> f64 {
    /// numpy's `euler_gamma`.
    const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
    match n {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => {
            let n = f64::from(n);
            2.0 * ((n - 1.0).ln() + EULER_GAMMA) - 2.0 * (n - 1.0) / n
        }
    }
}

/// The anomaly score of the paper, in `(0, 1]`, greater for more isolated rows.
fn anomaly_score(path_length_sum: f64, denominator: f64) -> f64 {
    let exponent = if denominator == 0.0 {
        1.0
    } else {
        path_length_sum / denominator
    };
    // LLVM turns pow(2, x) into exp2(x), which differs in the last bit once in a thousand values;
    // so the 2 is hidden from it.
    std::hint::black_box(2.0_f64).powf(-exponent)
}

/// Path lengths of leaves. Most hold few rows, so their logarithms are worked out once.
struct PathLengths(Vec<f64>);

impl PathLengths {
    fn new() -> Self {
        Self((0..256).map(average_path_length).collect())
    }

    /// The edges from the root, and what `rows` rows that reached the leaf would still add.
    fn of(&self, edges: u32, rows: u32) -> f64 {
        let known = self.0.get(rows as usize).copied();
        let further = known.unwrap_or_else(|| average_path_length(rows));
        // scikit-learn counts the root as depth 1 and takes the 1 away last.
        f64::from(edges + 1) + further - 1.0
    }
}

/// The largest `f32` not above a threshold.
fn f32_not_above(threshold: f64) -> f32 {
    let near = threshold as f32;
    let above = i32::from(f64::from(near) > threshold);
    // If so, the next one down; without a branch, which would be mispredicted every other time.
    let bits = near.to_bits() as i32;
    let down = (bits >> 31) | 1;
    f32::from_bits((bits - above * down) as u32)
}

/// The edges from the root to each node.
fn depths(tree: &Tree<'_>) -> Vec<u32> {
    let mut depths = vec![0; tree.node_count()];
    for node in 0..tree.node_count() {
        if let Some((left, right)) = tree.children(node) {
            depths[left] = depths[node] + 1;
            depths[right] = depths[node] + 1;
        }
    }
    depths
}

#[cfg(test)]
mod tests {
    use super::*;

    // Above and below zero, where neighbours are counted the other way round, and at both ends.
    #[test]
    fn the_largest_f32_not_above_a_threshold() {
        for near in [0.0, 1e-45, 0.1, 1.0, 3.0e38, f32::MAX].map(f64::from) {
            for threshold in [
                near,
                near.next_up(),
                near.next_down(),
                1.5 * near,
                0.7 * near,
            ] {
                for threshold in [threshold, -threshold] {
                    let found = f32_not_above(threshold);
                    assert!(f64::from(found) <= threshold, "{threshold:e}");
                    assert!(f64::from(found.next_up()) > threshold, "{threshold:e}");
                }
            }
        }
    }
}
