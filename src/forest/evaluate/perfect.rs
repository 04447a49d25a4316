//! Trees padded to perfect ones, walked without branches, many rows at a time.
//!
//! In a perfect tree in heap order the children of node `i` are `2i` and `2i + 1`, so a step down
//! is a comparison and an addition. All walks are equally long, so nothing depends on the data but
//! the addresses, and the walks of several rows overlap.

use super::{PathLengths, f32_not_above};
use crate::forest::tree::{Tree, Trees};

/// Deeper trees are mostly padding.
pub(super) const MAX_DEPTH: u32 = 10;

/// Rows whose walks overlap.
const LANES: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Node {
    threshold: f32,
    feature: u32,
}

/// Where an early leaf is padded, every value goes left.
const PADDING: Node = Node {
    threshold: f32::INFINITY,
    feature: 0,
};

#[derive(Debug, Clone)]
pub(super) struct PerfectTrees {
    depth: u32,
    n_features: usize,
    /// `1 << depth` for each tree, the first of which is not used.
    nodes: Vec<Node>,
    /// The path lengths at the bottom, `1 << depth` for each tree.
    lengths: Vec<f64>,
}

impl PerfectTrees {
    /// `None` when a tree is deeper than [`MAX_DEPTH`].
    pub(super) fn new(trees: &Trees, n_features: usize) -> Option<Self> {
        let depth = trees
            .iter()
            .map(|tree| super::depths(&tree).into_iter().max().unwrap_or(0))
            .max()?;
        if depth > MAX_DEPTH {
            return None;
        }
        let width = 1usize << depth;
        let mut perfect = Self {
            depth,
            n_features,
            nodes: vec![PADDING; width * trees.len()],
            lengths: vec![0.0; width * trees.len()],
        };
        let path_lengths = PathLengths::new();
        let nodes = perfect.nodes.chunks_mut(width);
        let lengths = perfect.lengths.chunks_mut(width);
        for ((tree, nodes), lengths) in trees.iter().zip(nodes).zip(lengths) {
            place(&tree, depth, nodes, lengths, &path_lengths);
        }
        Some(perfect)
    }

    /// The sum of one row's path lengths, added in the order of the trees.
    pub(super) fn path_length_sum(&self, row: &[f32]) -> f64 {
        let width = 1usize << self.depth;
        let nodes = self.nodes.chunks_exact(width);
        let lengths = self.lengths.chunks_exact(width);
        nodes.zip(lengths).fold(0.0, |sum, (nodes, lengths)| {
            let mut at = 1;
            for _ in 0..self.depth {
                let node = nodes[at];
                at = 2 * at + usize::from(row[node.feature as usize] > node.threshold);
            }
            sum + lengths[at - width]
        })
    }

    /// The sums of as many rows as `sums` is long.
    pub(super) fn path_length_sums(&self, value: impl Fn(usize, usize) -> f32, sums: &mut [f64]) {
        sums.fill(0.0);
        let width = 1usize << self.depth;
        // Feature by feature within a group of rows.
        let mut groups = vec![[0.0; LANES]; sums.len().div_ceil(LANES) * self.n_features];
        for (row, _) in sums.iter().enumerate() {
            let group = row / LANES * self.n_features;
            for feature in 0..self.n_features {
                groups[group + feature][row % LANES] = value(row, feature);
            }
        }
        let nodes = self.nodes.chunks_exact(width);
        let lengths = self.lengths.chunks_exact(width);
        for (nodes, lengths) in nodes.zip(lengths) {
            let groups = groups.chunks_exact(self.n_features);
            for (group, sums) in groups.zip(sums.chunks_mut(LANES)) {
                let mut at = [1usize; LANES];
                for _ in 0..self.depth {
                    for (lane, at) in at.iter_mut().enumerate() {
                        let node = nodes[*at];
                        let value = group[node.feature as usize][lane];
                        *at = 2 * *at + usize::from(value > node.threshold);
                    }
                }
                for (sum, at) in sums.iter_mut().zip(at) {
                    *sum += lengths[at - width];
                }
            }
        }
    }
}

/// Puts a tree into heap order.
fn place(
    tree: &Tree<'_>,
    depth: u32,
    nodes: &mut [Node],
    lengths: &mut [f64],
    path_lengths: &PathLengths,
) {
    // A node, its depth and its place.
    let mut open = vec![(0, 0, 1usize)];
    while let Some((node, edges, at)) = open.pop() {
        match (tree.split(node), tree.children(node)) {
            (Some((feature, threshold)), Some((left, right))) => {
                nodes[at] = Node {
                    threshold: f32_not_above(threshold),
                    feature: feature as u32,
                };
                open.push((left, edges + 1, 2 * at));
                open.push((right, edges + 1, 2 * at + 1));
            }
            _ => {
                let rows = tree.n_node_samples()[node];
                let first = (at << (depth - edges)) - (1 << depth);
                lengths[first] = path_lengths.of(edges, rows);
            }
        }
    }
}
