//! Walks the trees one after the other, in the form in which they were grown.

use super::path_length::{PathLengths, depths};
use super::threshold::round_down_to_f32;
use crate::forest::tree::{LEAF, Trees};

#[derive(Debug, Clone, Copy)]
struct Node {
    threshold: f32,
    /// The feature that splits the node, or [`LEAF`].
    feature: u32,
    /// Index of the right child (the left child is the next node); for a leaf, index of its path
    /// length.
    right: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Walk {
    nodes: Vec<Node>,
    roots: Vec<u32>,
    /// Path lengths of the leaves.
    lengths: Vec<f64>,
}

impl Walk {
    pub(super) fn new(trees: &Trees) -> Self {
        let path_lengths = PathLengths::new();
        let mut walk = Self {
            nodes: Vec::new(),
            roots: Vec::with_capacity(trees.len()),
            lengths: Vec::new(),
        };
        for tree in trees.iter() {
            let root = walk.nodes.len() as u32;
            walk.roots.push(root);
            for (node, depth) in depths(&tree).into_iter().enumerate() {
                walk.nodes
                    .push(match (tree.split(node), tree.children(node)) {
                        (Some((feature, threshold)), Some((_, right))) => Node {
                            threshold: round_down_to_f32(threshold),
                            feature: feature as u32,
                            right: root + right as u32,
                        },
                        _ => {
                            let rows = tree.n_node_samples()[node];
                            walk.lengths.push(path_lengths.of_leaf(depth, rows));
                            Node {
                                threshold: 0.0,
                                feature: LEAF,
                                right: walk.lengths.len() as u32 - 1,
                            }
                        }
                    });
            }
        }
        walk
    }

    /// Number of trees.
    pub(super) fn len(&self) -> usize {
        self.roots.len()
    }

    /// The bytes that it holds.
    pub(super) fn memory_size(&self) -> usize {
        size_of::<Node>() * self.nodes.capacity()
            + size_of::<u32>() * self.roots.capacity()
            + size_of::<f64>() * self.lengths.capacity()
    }

    /// The sum of one row's path lengths, added in the order of the trees.
    pub(super) fn path_length_sum(&self, row: &[f32]) -> f64 {
        self.roots.iter().fold(0.0, |sum, &root| {
            let mut index = root;
            loop {
                let node = self.nodes[index as usize];
                if node.feature == LEAF {
                    return sum + self.lengths[node.right as usize];
                }
                let left = row[node.feature as usize] <= node.threshold;
                index = if left { index + 1 } else { node.right };
            }
        })
    }
}
