//! Isolation trees in flat arrays, grown exactly as scikit-learn grows them.
//!
//! An isolation tree is scikit-learn's `ExtraTreeRegressor(max_features=1, splitter="random")`
//! fitted to targets that are drawn at random: each node draws a feature and a threshold between
//! that feature's extremes (Liu, Ting and Zhou, "Isolation Forest", 2008).
//!
//! * [`exact`] follows scikit-learn step by step, for any number of features.
//! * [`sorted`] grows the same trees over one feature from sorted values, several times as fast. In
//!   the rare case where rounding errors would decide, it stands back for [`exact`].
//! * [`preorder`] is what is stored of them.

mod exact;
mod preorder;
mod sorted;

use rayon::prelude::*;
use serde::{Deserialize, Serialize, Serializer};

use super::error::FitError;
use super::random::{RowSampler, tree_streams};

/// What stands in a leaf's place of a feature.
const LEAF: u32 = u32::MAX;

/// A feature whose values in a node differ by no more than this cannot split the node.
const FEATURE_THRESHOLD: f32 = 1e-7;

/// All trees of a forest, one behind the other, each in depth-first order: the left child of node
/// `i` is `i + 1`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "preorder::Preorder")]
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
    /// a leaf, or where there is no such node.
    pub fn split(&self, node: usize) -> Option<(usize, f64)> {
        let feature = *self.feature.get(node)?;
        (feature != LEAF).then(|| (feature as usize, self.threshold[node]))
    }

    /// The children of a node, left and right; `None` for a leaf, or where there is no such node.
    pub fn children(&self, node: usize) -> Option<(usize, usize)> {
        let feature = *self.feature.get(node)?;
        (feature != LEAF).then(|| (node + 1, self.right[node] as usize))
    }

    /// How many of the tree's rows reached each node.
    pub fn n_node_samples(&self) -> &'a [u32] {
        self.n_node_samples
    }
}

impl Serialize for Trees {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        preorder::Preorder::from(self).serialize(serializer)
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

    /// Whether all trees are of so many rows, and split by features that there are at thresholds
    /// that are finite, so that trees read from outside cannot cause a panic or an endless walk.
    /// That their nodes hang together is seen to when they are read.
    pub(super) fn is_sound(&self, n_features: u32, max_samples: u32) -> bool {
        let splits = self.feature.iter().zip(&self.threshold);
        self.iter()
            .all(|tree| tree.n_node_samples[0] == max_samples)
            && splits
                .filter(|&(&feature, _)| feature != LEAF)
                .all(|(&feature, threshold)| feature < n_features && threshold.is_finite())
    }

    fn with_capacity(nodes: usize) -> Self {
        Self {
            ends: Vec::new(),
            feature: Vec::with_capacity(nodes),
            threshold: Vec::with_capacity(nodes),
            right: Vec::with_capacity(nodes),
            n_node_samples: Vec::with_capacity(nodes),
        }
    }

    fn push(&mut self, feature: u32, threshold: f64, n_node_samples: u32) {
        self.feature.push(feature);
        self.threshold.push(threshold);
        self.right.push(0);
        self.n_node_samples.push(n_node_samples);
    }

    fn node_count(&self) -> usize {
        self.feature.len()
    }

    /// Takes back the nodes from `node_count` on.
    fn truncate(&mut self, node_count: usize) {
        self.feature.truncate(node_count);
        self.threshold.truncate(node_count);
        self.right.truncate(node_count);
        self.n_node_samples.truncate(node_count);
    }

    /// Puts other trees behind.
    fn append(&mut self, mut other: Self) -> Result<(), FitError> {
        let start = self.node_count();
        for end in other.ends {
            self.ends.push(narrow_node(start + end as usize)?);
        }
        self.feature.append(&mut other.feature);
        self.threshold.append(&mut other.threshold);
        self.right.append(&mut other.right);
        self.n_node_samples.append(&mut other.n_node_samples);
        Ok(())
    }
}

