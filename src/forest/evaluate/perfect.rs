//! Trees padded to perfect binary trees, walked without branches, many rows at a time.
//!
//! In a perfect tree in heap order, the children of node `i` are `2i` and `2i + 1`, so each step
//! down is a comparison and an addition. All walks have the same length, so only addresses depend
//! on the data, and the walks of several rows overlap. Values and thresholds are replaced by
//! integers in the same order, because comparing integers yields an integer to add.

use super::path_length::{PathLengths, depths};
use super::threshold::round_down_to_f32;
use crate::forest::tree::{Tree, Trees};
use crate::total_order::f32_to_key;

/// Deeper trees would be mostly padding.
const MAX_DEPTH: u32 = WIDE.trailing_zeros();

/// Rows with more features are too long to pad.
const MAX_FEATURES: usize = 256;

/// Nodes reserved per tree: for trees up to 8 levels deep (256 rows), and up to 10 levels.
const NARROW: usize = 256;
const WIDE: usize = 1024;

/// Largest padding, as a multiple of the nodes that are there, and the size up to which it does not
/// matter, in bytes. Forests of thousands of stumps are walked as they are, so that no forest takes
/// more memory than a small multiple of its stored form.
const MAX_PADDING: usize = 8;
const SMALL: usize = 16 * 1024 * 1024;

/// Levels of a tree whose nodes are compared with all rows of a group at once.
const TOP_LEVELS: u32 = 3;

/// Rows in a group.
const LANES: usize = 16;

/// Rows whose walks overlap, half a group: as many as there are registers for.
const OVERLAP: usize = LANES / 2;

/// Values reserved per group of rows, for up to 16 features and for up to [`MAX_FEATURES`]. The
/// extra [`LANES`] keep the offset of a feature plus a lane in bounds.
const FEW: usize = LANES * 16 + LANES;
const MANY: usize = LANES * MAX_FEATURES + LANES;

#[derive(Debug, Clone, Copy)]
struct Node {
    /// The [`order_key`] of the threshold.
    threshold: i32,
    /// Offset of the feature's values in a group of rows: the feature times [`LANES`].
    offset: u32,
}

/// A node below a leaf: every value goes left.
const PADDING: Node = Node {
    threshold: i32::MAX,
    offset: 0,
};

/// An integer that orders values as `<` does: zeros of both signs have the same key.
fn order_key(value: f32) -> i32 {
    f32_to_key(value + 0.0)
}

#[derive(Debug, Clone)]
pub(super) struct PerfectTrees {
    depth: u32,
    n_features: usize,
    /// [`NARROW`] or [`WIDE`].
    width: usize,
    /// `width` nodes per tree.
    nodes: Vec<Node>,
    /// Path lengths at the bottom, `width` per tree: a walk that ends at `i` has the one at
    /// `i % width`.
    lengths: Vec<f64>,
}

impl PerfectTrees {
    /// Pads the trees. `None` if a tree is deeper than [`MAX_DEPTH`], there are more than
    /// [`MAX_FEATURES`] features, or most of a large forest would be padding.
    pub(super) fn new(trees: &Trees, n_features: usize) -> Option<Self> {
        let depth = trees
            .iter()
            .map(|tree| depths(&tree).into_iter().max().unwrap_or(0))
            .max()?
            .max(TOP_LEVELS);
        if depth > MAX_DEPTH || n_features > MAX_FEATURES {
            return None;
        }
        let width = if 1 << depth <= NARROW { NARROW } else { WIDE };
        let padded = width * trees.len();
        let size = padded * (size_of::<Node>() + size_of::<f64>());
        if size > SMALL && padded > MAX_PADDING * trees.node_count() {
            return None;
        }
        let mut perfect = Self {
            depth,
            n_features,
            width,
            nodes: vec![PADDING; padded],
            lengths: vec![0.0; padded],
        };
        let path_lengths = PathLengths::new();
        let nodes = perfect.nodes.chunks_mut(width);
        let lengths = perfect.lengths.chunks_mut(width);
        for ((tree, nodes), lengths) in trees.iter().zip(nodes).zip(lengths) {
            lay_out(&tree, depth, nodes, lengths, &path_lengths);
        }
        Some(perfect)
    }

    /// Number of trees.
    pub(super) fn len(&self) -> usize {
        self.nodes.len() / self.width
    }

    /// The bytes that it holds.
    pub(super) fn memory_size(&self) -> usize {
        size_of::<Node>() * self.nodes.capacity() + size_of::<f64>() * self.lengths.capacity()
    }

    /// The sum of one row's path lengths, added in the order of the trees.
    pub(super) fn path_length_sum(&self, row: &[f32]) -> f64 {
        let nodes = self.nodes.chunks_exact(self.width);
        let lengths = self.lengths.chunks_exact(self.width);
        nodes.zip(lengths).fold(0.0, |sum, (nodes, lengths)| {
            let mut index = 1;
            for _ in 0..self.depth {
                let node = nodes[index];
                let value = order_key(row[node.offset as usize / LANES]);
                index = 2 * index + usize::from(node.threshold < value);
            }
            sum + lengths[index % self.width]
        })
    }

    /// Writes the sum of path lengths of each row to `sums`; `value` returns the value of a row and
    /// a feature.
    pub(super) fn path_length_sums(&self, value: impl Fn(usize, usize) -> f32, sums: &mut [f64]) {
        match (self.width, self.n_features) {
            (NARROW, ..=16) => self.walk::<u8, NARROW, FEW>(value, sums),
            (NARROW, _) => self.walk::<u8, NARROW, MANY>(value, sums),
            (_, ..=16) => self.walk::<u32, WIDE, FEW>(value, sums),
            (_, _) => self.walk::<u32, WIDE, MANY>(value, sums),
        }
    }

