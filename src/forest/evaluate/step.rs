//! A forest over one feature, as a step function.

use fearless_simd::Level;

use super::path_length::{PathLengths, anomaly_score};
use super::search::{LANES, Search};
use super::threshold::round_down_to_f32;
use crate::forest::cost::MAX_TABLE_ADDITIONS;
use crate::forest::level::at_level;
use crate::forest::tree::Trees;

/// Number of intervals whose path lengths are summed together, because the additions of one
/// interval depend on each other.
const BLOCK: usize = 8;

/// The score as a function of the value, constant between breakpoints.
#[derive(Debug, Clone)]
pub(super) struct StepFunction {
    /// Interval `i` holds the values up to breakpoint `i` and above breakpoint `i - 1`.
    breakpoints: Search,
    /// The anomaly score of each interval.
    scores: Vec<f64>,
}

impl StepFunction {
    /// Precomputes all scores. `None` if that takes more than [`MAX_TABLE_ADDITIONS`], or for trees
    /// whose thresholds do not ascend from left to right, which never grow from data.
    pub(super) fn new(trees: &Trees, denominator: f64) -> Option<Self> {
        // Path lengths are added in the order of the trees, so no sum can be derived from that of
        // the interval before it: each interval takes one addition for each tree.
        let splits = trees.iter().map(|tree| (tree.node_count() / 2) as u64);
        let additions = splits.sum::<u64>().saturating_mul(trees.len() as u64);
        if additions > MAX_TABLE_ADDITIONS {
            return None;
        }
        let (first, mut steps) = steps(trees)?;
        steps.sort_unstable_by(|a, b| a.upper.total_cmp(&b.upper));
        let mut breakpoints = Vec::with_capacity(steps.len() + BLOCK);
        breakpoints.extend(steps.iter().map(|step| step.upper));
        breakpoints.dedup();
        let count = breakpoints.len();
        let mut scores = vec![0.0; count + 1];
        // So that the last block is whole.
        breakpoints.extend([f32::INFINITY; BLOCK]);
        // For each tree, the path length in each interval of the block.
        let mut lengths: Vec<_> = first.into_iter().map(|length| [length; BLOCK]).collect();
        let mut steps = steps.as_slice();
        let (uppers, _) = breakpoints.as_chunks::<BLOCK>();
        for (scores, uppers) in scores.chunks_mut(BLOCK).zip(uppers) {
            let here = steps.iter().take_while(|s| s.upper <= uppers[BLOCK - 1]);
            let (here, later) = steps.split_at(here.count());
            for step in here {
                for (length, &upper) in lengths[step.tree as usize].iter_mut().zip(uppers) {
                    let above = upper > step.upper;
                    *length = if above { step.length } else { *length };
                }
            }
            // Added in the order of the trees, as scikit-learn does.
            let mut sums = [0.0; BLOCK];
            for lengths in &lengths {
                for (sum, length) in sums.iter_mut().zip(lengths) {
                    *sum += length;
                }
            }
            scores.copy_from_slice(&sums[..scores.len()]);
            for step in here {
                lengths[step.tree as usize] = [step.length; BLOCK];
            }
            steps = later;
        }
        let level = Level::new();
        at_level(
            level,
            #[inline(always)]
            || {
                for score in &mut scores {
                    *score = anomaly_score(level, *score, denominator);
                }
            },
        );
        Some(Self {
            breakpoints: Search::new(&breakpoints[..count]),
            scores,
        })
    }

    /// The bytes that it holds.
    pub(super) fn memory_size(&self) -> usize {
        self.breakpoints.memory_size() + size_of::<f64>() * self.scores.capacity()
    }

    /// The intervals in ascending order: the greatest value and the anomaly score of each.
    pub(super) fn intervals(&self) -> impl Iterator<Item = (f32, f64)> {
        let upper = self.breakpoints.breakpoints().iter().copied();
        upper
            .chain([f32::INFINITY])
            .zip(self.scores.iter().copied())
    }

    /// The anomaly score of a value.
    pub(super) fn score(&self, value: f32) -> f64 {
        self.scores[self.breakpoints.rank(value)]
    }

    /// Writes the anomaly score of each value.
    #[inline(always)]
    pub(super) fn scores(&self, values: &[f32; LANES], scores: &mut [f64]) {
        let mut ranks = [0; LANES];
        self.breakpoints.ranks(values, &mut ranks);
        for (score, rank) in scores.iter_mut().zip(ranks) {
            *score = self.scores[rank as usize];
        }
    }
}

/// A change of the path length in one tree.
#[derive(Clone, Copy)]
struct Step {
    /// The greatest value below the step.
    upper: f32,
    tree: u32,
    /// The path length above the step.
    length: f64,
}

/// The path length of the smallest values in each tree, and the steps, ascending within each tree.
fn steps(trees: &Trees) -> Option<(Vec<f64>, Vec<Step>)> {
    let lengths = PathLengths::new();
    let mut first = Vec::with_capacity(trees.len());
    let step_count = trees.iter().map(|tree| tree.node_count() / 2).sum();
    let mut steps = Vec::with_capacity(step_count);
    // Thresholds of the ancestors that lie to the right of the node, and their depths.
    let mut open: Vec<(f32, u32)> = Vec::new();
    for (i, tree) in trees.iter().enumerate() {
        let mut depth = 0;
        let mut below = f32::NEG_INFINITY;
        // The path length below. Every fourth leaf has the same as the leaf before: no step.
        let mut before = 0.0;
        for (node, &rows) in tree.n_node_samples().iter().enumerate() {
            if let Some((_, threshold)) = tree.split(node) {
                // The left child is the next node. Adding 0.0 turns -0 into 0: one breakpoint.
                open.push((round_down_to_f32(threshold) + 0.0, depth));
                depth += 1;
                continue;
            }
            let length = lengths.of_leaf(depth, rows);
            if below == f32::NEG_INFINITY {
                first.push(length);
            } else if length != before {
                steps.push(Step {
                    upper: below,
                    tree: i as u32,
                    length,
                });
            }
            before = length;
            let Some((upper, depth_above)) = open.pop() else {
                break;
            };
            if upper <= below || upper == f32::INFINITY {
                return None;
            }
            below = upper;
            depth = depth_above + 1;
        }
    }
    Some((first, steps))
}
