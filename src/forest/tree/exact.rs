//! Growth that follows scikit-learn draw by draw and sum by sum.
//!
//! The tree depends on the number and order of the random draws, on the order of the rows within a
//! node, and in rare cases on the random targets (see [`Impurity`]). The feature loop, the
//! partition and the sums below therefore follow scikit-learn step by step.

use super::trees::{LEAF, Trees};
use crate::forest::random::SplitterRandom;

/// scikit-learn's `FEATURE_THRESHOLD`: a feature whose values in a node differ by no more than this
/// counts as constant and cannot split the node.
pub(super) const FEATURE_THRESHOLD: f32 = 1e-7;

/// A node still to be grown: the rows `start..end` of [`Grower::order`].
struct PendingNode {
    start: usize,
    end: usize,
    depth: u32,
    /// The node whose right child this is.
    right_of: Option<usize>,
    impurity: f64,
    /// Number of features that are constant in an ancestor.
    n_constant: usize,
}

/// Grows one tree at a time and reuses its buffers.
#[derive(Default)]
pub(super) struct Grower {
    /// Values of the tree's rows, feature by feature.
    values: Vec<f32>,
    targets: Vec<f64>,
    /// The rows, ordered so that those of a node are contiguous.
    order: Vec<u32>,
    features: Vec<u32>,
    constant: Vec<u32>,
    stack: Vec<PendingNode>,
}

/// A split with rows on both sides.
struct Split {
    feature: u32,
    threshold: f64,
    /// Start of the right side.
    middle: usize,
}

impl Grower {
    /// Appends the nodes of a tree. `values` yields the rows' values feature by feature, `targets`
    /// one target per row.
    pub(super) fn grow(
        &mut self,
        values: impl Iterator<Item = f32>,
        targets: impl Iterator<Item = f64>,
        n_features: u32,
        mut random: SplitterRandom,
        max_depth: u32,
        trees: &mut Trees,
    ) {
        self.values.clear();
        self.values.extend(values);
        self.targets.clear();
        self.targets.extend(targets);
        let root = trees.node_count();
        let n_rows = self.targets.len();
        self.order.clear();
        self.order.extend((0..n_rows).map(|row| row as u32));
        self.features.clear();
        self.features.extend(0..n_features);
        self.constant.clear();
        self.constant.resize(n_features as usize, 0);
        let impurity = Impurity::sum(&self.order, &self.targets).root();
        self.stack.push(PendingNode {
            start: 0,
            end: n_rows,
            depth: 0,
            right_of: None,
            impurity,
            n_constant: 0,
        });

        while let Some(node) = self.stack.pop() {
            let id = trees.node_count();
            if let Some(parent) = node.right_of {
                trees.right[parent] = (id - root) as u32;
            }
            let rows = (node.end - node.start) as u32;
            let may_split =
                node.depth < max_depth && rows >= 2 && node.impurity > Impurity::EPSILON;
            if may_split {
                let sums = Impurity::sum(&self.order[node.start..node.end], &self.targets);
                let (split, n_constant) = self.split(&node, &mut random);
                if let Some(split) = split {
                    let rows = &self.order[node.start..node.end];
                    let sides = sums.sides(rows, split.middle - node.start, &self.targets);
                    if sides.improvement(node.impurity, n_rows) + f64::EPSILON >= 0.0 {
                        trees.push(split.feature, split.threshold, rows.len() as u32);
                        self.stack.push(PendingNode {
                            start: split.middle,
                            end: node.end,
                            depth: node.depth + 1,
                            right_of: Some(id),
                            impurity: sides.right,
                            n_constant,
                        });
                        self.stack.push(PendingNode {
                            start: node.start,
                            end: split.middle,
                            depth: node.depth + 1,
                            right_of: None,
                            impurity: sides.left,
                            n_constant,
                        });
                        continue;
                    }
                }
            }
            trees.push(LEAF, 0.0, rows);
        }
    }

