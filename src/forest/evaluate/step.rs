//! A forest over one feature as the step function that it is.

use std::ops::Range;

use super::{PathLengths, anomaly_score, f32_not_above};
use crate::forest::tree::Trees;

/// Breakpoints for each bucket, on average: with more buckets the table would take more of the
/// first-level cache than it saves comparisons.
const BREAKPOINTS_PER_BUCKET: usize = 3;

/// As many breakpoints are compared at once, without a branch; buckets that hold more are searched.
/// Few do, unless most values crowd in a small part of the range.
const PROBES: usize = 16;

/// Constant between breakpoints. A table of equally wide buckets in front of them leads near the
/// right one, so that a look-up takes a few nanoseconds whatever their number.
#[derive(Debug, Clone)]
pub(super) struct StepFunction {
    /// Ascending and distinct, then [`PROBES`] times infinity. A value up to the `i`-th, and above
    /// the one before it, lies in interval `i`.
    breakpoints: Vec<f32>,
    /// The anomaly score in each interval.
    scores: Vec<f64>,
    buckets: Buckets,
}

impl StepFunction {
    /// `None` for trees whose thresholds do not ascend from left to right, which are none that grow
    /// from data.
    pub(super) fn new(trees: &Trees, denominator: f64) -> Option<Self> {
        let leaves = Leaves::of(trees)?;
        let (breakpoints, buckets, intervals) = sorted(&leaves);
        let mut scores = vec![0.0; breakpoints.len() - PROBES + 1];
        // Tree by tree, so that each interval's sum is added in the order of the trees.
        let mut start = 0;
        for (interval, &length) in intervals.into_iter().zip(&leaves.length) {
            let end = (interval as usize + 1).min(scores.len());
            for sum in &mut scores[start..end] {
                *sum += length;
            }
            start = if end == scores.len() { 0 } else { end };
        }
        for score in &mut scores {
            *score = anomaly_score(*score, denominator);
        }
        Some(Self {
            breakpoints,
            scores,
            buckets,
        })
    }

    /// The intervals from below to above: the greatest value, and the anomaly score.
    pub(super) fn intervals(&self) -> impl Iterator<Item = (f32, f64)> {
        let upper = self.breakpoints.iter().copied();
        upper.zip(self.scores.iter().copied())
    }

    /// The anomaly score of a value, which is not NaN.
    pub(super) fn score(&self, value: f32) -> f64 {
        let bucket = self.buckets.range(value);
        let below = if bucket.len() <= PROBES {
            // Breakpoints of later buckets are not below the value and count for nothing.
            let probes = &self.breakpoints[bucket.start..bucket.start + PROBES];
            let below = probes.iter().map(|&b| u32::from(b < value));
            below.sum::<u32>() as usize
        } else {
            self.breakpoints[bucket.clone()].partition_point(|&b| b < value)
        };
        self.scores[bucket.start + below]
    }
}

/// The leaves of all trees, tree by tree, from left to right.
struct Leaves {
    /// The greatest value that reaches the leaf; infinite for the last of a tree.
    upper: Vec<f32>,
    length: Vec<f64>,
    /// The least and greatest of the finite ones, the other way round where there are none.
    range: (f32, f32),
}

impl Leaves {
    fn of(trees: &Trees) -> Option<Self> {
        let lengths = PathLengths::new();
        let leaf_count = trees.iter().map(|tree| tree.node_count() / 2 + 1).sum();
        let mut upper_ends = Vec::with_capacity(leaf_count);
        let mut length = Vec::with_capacity(leaf_count);
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        // Thresholds above the node that are to its right, and how deep they stand.
        let mut open: Vec<(f32, u32)> = Vec::new();
        for tree in trees.iter() {
            let mut depth = 0;
            let mut last = None;
            for (node, &rows) in tree.n_node_samples().iter().enumerate() {
                if let Some((_, threshold)) = tree.split(node) {
                    // The left child comes next. -0 and 0 are one breakpoint.
                    open.push((f32_not_above(threshold) + 0.0, depth));
                    depth += 1;
                    continue;
                }
                length.push(lengths.of(depth, rows));
                let Some((upper, depth_above)) = open.pop() else {
                    upper_ends.push(f32::INFINITY);
                    continue;
                };
                if last.is_some_and(|last| upper <= last) || upper == f32::INFINITY {
                    return None;
                }
                low = low.min(upper);
                high = high.max(upper);
                last = Some(upper);
                upper_ends.push(upper);
                depth = depth_above + 1;
            }
        }
        Some(Self {
            upper: upper_ends,
            length,
            range: (low, high),
        })
    }
}

/// The breakpoints, the table in front of them, and for each leaf the interval it ends in
/// (beyond all for the last leaf of a tree).
fn sorted(leaves: &Leaves) -> (Vec<f32>, Buckets, Vec<u32>) {
    let finite = || {
        let upper = leaves.upper.iter().copied().enumerate();
        upper.filter(|(_, upper)| *upper < f32::INFINITY)
    };
    let (mut buckets, last) = Buckets::new(leaves.range, leaves.upper.len());

    // Counting sort by bucket, then by value within buckets.
    for (_, upper) in finite() {
        let bucket = buckets.of(upper);
        buckets.starts[bucket] += 1;
    }
    for i in 0..=last {
        buckets.starts[i + 1] += buckets.starts[i];
    }
    let mut sorted = vec![(0.0f32, 0u32); buckets.starts[last + 1] as usize];
    for (leaf, upper) in finite() {
        // From the end of the bucket down to its start.
        let bucket = buckets.of(upper);
        let slot = &mut buckets.starts[bucket];
        *slot -= 1;
        sorted[*slot as usize] = (upper, leaf as u32);
    }
    let mut intervals = vec![u32::MAX - 1; leaves.upper.len()];
    let mut breakpoints: Vec<f32> = Vec::with_capacity(sorted.len() + PROBES);
    let mut start = 0;
    for bucket in 0..=last {
        let end = buckets.starts[bucket + 1] as usize;
        buckets.starts[bucket] = breakpoints.len() as u32;
        let members = &mut sorted[start..end];
        if members.len() > 1 {
            members.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        }
        for &(upper, leaf) in &*members {
            if breakpoints.last() != Some(&upper) {
                breakpoints.push(upper);
            }
            intervals[leaf as usize] = breakpoints.len() as u32 - 1;
        }
        start = end;
    }
    buckets.starts[last + 1] = breakpoints.len() as u32;
    breakpoints.extend([f32::INFINITY; PROBES]);
    (breakpoints, buckets, intervals)
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
    /// Empty buckets, and the index of the last.
    fn new((low, high): (f32, f32), breakpoints: usize) -> (Self, usize) {
        let last = breakpoints / BREAKPOINTS_PER_BUCKET;
        let per_unit = last as f32 / (high - low);
        let buckets = Self {
            low,
            per_unit: if per_unit.is_finite() { per_unit } else { 0.0 },
            starts: vec![0; last + 2],
        };
        (buckets, last)
    }

    /// Never falls as the value rises, rounding included: so a breakpoint in an earlier bucket than
    /// a value's is below the value, and one in a later bucket above it.
    fn of(&self, value: f32) -> usize {
        // The cast takes what is below the range, or not a number, to 0.
        let bucket = ((value - self.low) * self.per_unit) as usize;
        bucket.min(self.starts.len() - 2)
    }

    /// The breakpoints in a value's bucket.
    fn range(&self, value: f32) -> Range<usize> {
        let bucket = self.of(value);
        self.starts[bucket] as usize..self.starts[bucket + 1] as usize
    }
}
