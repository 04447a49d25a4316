//! A forest over one feature, as a step function.

use std::ops::Range;

use super::path_length::{PathLengths, anomaly_score};
use super::threshold::round_down_to_f32;
use crate::forest::cost::MAX_TABLE_ADDITIONS;
use crate::forest::tree::Trees;

/// Average number of breakpoints per bucket. With fewer, the table would cost more space in the
/// first-level cache than it saves comparisons.
const BREAKPOINTS_PER_BUCKET: usize = 3;

/// Number of breakpoints that a look-up compares at once, without a branch. Buckets with more are
/// searched; they are few unless most values lie in a small part of the range.
const PROBES: usize = 16;

/// Number of intervals whose path lengths are summed together, because the additions of one
/// interval depend on each other. At most [`PROBES`], so that the last block is whole.
const BLOCK: usize = 8;

/// The score as a function of the value, constant between breakpoints.
///
/// A table of buckets of equal width leads near the right breakpoint, so that a look-up takes a few
/// nanoseconds for any number of breakpoints.
#[derive(Debug, Clone)]
pub(super) struct StepFunction {
    /// Ascending and distinct, followed by [`PROBES`] infinities. Interval `i` holds the values up
    /// to breakpoint `i` and above breakpoint `i - 1`.
    breakpoints: Vec<f32>,
    /// The anomaly score of each interval.
    scores: Vec<f64>,
    buckets: Buckets,
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
        let breakpoints = breakpoints(&steps);
        let buckets = Buckets::new(&breakpoints[..breakpoints.len() - PROBES]);
        let mut scores = vec![0.0; breakpoints.len() - PROBES + 1];
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
            for (score, sum) in scores.iter_mut().zip(sums) {
                *score = anomaly_score(sum, denominator);
            }
            for step in here {
                lengths[step.tree as usize] = [step.length; BLOCK];
            }
            steps = later;
        }
        Some(Self {
            breakpoints,
            scores,
            buckets,
        })
    }

    /// The bytes that it holds.
    pub(super) fn memory_size(&self) -> usize {
        size_of::<f32>() * self.breakpoints.capacity()
            + size_of::<f64>() * self.scores.capacity()
            + size_of::<u32>() * self.buckets.starts.capacity()
    }

    /// The intervals in ascending order: the greatest value and the anomaly score of each.
    pub(super) fn intervals(&self) -> impl Iterator<Item = (f32, f64)> {
        let upper = self.breakpoints.iter().copied();
        upper.zip(self.scores.iter().copied())
    }

    /// The anomaly score of a value, which must not be NaN.
    pub(super) fn score(&self, value: f32) -> f64 {
        let bucket = self.buckets.range(value);
        let below = if bucket.len() <= PROBES {
            // Breakpoints of later buckets are not below the value, so they add nothing.
            let probes = &self.breakpoints[bucket.start..bucket.start + PROBES];
            let below = probes.iter().map(|&b| u32::from(b < value));
            below.sum::<u32>() as usize
        } else {
            self.breakpoints[bucket.clone()].partition_point(|&b| b < value)
        };
        self.scores[bucket.start + below]
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
            } else {
                steps.push(Step {
                    upper: below,
                    tree: i as u32,
                    length,
                });
            }
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

/// The breakpoints of sorted steps, and their padding.
fn breakpoints(steps: &[Step]) -> Vec<f32> {
    let mut breakpoints = Vec::with_capacity(steps.len() + PROBES);
    breakpoints.extend(steps.iter().map(|step| step.upper));
    breakpoints.dedup();
    breakpoints.extend([f32::INFINITY; PROBES]);
    breakpoints
}

/// Divides the range from the first breakpoint to the last into buckets of equal width.
#[derive(Debug, Clone)]
struct Buckets {
    low: f32,
    /// Buckets per unit of value.
    per_unit: f32,
    /// The first breakpoint of each bucket, and the end of the last.
    starts: Vec<u32>,
}

impl Buckets {
    /// Distributes breakpoints, which must be ascending and finite.
    fn new(breakpoints: &[f32]) -> Self {
        let (low, high) = match breakpoints {
            [low, .., high] => (*low, *high),
            _ => (0.0, 0.0),
        };
        let last = breakpoints.len() / BREAKPOINTS_PER_BUCKET;
        let per_unit = last as f32 / (high - low);
        let mut buckets = Self {
            low,
            per_unit: if per_unit.is_finite() { per_unit } else { 0.0 },
            starts: vec![0; last + 2],
        };
        for &breakpoint in breakpoints {
            let bucket = buckets.bucket_of(breakpoint);
            buckets.starts[bucket + 1] += 1;
        }
        for bucket in 0..=last {
            buckets.starts[bucket + 1] += buckets.starts[bucket];
        }
        buckets
    }

    /// The bucket of a value. Rounding keeps it monotonic: breakpoints in earlier buckets are below
    /// the value, and breakpoints in later buckets are above it.
    fn bucket_of(&self, value: f32) -> usize {
        // The cast saturates: values below the range, and NaN, become 0.
        let bucket = ((value - self.low) * self.per_unit) as usize;
        bucket.min(self.starts.len() - 2)
    }

    /// The indices of the breakpoints in a value's bucket.
    fn range(&self, value: f32) -> Range<usize> {
        let bucket = self.bucket_of(value);
        self.starts[bucket] as usize..self.starts[bucket + 1] as usize
    }
}
