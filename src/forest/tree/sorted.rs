//! Growth over one feature, from sorted values.
//!
//! Sorted, the rows of a node are a range: its extremes are the ends, and the split a binary search.
//! What is lost is the order of the rows in scikit-learn's partition, which shows only where
//! rounding errors of [`exact`](super::exact)'s impurity decide. Prefix sums of the targets tell
//! whether they might; such a tree, one in a hundred, is left to be grown exactly.

use super::{FEATURE_THRESHOLD, LEAF, Trees};
use crate::forest::random::SplitterRandom;

/// For more rows rounding errors grow until most trees would be in doubt.
pub(super) const MAX_ROWS: u32 = 1024;

/// The tree cannot be told from the sorted values.
pub(super) struct Doubt;

/// A node that waits to be grown.
struct Pending {
    start: u32,
    end: u32,
    depth: u32,
    /// The node whose right child this is, or [`LEAF`].
    right_of: u32,
}

/// Grows one tree at a time; its buffers serve for the next.
#[derive(Default)]
pub(super) struct Grower {
    values: Vec<f32>,
    /// Sums of the targets, and of their squares, before each row.
    sums: Vec<(f64, f64)>,
    stack: Vec<Pending>,
}

impl Grower {
    /// Rows are a value and a target, in ascending order of the values. May leave part of a tree
    /// where it returns [`Doubt`].
    pub(super) fn grow(
        &mut self,
        rows: impl Iterator<Item = (f32, f64)>,
        mut random: SplitterRandom,
        max_depth: u32,
        trees: &mut Trees,
    ) -> Result<(), Doubt> {
        self.values.clear();
        self.sums.clear();
        self.sums.push((0.0, 0.0));
        let mut sums = (0.0, 0.0);
        for (value, target) in rows {
            self.values.push(value);
            sums = (sums.0 + target, sums.1 + target * target);
            self.sums.push(sums);
        }

        let n_rows = self.values.len() as u32;
        let root = trees.node_count();
        let tolerance = tolerance(n_rows);
        self.stack.clear();
        if n_rows >= 2 && self.may_vanish(0, n_rows, tolerance) {
            return Err(Doubt);
        }
        self.stack.push(Pending {
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
            if self.may_not_decrease(start, middle, end, tolerance) {
                return Err(Doubt);
            }
            trees.push(0, threshold, end - start);
            let depth = node.depth + 1;
            for (start, end, right_of) in [(middle, end, id), (start, middle, LEAF)] {
                let may_split = depth < max_depth && end - start >= 2;
                if may_split && self.may_vanish(start, end, tolerance) {
                    return Err(Doubt);
                }
                self.stack.push(Pending {
                    start,
                    end,
                    depth,
                    right_of,
                });
            }
        }
        Ok(())
    }

    /// The threshold, and where the right side starts.
    fn split(
        &self,
        start: u32,
        end: u32,
        random: &mut SplitterRandom,
    ) -> Result<Option<(f64, u32)>, Doubt> {
        let values = &self.values[start as usize..end as usize];
        let (min, max) = (values[0], values[values.len() - 1]);
        // Draws the feature, of which there is but one.
        random.next();
        if max <= min + FEATURE_THRESHOLD {
            return Ok(None);
        }
        let threshold = random.threshold(min, max);
        // Which of two zeros of different sign came first cannot be seen any more.
        if threshold == 0.0 {
            return Err(Doubt);
        }
        let left = values.partition_point(|&value| f64::from(value) <= threshold);
        // Only infinities, which make the threshold NaN, leave a side empty.
        let splits = left > 0 && left < values.len();
        Ok(splits.then_some((threshold, start + left as u32)))
    }

    /// Whether the variance of the targets in a range is within the tolerance.
    fn may_vanish(&self, start: u32, end: u32, tolerance: f64) -> bool {
        let n = f64::from(end - start);
        let (sum, squares) = self.sums_of(start, end);
        squares * n - sum * sum <= tolerance * n * n
    }

    /// Whether a split decreases the variance by no more than the tolerance.
    fn may_not_decrease(&self, start: u32, middle: u32, end: u32, tolerance: f64) -> bool {
        let (n_left, n_right) = (f64::from(middle - start), f64::from(end - middle));
        let n = n_left + n_right;
        let (left, _) = self.sums_of(start, middle);
        let (right, _) = self.sums_of(middle, end);
        let apart = left * n_right - right * n_left;
        apart * apart <= tolerance * n_left * n_right * n * n
    }

    fn sums_of(&self, start: u32, end: u32) -> (f64, f64) {
        let (from, to) = (self.sums[start as usize], self.sums[end as usize]);
        (to.0 - from.0, to.1 - from.1)
    }
}

/// Below this, a variance or a decrease of it may be zero or negative to scikit-learn.
///
/// A sum of n targets below 1, added in any order, is off by at most n² ulps of 1; a variance is
/// made of two such sums divided by n, a decrease of three variances. Here all are counted with the
/// n of the whole tree, which leaves a wide margin; scikit-learn's own tolerance is one ulp.
fn tolerance(n_rows: u32) -> f64 {
    let n = f64::from(n_rows);
    (16.0 * n * n + 16.0) * f64::EPSILON
}
