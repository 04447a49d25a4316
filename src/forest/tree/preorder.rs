//! The serialised form of trees: all nodes in depth-first order, without the data that follow from
//! that order.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::trees::{LEAF, Trees};

/// All trees of a forest, one after the other. Because a left child follows its parent, the order
/// of splits and leaves determines the children of every node.
#[derive(Serialize, Deserialize)]
struct Preorder {
    /// For each node, the feature that splits it, counted from 1; 0 for a leaf.
    split: Vec<u32>,
    /// For each split, its threshold: values up to it go left.
    threshold: Vec<f64>,
    /// For each leaf, the number of the tree's rows that reached it.
    leaf_rows: Vec<u32>,
}

impl Serialize for Trees {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Preorder::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Trees {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(Preorder::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl From<&Trees> for Preorder {
    fn from(trees: &Trees) -> Self {
        let mut preorder = Self {
            split: Vec::with_capacity(trees.node_count()),
            threshold: Vec::new(),
            leaf_rows: Vec::new(),
        };
        for (node, &feature) in trees.feature.iter().enumerate() {
            if feature == LEAF {
                preorder.split.push(0);
                preorder.leaf_rows.push(trees.n_node_samples[node]);
            } else {
                preorder.split.push(feature + 1);
                preorder.threshold.push(trees.threshold[node]);
            }
        }
        preorder
    }
}

impl TryFrom<Preorder> for Trees {
    type Error = &'static str;

    fn try_from(mut stored: Preorder) -> Result<Self, Self::Error> {
        const DAMAGED: &str = "the trees of the forest are damaged";
        let nodes = stored.split.len();
        u32::try_from(nodes).map_err(|_| DAMAGED)?;
        let mut trees = Self {
            ends: Vec::new(),
            feature: stored
                .split
                .iter()
                .map(|split| split.wrapping_sub(1))
                .collect(),
            threshold: vec![0.0; nodes],
            right: vec![0; nodes],
            n_node_samples: vec![0; nodes],
        };
        // From the last node to the first, so that children precede their parents. The stack holds
        // the roots of the subtrees to the right, the nearest on top.
        let mut roots: Vec<usize> = Vec::new();
        for node in (0..nodes).rev() {
            trees.n_node_samples[node] = if trees.feature[node] == LEAF {
                stored.leaf_rows.pop().ok_or(DAMAGED)?
            } else {
                let (left, right) = roots.pop().zip(roots.pop()).ok_or(DAMAGED)?;
                trees.threshold[node] = stored.threshold.pop().ok_or(DAMAGED)?;
                trees.right[node] = (right - node) as u32;
                let rows = trees.n_node_samples[left].checked_add(trees.n_node_samples[right]);
                rows.ok_or(DAMAGED)?
            };
            roots.push(node);
        }
        if !(stored.threshold.is_empty() && stored.leaf_rows.is_empty()) {
            return Err(DAMAGED);
        }
        // The stack now holds the roots of whole trees. Right children are relative to their
        // parents so far; make them relative to the root.
        let starts = roots.iter().rev().copied();
        let ends = roots.iter().rev().copied().skip(1).chain([nodes]);
        for (start, end) in starts.zip(ends) {
            trees.ends.push(end as u32);
            for node in start..end {
                if trees.feature[node] != LEAF {
                    trees.right[node] += (node - start) as u32;
                }
            }
        }
        Ok(trees)
    }
}
