//! A forest over one feature as the step function that it is.

use super::{PathLengths, anomaly_score, depths, f32_not_above};
use crate::forest::tree::Trees;

/// Buckets for each breakpoint. More of them make fewer comparisons and more cache misses.
const BUCKETS_PER_BREAKPOINT: usize = 2;

/// In buckets of up to this many breakpoints a search one by one is faster than a binary one.
const LINEAR: usize = 8;

/// Constant between breakpoints. A table of equally wide buckets in front of them leads near the
/// right one, so that a look-up takes a few nanoseconds whatever their number.
#[derive(Debug, Clone)]
pub(super) struct StepFunction {
    /// Ascending and distinct. A value up to the `i`-th, and above the one before it, lies in
    /// interval `i`.
    breakpoints: Vec<f32>,
    /// The anomaly score in each interval; one more than breakpoints.
    scores: Vec<f64>,
    buckets: Buckets,
}

impl StepFunction {
    /// `None` for trees whose thresholds do not ascend from left to right, which are none that grow
    /// from data.
    pub(super) fn new(trees: &Trees, denominator: f64) -> Option<Self> {
        let leaves = Leaves::of(trees)?;
        let (breakpoints, buckets) = sorted(&leaves.upper);
        let mut step = Self {
            scores: vec![0.0; breakpoints.len() + 1],
            breakpoints,
            buckets,
        };
        // Tree by tree, so that each interval's sum is added in the order of the trees.
        let mut start = 0;
        for (&upper, &length) in leaves.upper.iter().zip(&leaves.length) {
            let end = match upper {
                f32::INFINITY => step.scores.len(),
                upper => step.interval(upper) + 1,
            };
            for sum in &mut step.scores[start..end] {
                *sum += length;
            }
            start = if upper == f32::INFINITY { 0 } else { end };
        }
        for score in &mut step.scores {
            *score = anomaly_score(*score, denominator);
        }
        Some(step)
    }

    /// The anomaly score of a value, which is not NaN.
    pub(super) fn score(&self, value: f32) -> f64 {
        self.scores[self.interval(value)]
    }

    /// How many breakpoints lie below a value.
    fn interval(&self, value: f32) -> usize {
        let range = self.buckets.range(value);
        let candidates = &self.breakpoints[range.clone()];
        let below = if candidates.len() <= LINEAR {
            let mut below = 0;
            while below < candidates.len() && candidates[below] < value {
                below += 1;
            }
            below
        } else {
            candidates.partition_point(|&breakpoint| breakpoint < value)
        };
        range.start + below
    }
}

/// The leaves of all trees, tree by tree, from left to right.
struct Leaves {
    /// The greatest value that reaches the leaf; infinite for the last of a tree.
    upper: Vec<f32>,
    length: Vec<f64>,
}

impl Leaves {
    fn of(trees: &Trees) -> Option<Self> {
        let lengths = PathLengths::new();
        let mut leaves = Self {
            upper: Vec::new(),
            length: Vec::new(),
        };
        // Thresholds on the path to the node that are to its right.
        let mut open = Vec::new();
        for tree in trees.iter() {
            let depths = depths(&tree);
            let mut last = None;
            for node in 0..tree.node_count() {
                match tree.split(node) {
                    // The left child comes next; -0 and 0 are one breakpoint.
                    Some((_, threshold)) => open.push(f32_not_above(threshold) + 0.0),
                    None => {
                        let upper = open.pop().unwrap_or(f32::INFINITY);
                        if last.is_some_and(|last| upper <= last) {
                            return None;
                        }
                        last = Some(upper);
                        let rows = tree.n_node_samples()[node];
                        leaves.upper.push(upper);
                        leaves.length.push(lengths.of(depths[node], rows));
                    }
                }
            }
        }
        Some(leaves)
    }
}

/// Sorts thresholds without their repetitions and infinities, and builds the table in front.
fn sorted(thresholds: &[f32]) -> (Vec<f32>, Buckets) {
    let finite = || thresholds.iter().copied().filter(|t| *t < f32::INFINITY);
    let mut buckets = Buckets {
        low: finite().fold(f32::INFINITY, f32::min),
        per_unit: 0.0,
        starts: vec![0; BUCKETS_PER_BREAKPOINT * thresholds.len() + 2],
    };
    let high = finite().fold(f32::NEG_INFINITY, f32::max);
    let last = buckets.starts.len() - 2;
    let per_unit = last as f32 / (high - buckets.low);
    if per_unit.is_finite() {
        buckets.per_unit = per_unit;
    }

    // Counting sort by bucket; then by value within buckets, most of which hold one or two.
    for threshold in finite() {
        let bucket = buckets.of(threshold);
        buckets.starts[bucket + 1] += 1;
    }
    for i in 1..buckets.starts.len() {
        buckets.starts[i] += buckets.starts[i - 1];
    }
    let mut next = buckets.starts.clone();
    let mut sorted = vec![0.0; next[last + 1] as usize];
    for threshold in finite() {
        let slot = &mut next[buckets.of(threshold)];
        sorted[*slot as usize] = threshold;
        *slot += 1;
    }
    let mut kept = 0;
    let mut start = 0;
    for bucket in 0..=last {
        let end = buckets.starts[bucket + 1] as usize;
        if end - start > 1 {
            sorted[start..end].sort_unstable_by(f32::total_cmp);
        }
        buckets.starts[bucket] = kept as u32;
        for i in start..end {
            if kept == 0 || sorted[kept - 1] != sorted[i] {
                sorted[kept] = sorted[i];
                kept += 1;
            }
        }
        start = end;
    }
    buckets.starts[last + 1] = kept as u32;
    sorted.truncate(kept);
    (sorted, buckets)
}

/// Equally wide stretches of the values from the first breakpoint to the last.
#[derive(Debug, Clone)]
struct Buckets {
    low: f32,
    per_unit: f32,
    /// The first breakpoint of each bucket, and the end of the last.
    starts: Vec<u32>,
}

impl Buckets {
    /// Never falls as the value rises, rounding included: so a breakpoint in an earlier bucket than
    /// a value's is below the value, and one in a later bucket above it.
    fn of(&self, value: f32) -> usize {
        // The cast takes what is below the range, or not a number, to 0.
        let bucket = ((value - self.low) * self.per_unit) as usize;
        bucket.min(self.starts.len() - 2)
    }

    /// The breakpoints in a value's bucket.
    fn range(&self, value: f32) -> std::ops::Range<usize> {
        let bucket = self.of(value);
        self.starts[bucket] as usize..self.starts[bucket + 1] as usize
    }
}
