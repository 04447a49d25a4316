//! The trees of a forest as parallel arrays.

use crate::forest::convert::to_u32;
use crate::forest::error::FitError;

/// Stands for the feature of a leaf.
pub(in crate::forest) const LEAF: u32 = u32::MAX;

/// All trees of a forest, one after the other, each in depth-first order: the left child of node
/// `i` is `i + 1`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::forest) struct Trees {
    /// End of each tree.
    pub(super) ends: Vec<u32>,
    /// The feature that splits each node, or [`LEAF`].
    pub(super) feature: Vec<u32>,
    pub(super) threshold: Vec<f64>,
    /// Right child of each node, relative to the root of its tree.
    pub(super) right: Vec<u32>,
    pub(super) n_node_samples: Vec<u32>,
}

/// One tree as parallel arrays, indexed by node. Node 0 is the root.
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

    /// The feature that splits a node, and the threshold: values up to it go left. `None` for a
    /// leaf or if the node does not exist.
    pub fn split(&self, node: usize) -> Option<(usize, f64)> {
        let feature = *self.feature.get(node)?;
        (feature != LEAF).then(|| (feature as usize, self.threshold[node]))
    }

    /// The left and the right child of a node. `None` for a leaf or if the node does not exist.
    pub fn children(&self, node: usize) -> Option<(usize, usize)> {
        let feature = *self.feature.get(node)?;
        (feature != LEAF).then(|| (node + 1, self.right[node] as usize))
    }

    /// Number of the tree's rows that reached each node.
    pub fn n_node_samples(&self) -> &'a [u32] {
        self.n_node_samples
    }
}

impl Tree<'_> {
    /// The number of edges to the deepest leaf.
    fn depth(&self) -> u32 {
        let (mut depth, mut deepest) = (0, 0);
        // The depths of the right children that follow, the next on top.
        let mut pending = Vec::new();
        for &feature in self.feature {
            if feature == LEAF {
                deepest = deepest.max(depth);
                let Some(next) = pending.pop() else { break };
                depth = next;
            } else {
                depth += 1;
                pending.push(depth);
            }
        }
        deepest
    }
}

/// The greatest depth of a tree that is grown from `max_samples` rows: scikit-learn's
/// `ceil(log2(max(max_samples, 2)))`.
pub(super) fn max_depth(max_samples: u32) -> u32 {
    u64::from(max_samples.max(2))
        .next_power_of_two()
        .trailing_zeros()
}

impl Trees {
    pub(super) fn with_capacity(nodes: usize) -> Self {
        Self {
            ends: Vec::new(),
            feature: Vec::with_capacity(nodes),
            threshold: Vec::with_capacity(nodes),
            right: Vec::with_capacity(nodes),
            n_node_samples: Vec::with_capacity(nodes),
        }
    }

    /// Number of trees.
    pub(in crate::forest) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes that they hold.
    pub(in crate::forest) fn memory_size(&self) -> usize {
        size_of::<u32>()
            * (self.ends.capacity()
                + self.feature.capacity()
                + self.right.capacity()
                + self.n_node_samples.capacity())
            + size_of::<f64>() * self.threshold.capacity()
    }

    pub(in crate::forest) fn iter(&self) -> impl ExactSizeIterator<Item = Tree<'_>> {
        (0..self.len()).map(|i| self.tree(i))
    }

    /// The tree that was grown last.
    pub(super) fn last(&self) -> Option<Tree<'_>> {
        Some(self.tree(self.len().checked_sub(1)?))
    }

    fn tree(&self, i: usize) -> Tree<'_> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        let nodes = start..self.ends[i] as usize;
        Tree {
            feature: &self.feature[nodes.clone()],
            threshold: &self.threshold[nodes.clone()],
            right: &self.right[nodes.clone()],
            n_node_samples: &self.n_node_samples[nodes],
        }
    }

    /// Whether trees could have been grown from `max_samples` rows each, so that deserialised trees
    /// cannot cause a panic or a walk longer than that of a grown tree: every tree has as many rows,
    /// none is deeper than growth allows, every leaf has a row, every split feature exists and every
    /// threshold is finite.
    ///
    /// Deserialisation itself checks that the nodes of each tree are connected.
    pub(in crate::forest) fn is_sound(&self, n_features: u32, max_samples: u32) -> bool {
        let splits = self.feature.iter().zip(&self.threshold);
        self.iter().all(|tree| {
            tree.n_node_samples[0] == max_samples && tree.depth() <= max_depth(max_samples)
        }) && self.n_node_samples.iter().all(|&rows| rows > 0)
            // Without a branch, so that nodes are checked side by side.
            && splits.fold(true, |all, (&feature, threshold)| {
                all & ((feature == LEAF) | ((feature < n_features) & threshold.is_finite()))
            })
    }

    /// Number of nodes in all trees.
    pub(in crate::forest) fn node_count(&self) -> usize {
        self.feature.len()
    }

    /// Appends a node to the current tree.
    pub(super) fn push(&mut self, feature: u32, threshold: f64, n_node_samples: u32) {
        self.feature.push(feature);
        self.threshold.push(threshold);
        self.right.push(0);
        self.n_node_samples.push(n_node_samples);
    }

    /// Ends the current tree.
    pub(super) fn end_tree(&mut self) -> Result<(), FitError> {
        self.ends.push(node_index(self.node_count())?);
        Ok(())
    }

    /// Removes the nodes from `node_count` on.
    pub(super) fn truncate(&mut self, node_count: usize) {
        self.feature.truncate(node_count);
        self.threshold.truncate(node_count);
        self.right.truncate(node_count);
        self.n_node_samples.truncate(node_count);
    }

    /// Appends the trees of `other`.
    pub(super) fn append(&mut self, mut other: Self) -> Result<(), FitError> {
        let start = self.node_count();
        for end in other.ends {
            self.ends.push(node_index(start + end as usize)?);
        }
        self.feature.append(&mut other.feature);
        self.threshold.append(&mut other.threshold);
        self.right.append(&mut other.right);
        self.n_node_samples.append(&mut other.n_node_samples);
        Ok(())
    }
}

fn node_index(node: usize) -> Result<u32, FitError> {
    to_u32(node, "the number of nodes")
}
