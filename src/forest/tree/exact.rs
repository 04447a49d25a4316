//! Growth as in scikit-learn, draw by draw and sum by sum.
//!
//! Which tree comes out depends on the number and order of random draws, on the order of the rows
//! within a node, and in rare cases on the random targets themselves (see [`Impurity`]); so the
//! feature loop, the partition and the sums below follow scikit-learn step by step.

use super::{FEATURE_THRESHOLD, LEAF, Trees};
use crate::forest::random::SplitterRandom;

/// A node that waits to be grown: rows `start..end` of the order, at a depth.
struct Pending {
    start: usize,
    end: usize,
    depth: u32,
    /// The node whose right child this is.
    right_of: Option<usize>,
    impurity: f64,
    /// Features known from the ancestors to be constant.
    n_constant: usize,
}

/// Grows one tree at a time; its buffers serve for the next.
#[derive(Default)]
pub(super) struct Grower {
    /// The tree's rows, feature by feature.
    values: Vec<f32>,
    targets: Vec<f64>,
    /// The rows, ordered so that each node's are neighbours.
    order: Vec<u32>,
    features: Vec<u32>,
    constant: Vec<u32>,
    stack: Vec<Pending>,
}

/// A split that leaves rows on both sides.
struct Split {
    feature: u32,
    threshold: f64,
    /// Where the right side starts.
    middle: usize,
}

impl Grower {
    /// `values` come feature by feature.
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
        self.stack.push(Pending {
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
            let may_split = node.depth < max_depth && rows >= 2 && node.impurity > Impurity::NONE;
            if may_split {
                let sums = Impurity::sum(&self.order[node.start..node.end], &self.targets);
                let (split, n_constant) = self.split(&node, &mut random);
                if let Some(split) = split {
                    let rows = &self.order[node.start..node.end];
                    let sides = sums.sides(rows, split.middle - node.start, &self.targets);
                    if sides.improvement(node.impurity, n_rows) + f64::EPSILON >= 0.0 {
                        trees.push(split.feature, split.threshold, rows.len() as u32);
                        self.stack.push(Pending {
                            start: split.middle,
                            end: node.end,
                            depth: node.depth + 1,
                            right_of: Some(id),
                            impurity: sides.right,
                            n_constant,
                        });
                        self.stack.push(Pending {
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

    /// Draws a feature that is not constant in the node, and a threshold; partitions the rows.
    ///
    /// The features are kept as scikit-learn's splitter keeps them, since its draws depend on it:
    /// those drawn before and known to be constant, then those known to be constant from the
    /// ancestors, then those found constant here, then the rest; and drawn ones that are not
    /// constant at the end. Returns the split, and the number of features constant in the node.
    fn split(&mut self, node: &Pending, random: &mut SplitterRandom) -> (Option<Split>, usize) {
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
            let (min, max) = self.extremes(feature, node);
            if max <= min + FEATURE_THRESHOLD {
                self.features.swap(pick, known + found);
                found += 1;
                continue;
            }
            rest_end -= 1;
            self.features.swap(rest_end, pick);

            let threshold = random.threshold(min, max);
            let middle = self.partition(feature, threshold, node);
            // Only infinities, which make the threshold NaN, leave a side empty.
            if middle > node.start && middle < node.end {
                split = Some(Split {
                    feature,
                    threshold,
                    middle,
                });
            }
            break;
        }
        // What the ancestors know to be constant stays in place for the sibling; what was found
        // here is handed down.
        self.features[..known].copy_from_slice(&self.constant[..known]);
        self.constant[known..known + found].copy_from_slice(&self.features[known..known + found]);
        (split, known + found)
    }

    fn column(&self, feature: u32) -> &[f32] {
        let rows = self.targets.len();
        &self.values[feature as usize * rows..][..rows]
    }

    fn extremes(&self, feature: u32, node: &Pending) -> (f32, f32) {
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

    /// Moves the rows up to the threshold to the front; returns where the others start.
    fn partition(&mut self, feature: u32, threshold: f64, node: &Pending) -> usize {
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

/// The variance of the random targets in a node, to the rounding error.
///
/// It plays no part in where a tree splits, but scikit-learn ends a branch where it is zero up to
/// a tolerance, or where a split would make it greater. Among random targets that happens when
/// neighbours have nearly equal ones (in a few of 100,000 forests of one feature, and more often
/// with more features); and then what decides is the rounding error of these very sums. So they are
/// added in scikit-learn's order.
struct Impurity {
    n: f64,
    sum: f64,
    squares: f64,
}

/// The variances on both sides of a split.
struct Sides {
    n: f64,
    n_left: f64,
    n_right: f64,
    left: f64,
    right: f64,
}

impl Impurity {
    /// Up to here a variance counts as zero.
    const NONE: f64 = f64::EPSILON;

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

    /// `rows` are partitioned already, unlike when they were summed.
    fn sides(&self, rows: &[u32], middle: usize, targets: &[f64]) -> Sides {
        let target = |&row: &u32| targets[row as usize];
        let (left, right) = rows.split_at(middle);
        // The shorter side is added up, or taken away from the whole from its end.
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
    fn improvement(&self, impurity: f64, n_rows: usize) -> f64 {
        self.n / n_rows as f64
            * (impurity - self.n_right / self.n * self.right - self.n_left / self.n * self.left)
    }
}
