//! Growth over one feature, from sorted values.
//!
//! When rows are sorted, a node is a range of rows, its extremes are the ends of the range, and a
//! split is a binary search. The order of the rows in scikit-learn's partition is lost. It matters
//! only where rounding errors of the impurity in [`exact`](super::exact) decide. Prefix sums of the
//! targets show whether they might; such a tree, one in a hundred, is grown by `exact` instead.

use super::exact::FEATURE_THRESHOLD;
use super::trees::{LEAF, Trees};
use crate::forest::random::SplitterRandom;

/// With more rows, rounding errors grow until most trees would need exact growth.
pub(super) const MAX_ROWS: u32 = 1024;

/// The sorted values do not determine the tree; grow it with `exact`.
pub(super) struct NeedsExact;

/// A node still to be grown.
struct PendingNode {
    start: u32,
    end: u32,
    depth: u32,
    /// The node whose right child this is, or [`LEAF`].
    right_of: u32,
}

/// Grows one tree at a time and reuses its buffers.
#[derive(Default)]
pub(super) struct Grower {
    values: Vec<f32>,
    /// Sums of the targets, and of their squares, over the rows before each row.
    prefix_sums: Vec<(f64, f64)>,
    stack: Vec<PendingNode>,
}

impl Grower {
    /// Appends the nodes of a tree. `rows` yields value and target, in ascending order of values.
    ///
    /// # Errors
    ///
    /// [`NeedsExact`] if rounding errors might decide; `trees` may then end with a partial tree.
    pub(super) fn grow(
        &mut self,
        rows: impl Iterator<Item = (f32, f64)>,
        mut random: SplitterRandom,
        max_depth: u32,
        trees: &mut Trees,
    ) -> Result<(), NeedsExact> {
        self.values.clear();
        self.prefix_sums.clear();
        self.prefix_sums.push((0.0, 0.0));
        let mut sums = (0.0, 0.0);
        for (value, target) in rows {
            self.values.push(value);
            sums = (sums.0 + target, sums.1 + target * target);
            self.prefix_sums.push(sums);
        }

        let n_rows = self.values.len() as u32;
        let root = trees.node_count();
        let tolerance = tolerance(n_rows);
        self.stack.clear();
        if n_rows >= 2 && self.variance_may_be_zero(0, n_rows, tolerance) {
            return Err(NeedsExact);
        }
        self.stack.push(PendingNode {
            start: 0,
            end: n_rows,
            depth: 0,
            right_of: LEAF,
        });
        while let Some(node) = self.stack.pop() {
            let (start, end) = (node.start, node.end);
            let id = (trees.node_count() - root) as u32;
            if node.right_of != LEAF {
                trees.right[root + node.right_of as usize] = id;
            }
            let split = if node.depth < max_depth && end - start >= 2 {
                self.split(start, end, &mut random)?
            } else {
                None
            };
            let Some((threshold, middle)) = split else {
                trees.push(LEAF, 0.0, end - start);
                continue;
            };
            if self.split_may_not_improve(start, middle, end, tolerance) {
                return Err(NeedsExact);
            }
            trees.push(0, threshold, end - start);
            let depth = node.depth + 1;
            for (start, end, right_of) in [(middle, end, id), (start, middle, LEAF)] {
                let may_split = depth < max_depth && end - start >= 2;
                if may_split && self.variance_may_be_zero(start, end, tolerance) {
                    return Err(NeedsExact);
                }
                self.stack.push(PendingNode {
                    start,
                    end,
                    depth,
                    right_of,
                });
            }
        }
        Ok(())
    }

    /// Draws a threshold; returns it with the start of the right side, or `None` for a leaf.
    fn split(
        &self,
        start: u32,
        end: u32,
        random: &mut SplitterRandom,
    ) -> Result<Option<(f64, u32)>, NeedsExact> {
        let values = &self.values[start as usize..end as usize];
        let (min, max) = (values[0], values[values.len() - 1]);
        // scikit-learn draws the feature, even if there is only one.
        random.next();
        if max <= min + FEATURE_THRESHOLD {
            return Ok(None);
        }
        let threshold = random.threshold(min, max);
        // The sign of a zero threshold depends on which of two zeros of different sign came first,
        // and sorting has lost that order.
        if threshold == 0.0 {
            return Err(NeedsExact);
        }
        let left = values.partition_point(|&value| f64::from(value) <= threshold);
        // A side is empty only if an infinity makes the threshold NaN.
        let splits = left > 0 && left < values.len();
        Ok(splits.then_some((threshold, start + left as u32)))
    }

    /// Whether the variance of the targets in a range is within the tolerance of zero.
    fn variance_may_be_zero(&self, start: u32, end: u32, tolerance: f64) -> bool {
        let n = f64::from(end - start);
        let (sum, squares) = self.range_sums(start, end);
        squares * n - sum * sum <= tolerance * n * n
    }

    /// Whether a split decreases the variance by at most the tolerance.
    fn split_may_not_improve(&self, start: u32, middle: u32, end: u32, tolerance: f64) -> bool {
        let (n_left, n_right) = (f64::from(middle - start), f64::from(end - middle));
        let n = n_left + n_right;
        let (left, _) = self.range_sums(start, middle);
        let (right, _) = self.range_sums(middle, end);
        let difference = left * n_right - right * n_left;
        difference * difference <= tolerance * n_left * n_right * n * n
    }

    fn range_sums(&self, start: u32, end: u32) -> (f64, f64) {
        let (from, to) = (
            self.prefix_sums[start as usize],
            self.prefix_sums[end as usize],
        );
        (to.0 - from.0, to.1 - from.1)
    }
}

/// A variance, or a decrease of the variance, up to this may be zero or negative in scikit-learn.
///
/// A sum of n targets below 1, added in any order, has an error of at most n² ulps of 1. A variance
/// consists of two such sums divided by n, and a decrease of three variances. Using the n of the
/// whole tree everywhere leaves a wide margin; scikit-learn's own tolerance is one ulp.
fn tolerance(n_rows: u32) -> f64 {
    let n = f64::from(n_rows);
    (16.0 * n * n + 16.0) * f64::EPSILON
}