    /// Draws a feature that is not constant in the node and a threshold, and partitions the rows.
    /// Returns the split and the number of features that are constant in the node.
    ///
    /// Features are ordered as in scikit-learn's splitter, because its draws depend on the order:
    /// known constants already drawn, the other known constants, constants found in this node, the
    /// rest, and last the drawn features that are not constant.
    fn split(&mut self, node: &PendingNode, random: &mut SplitterRandom) -> (Option<Split>, usize) {
        let known = node.n_constant;
        let mut rest_end = self.features.len();
        let mut drawn = 0;
        let mut found = 0;
        let mut split = None;
        while rest_end > known + found {
            let choices = rest_end - found - drawn;
            let mut pick = drawn + random.next() as usize % choices;
            if pick < known {
                self.features.swap(drawn, pick);
                drawn += 1;
                continue;
            }
            pick += found;
            let feature = self.features[pick];
            let (min, max) = self.min_max(feature, node);
            if max <= min + FEATURE_THRESHOLD {
                self.features.swap(pick, known + found);
                found += 1;
                continue;
            }
            rest_end -= 1;
            self.features.swap(rest_end, pick);

            let threshold = random.threshold(min, max);
            let middle = self.partition(feature, threshold, node);
            // A side is empty only if an infinity makes the threshold NaN.
            if middle > node.start && middle < node.end {
                split = Some(Split {
                    feature,
                    threshold,
                    middle,
                });
            }
            break;
        }
        // Restore the ancestors' constants for the sibling, and pass those found here on to the
        // children.
        self.features[..known].copy_from_slice(&self.constant[..known]);
        self.constant[known..known + found].copy_from_slice(&self.features[known..known + found]);
        (split, known + found)
    }

    fn column(&self, feature: u32) -> &[f32] {
        let rows = self.targets.len();
        &self.values[feature as usize * rows..][..rows]
    }

    fn min_max(&self, feature: u32, node: &PendingNode) -> (f32, f32) {
        let column = self.column(feature);
        let rows = &self.order[node.start..node.end];
        let first = column[rows[0] as usize];
        rows.iter().fold((first, first), |(min, max), &row| {
            let value = column[row as usize];
            (
                if value < min { value } else { min },
                if value > max { value } else { max },
            )
        })
    }

    /// Moves rows up to the threshold to the front; returns the start of the others.
    fn partition(&mut self, feature: u32, threshold: f64, node: &PendingNode) -> usize {
        let rows = self.targets.len();
        let column = &self.values[feature as usize * rows..][..rows];
        let (mut low, mut high) = (node.start, node.end);
        while low < high {
            if f64::from(column[self.order[low] as usize]) <= threshold {
                low += 1;
            } else {
                high -= 1;
                self.order.swap(low, high);
            }
        }
        high
    }
}

/// Sums for the variance of the random targets in a node, with scikit-learn's rounding errors.
///
/// The variance does not affect where a tree splits, but scikit-learn ends a branch if the variance
/// is zero within a tolerance, or if a split would increase it. With random targets this happens if
/// neighbours have nearly equal targets (in a few of 100,000 forests of one feature, more often
/// with more features), and then the rounding errors of these sums decide. The sums are therefore
/// added in scikit-learn's order.
struct Impurity {
    n: f64,
    sum: f64,
    squares: f64,
}

/// Row counts and variances of a node and the two sides of its split.
struct Sides {
    n: f64,
    n_left: f64,
    n_right: f64,
    left: f64,
    right: f64,
}

impl Impurity {
    /// scikit-learn's tolerance: a variance up to this counts as zero.
    const EPSILON: f64 = f64::EPSILON;

    fn sum(rows: &[u32], targets: &[f64]) -> Self {
        let mut sum = 0.0;
        let mut squares = 0.0;
        for &row in rows {
            let target = targets[row as usize];
            sum += target;
            squares += target * target;
        }
        Self {
            n: rows.len() as f64,
            sum,
            squares,
        }
    }

    fn variance(n: f64, sum: f64, squares: f64) -> f64 {
        let mean = sum / n;
        squares / n - mean * mean
    }

    fn root(&self) -> f64 {
        Self::variance(self.n, self.sum, self.squares)
    }

    /// Variances of the two sides. Unlike in [`sum`](Self::sum), `rows` are already partitioned;
    /// the left side ends at `middle`.
    fn sides(&self, rows: &[u32], middle: usize, targets: &[f64]) -> Sides {
        let target = |&row: &u32| targets[row as usize];
        let (left, right) = rows.split_at(middle);
        // As in scikit-learn: sum the left side if it is shorter; otherwise subtract the right side
        // from the total, starting at its end.
        let sum_left = if left.len() <= right.len() {
            left.iter().map(target).fold(0.0, |sum, t| sum + t)
        } else {
            right
                .iter()
                .rev()
                .map(target)
                .fold(self.sum, |sum, t| sum - t)
        };
        let squares_left = left.iter().map(target).fold(0.0, |sum, t| sum + t * t);
        let (n_left, n_right) = (left.len() as f64, right.len() as f64);
        Sides {
            n: self.n,
            n_left,
            n_right,
            left: Self::variance(n_left, sum_left, squares_left),
            right: Self::variance(n_right, self.sum - sum_left, self.squares - squares_left),
        }
    }
}

impl Sides {
    /// scikit-learn's weighted decrease of the impurity.
    fn improvement(&self, impurity: f64, n_rows: usize) -> f64 {
        self.n / n_rows as f64
            * (impurity - self.n_right / self.n * self.right - self.n_left / self.n * self.left)
    }
}
