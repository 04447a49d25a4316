//! Isolation trees in flat arrays, grown exactly as scikit-learn grows them.
//!
//! An isolation tree is scikit-learn's `ExtraTreeRegressor(max_features=1, splitter="random")`
//! fitted to targets that are drawn at random: each node draws a feature and a threshold between
//! that feature's extremes (Liu, Ting and Zhou, "Isolation Forest", 2008). Which trees come out
//! depends on the number and order of random draws, on the order of the rows within a node, and in
//! rare cases on the random targets themselves (see [`Impurity`]); so the feature loop, the
//! partition and the sums below follow scikit-learn step by step.

use serde::{Deserialize, Serialize};

use super::error::FitError;
use super::random::{SplitterRandom, sample_without_replacement};

/// What stands in a leaf's place of a feature.
pub(super) const LEAF: u32 = u32::MAX;

/// A feature whose values in a node differ by no more than this cannot split the node.
const FEATURE_THRESHOLD: f32 = 1e-7;

/// All trees of a forest, one behind the other, each in depth-first order: the left child of node
/// `i` is `i + 1`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Trees {
    /// Where each tree ends.
    ends: Vec<u32>,
    feature: Vec<u32>,
    threshold: Vec<f64>,
    /// Counted from the root of the node's own tree.
    right: Vec<u32>,
    n_node_samples: Vec<u32>,
}

/// One tree: parallel arrays, a node being an index into each. Node 0 is the root.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    feature: &'a [u32],
    threshold: &'a [f64],
    right: &'a [u32],
    n_node_samples: &'a [u32],
}

impl<'a> Tree<'a> {
    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.feature.len()
    }

    /// The feature that splits a node and the threshold up to which a value goes left; `None` for
    /// a leaf.
    pub fn split(&self, node: usize) -> Option<(usize, f64)> {
        let feature = self.feature[node];
        (feature != LEAF).then(|| (feature as usize, self.threshold[node]))
    }

    /// The children of a node, left and right; `None` for a leaf.
    pub fn children(&self, node: usize) -> Option<(usize, usize)> {
        (self.feature[node] != LEAF).then(|| (node + 1, self.right[node] as usize))
    }

    /// Whether the nodes stand in depth-first order, each reached once.
    fn is_sound(&self, n_features: usize) -> bool {
        // Where the right children of the nodes above must stand.
        let mut rights = Vec::new();
        (0..self.node_count()).all(|node| match (self.split(node), self.children(node)) {
            (Some((feature, threshold)), Some((_, right))) => {
                rights.push(right);
                feature < n_features && threshold.is_finite()
            }
            _ => match rights.pop() {
                Some(right) => right == node + 1 && right < self.node_count(),
                None => node + 1 == self.node_count(),
            },
        })
    }

    /// How many of the tree's rows reached each node.
    pub fn n_node_samples(&self) -> &'a [u32] {
        self.n_node_samples
    }
}

impl Trees {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = Tree<'_>> {
        (0..self.len()).map(|i| {
            let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
            let nodes = start..self.ends[i] as usize;
            Tree {
                feature: &self.feature[nodes.clone()],
                threshold: &self.threshold[nodes.clone()],
                right: &self.right[nodes.clone()],
                n_node_samples: &self.n_node_samples[nodes],
            }
        })
    }

    /// Whether every index leads where it may, so that trees read from outside cannot cause a
    /// panic or an endless walk.
    pub(super) fn is_sound(&self, n_features: usize) -> bool {
        let nodes = self.feature.len();
        let same_lengths = [
            self.threshold.len(),
            self.right.len(),
            self.n_node_samples.len(),
        ];
        let mut start = 0;
        let ends_ascend = self.ends.iter().all(|&end| {
            let ascends = end > start;
            start = end;
            ascends
        });
        same_lengths.iter().all(|&len| len == nodes)
            && ends_ascend
            && start as usize == nodes
            && self.iter().all(|tree| tree.is_sound(n_features))
    }

    fn push(&mut self, feature: u32, threshold: f64, n_node_samples: u32) {
        self.feature.push(feature);
        self.threshold.push(threshold);
        self.right.push(0);
        self.n_node_samples.push(n_node_samples);
    }
}

/// What the trees of one forest have in common.
pub(super) struct Growth<'a, V> {
    /// The value of a row and a feature.
    pub(super) value: V,
    /// One random target per row.
    pub(super) targets: &'a [f64],
    pub(super) n_rows: u32,
    pub(super) n_features: u32,
    pub(super) max_samples: u32,
}

impl<V: Fn(u32, u32) -> f32> Growth<'_, V> {
    /// Grows one tree for each seed.
    pub(super) fn grow(&self, seeds: &[u32]) -> Result<Trees, FitError> {
        let mut trees = Trees::default();
        let mut grower = Grower::default();
        for &seed in seeds {
            self.draw_rows(seed, &mut grower);
            let root = trees.feature.len();
            grower.grow(seed, self.n_features, self.max_depth(), root, &mut trees);
            let end = trees.feature.len();
            trees
                .ends
                .push(u32::try_from(end).map_err(|_| FitError::TooLarge("the number of nodes"))?);
        }
        Ok(trees)
    }

    /// `ceil(log2(max(max_samples, 2)))`.
    fn max_depth(&self) -> u32 {
        self.max_samples.max(2).next_power_of_two().trailing_zeros()
    }

    /// Copies the rows that the tree draws, feature by feature, so that growth touches nothing
    /// else.
    fn draw_rows(&self, seed: u32, grower: &mut Grower) {
        let rows = sample_without_replacement(seed, self.n_rows, self.max_samples);
        grower.values.clear();
        for feature in 0..self.n_features {
            let column = rows.iter().map(|&row| (self.value)(row, feature));
            grower.values.extend(column);
        }
        grower.targets.clear();
        let targets = rows.iter().map(|&row| self.targets[row as usize]);
        grower.targets.extend(targets);
    }
}

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
struct Grower {
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
    fn grow(&mut self, seed: u32, n_features: u32, max_depth: u32, root: usize, trees: &mut Trees) {
        let mut random = SplitterRandom::new(seed);
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
            let id = trees.feature.len();
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

            let (low, high) = (f64::from(min), f64::from(max));
            let draw = f64::from(random.next());
            let mut threshold = (high - low) * draw / f64::from(SplitterRandom::MAX) + low;
            if threshold == high {
                threshold = low;
            }
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
/// a tolerance, or where a split would make it greater. Among random targets that happens about
/// once in a thousand forests, when two neighbours have nearly equal targets; and then what decides
/// is the rounding error of these very sums. So they are added in scikit-learn's order.
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