fn narrow_node(node: usize) -> Result<u32, FitError> {
    u32::try_from(node).map_err(|_| FitError::TooLarge("the number of nodes"))
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

/// The rows of one feature, sorted by value.
struct SortedColumn {
    /// Where each row comes.
    rank: Vec<u32>,
    /// Value and target of each rank.
    rows: Vec<(f32, f64)>,
}

/// Forests of fewer rows than this in all their trees are grown by one thread.
const PARALLEL_FROM: usize = 100 * 1024;

/// Of how many times the rows that all trees draw the sorting pays. Beyond, most of what is sorted
/// is never drawn, and takes 28 bytes a row.
const WORTH_SORTING: usize = 2;

impl<V: Fn(u32, u32) -> f32 + Sync> Growth<'_, V> {
    /// Grows one tree for each seed. Trees do not depend on each other, so threads share them out.
    pub(super) fn grow(&self, seeds: &[u32]) -> Result<Trees, FitError> {
        let column = self.sorted_column(seeds.len());
        if seeds.len() * (self.max_samples * self.n_features) as usize <= PARALLEL_FROM {
            return self.grow_in_turn(seeds, column.as_ref());
        }
        let share = seeds.len().div_ceil(4 * rayon::current_num_threads());
        let parts: Vec<_> = seeds
            .par_chunks(share)
            .map(|seeds| self.grow_in_turn(seeds, column.as_ref()))
            .collect();
        parts
            .into_iter()
            .try_fold(Trees::default(), |mut all, part| {
                all.append(part?)?;
                Ok(all)
            })
    }

    fn grow_in_turn(
        &self,
        seeds: &[u32],
        column: Option<&SortedColumn>,
    ) -> Result<Trees, FitError> {
        let (n_rows, max_depth) = (self.n_rows, self.max_depth());
        // Most trees have about as many nodes as rows.
        let nodes = seeds.len() * self.max_samples as usize;
        let mut trees = Trees::with_capacity(nodes.min(1 << 20));
        let mut rows = RowSampler::new(n_rows, self.max_samples, None);
        let numbers = column.map(|column| column.rank.as_slice());
        let mut ranks = RowSampler::new(n_rows, self.max_samples, numbers);
        let mut exact = exact::Grower::default();
        let mut sorted = sorted::Grower::default();
        for (stream, splitter) in tree_streams(seeds) {
            let root = trees.node_count();
            let grown = column.is_some_and(|column| {
                let drawn = ranks.draw(stream.clone()).iter();
                let drawn = drawn.map(|&rank| column.rows[rank as usize]);
                let grown = sorted.grow(drawn, splitter.clone(), max_depth, &mut trees);
                grown.is_ok()
            });
            if !grown {
                trees.truncate(root);
                let rows = rows.draw(stream);
                let values = (0..self.n_features)
                    .flat_map(|feature| rows.iter().map(move |&row| (self.value)(row, feature)));
                let targets = rows.iter().map(|&row| self.targets[row as usize]);
                let n_features = self.n_features;
                exact.grow(values, targets, n_features, splitter, max_depth, &mut trees);
            }
            trees.ends.push(narrow_node(trees.node_count())?);
        }
        Ok(trees)
    }

    /// Sorted rows, where so many trees can be grown from them, and are grown sooner.
    fn sorted_column(&self, trees: usize) -> Option<SortedColumn> {
        let drawn = trees.saturating_mul(self.max_samples as usize);
        let pays = self.n_rows as usize <= drawn.saturating_mul(WORTH_SORTING);
        if self.n_features > 1 || self.max_samples > sorted::MAX_ROWS || !pays {
            return None;
        }
        let mut order: Vec<(f32, u32)> = (0..self.n_rows)
            .map(|row| ((self.value)(row, 0), row))
            .collect();
        order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let mut rank = vec![0; order.len()];
        for (i, &(_, row)) in order.iter().enumerate() {
            rank[row as usize] = i as u32;
        }
        let rows = order.iter();
        let rows = rows.map(|&(value, row)| (value, self.targets[row as usize]));
        Some(SortedColumn {
            rank,
            rows: rows.collect(),
        })
    }

    /// `ceil(log2(max(max_samples, 2)))`.
    fn max_depth(&self) -> u32 {
        self.max_samples.max(2).next_power_of_two().trailing_zeros()
    }
}