    /// Walks all rows down every tree. `WIDTH` and `VALUES - LANES` are powers of two, so a
    /// remainder keeps an index in bounds without a branch.
    fn walk<I: HeapIndex, const WIDTH: usize, const VALUES: usize>(
        &self,
        value: impl Fn(usize, usize) -> f32,
        sums: &mut [f64],
    ) {
        // Within a group of rows, values are ordered feature by feature.
        let mut groups = vec![[0; VALUES]; sums.len().div_ceil(LANES)];
        for row in 0..sums.len() {
            let group = &mut groups[row / LANES];
            for feature in 0..self.n_features {
                group[feature * LANES + row % LANES] = order_key(value(row, feature));
            }
        }
        let mut positions = vec![[I::default(); LANES]; groups.len()];
        let mut padded_sums = vec![[0.0; LANES]; groups.len()];
        let (nodes, _) = self.nodes.as_chunks::<WIDTH>();
        let (lengths, _) = self.lengths.as_chunks::<WIDTH>();
        for (nodes, lengths) in nodes.iter().zip(lengths) {
            for (group, positions) in groups.iter().zip(&mut positions) {
                *positions = walk_top(nodes, group);
            }
            for ((group, positions), sums) in groups.iter().zip(&positions).zip(&mut padded_sums) {
                for half in [0, OVERLAP] {
                    let mut indices: [I; OVERLAP] =
                        std::array::from_fn(|lane| positions[half + lane]);
                    for _ in TOP_LEVELS..self.depth {
                        for (lane, index) in indices.iter_mut().enumerate() {
                            let node = nodes[index.get() % WIDTH];
                            let offset = node.offset as usize % (VALUES - LANES);
                            *index = index.child(node.threshold < group[offset + half + lane]);
                        }
                    }
                    for (lane, index) in indices.iter().enumerate() {
                        sums[half + lane] += lengths[index.get() % WIDTH];
                    }
                }
            }
        }
        for (sum, &padded_sum) in sums.iter_mut().zip(padded_sums.as_flattened()) {
            *sum = padded_sum;
        }
    }
}

/// The index of a node in heap order, modulo a tree's width. For narrow trees a byte suffices,
/// which needs neither a remainder nor wide registers.
trait HeapIndex: Copy + Default {
    fn new(index: i32) -> Self;
    fn get(self) -> usize;
    fn child(self, right: bool) -> Self;
}

impl HeapIndex for u8 {
    fn new(index: i32) -> Self {
        index as u8
    }

    fn get(self) -> usize {
        self.into()
    }

    fn child(self, right: bool) -> Self {
        self.wrapping_mul(2).wrapping_add(right.into())
    }
}

impl HeapIndex for u32 {
    fn new(index: i32) -> Self {
        index as u32
    }

    fn get(self) -> usize {
        self as usize
    }

    fn child(self, right: bool) -> Self {
        2 * self + u32::from(right)
    }
}

/// Walks all rows of a group down the top levels at once: compares each node with every row, so
/// that no address depends on the data, and selects the comparisons on each row's path.
///
/// This function and its callees are inlined; otherwise the lanes go through memory at every call.
#[inline(always)]
fn walk_top<I: HeapIndex, const VALUES: usize>(
    nodes: &[Node],
    group: &[i32; VALUES],
) -> [I; LANES] {
    let right = |index: usize| goes_right(nodes[index], group);
    let first = right(1);
    let second = select(&first, right(3), right(2));
    let third = select(
        &first,
        select(&second, right(7), right(6)),
        select(&second, right(5), right(4)),
    );
    std::array::from_fn(|lane| I::new(8 - 4 * first[lane] - 2 * second[lane] - third[lane]))
}

/// For each row, all bits set if its value goes right, else none.
#[inline(always)]
fn goes_right<const VALUES: usize>(node: Node, group: &[i32; VALUES]) -> [i32; LANES] {
    let offset = node.offset as usize % (VALUES - LANES);
    let values = &group[offset..offset + LANES];
    let mut right = [0; LANES];
    for (right, &value) in right.iter_mut().zip(values) {
        *right = -i32::from(node.threshold < value);
    }
    right
}

/// Takes each lane from `right` where its mask is set, else from `left`.
#[inline(always)]
fn select(mask: &[i32; LANES], right: [i32; LANES], left: [i32; LANES]) -> [i32; LANES] {
    let mut selected = [0; LANES];
    for lane in 0..LANES {
        selected[lane] = (mask[lane] & right[lane]) | (!mask[lane] & left[lane]);
    }
    selected
}

/// Writes a tree in heap order to `nodes` and `lengths`.
fn lay_out(
    tree: &Tree<'_>,
    depth: u32,
    nodes: &mut [Node],
    lengths: &mut [f64],
    path_lengths: &PathLengths,
) {
    // Node, depth and heap index.
    let mut pending = vec![(0, 0, 1usize)];
    while let Some((node, edges, index)) = pending.pop() {
        match (tree.split(node), tree.children(node)) {
            (Some((feature, threshold)), Some((left, right))) => {
                nodes[index] = Node {
                    threshold: order_key(round_down_to_f32(threshold)),
                    offset: (feature * LANES) as u32,
                };
                pending.push((left, edges + 1, 2 * index));
                pending.push((right, edges + 1, 2 * index + 1));
            }
            _ => {
                let rows = tree.n_node_samples()[node];
                let bottom = index << (depth - edges);
                lengths[bottom % nodes.len()] = path_lengths.of_leaf(edges, rows);
            }
        }
    }
}
