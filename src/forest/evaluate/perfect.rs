//! Trees padded to perfect ones, walked without branches, many rows at a time.
//!
//! In a perfect tree in heap order the children of node `i` are `2i` and `2i + 1`, so a step down
//! is a comparison and an addition. All walks are equally long, so nothing depends on the data but
//! the addresses, and the walks of several rows overlap. Values and thresholds are replaced by
//! whole numbers in the same order, whose comparison is itself a whole number to add.

use super::{PathLengths, f32_not_above};
use crate::forest::tree::{Tree, Trees};

/// Deeper trees are mostly padding.
pub(super) const MAX_DEPTH: u32 = WIDE.trailing_zeros();

/// Rows of more features are too long to be padded.
const MAX_FEATURES: usize = 256;

/// Places for the nodes of a tree, by depth: up to 8 (trees of 256 rows), and up to 10.
const NARROW: usize = 256;
const WIDE: usize = 1024;

/// Levels of a tree that are compared with all rows at once.
const TOP: u32 = 3;

/// Rows whose first levels are compared at once.
const LANES: usize = 16;

/// Rows whose walks overlap, half a group: as many as there are registers for.
const OVERLAP: usize = LANES / 2;

/// Places for the values of a group of rows, with up to 16 features and up to [`MAX_FEATURES`]; and
/// as many as there are rows, so that where a feature begins and a row are in bounds together.
const FEW: usize = LANES * 16 + LANES;
const MANY: usize = LANES * MAX_FEATURES + LANES;

#[derive(Debug, Clone, Copy)]
struct Node {
    /// The [`order`] of the threshold.
    threshold: i32,
    /// Where the values of its feature begin in a group of rows: the feature times [`LANES`].
    begin: u32,
}

/// Where an early leaf is padded, every value goes left.
const PADDING: Node = Node {
    threshold: i32::MAX,
    begin: 0,
};

/// A whole number that is greater for greater values, and the same for zeros of both signs.
fn order(value: f32) -> i32 {
    let bits = (value + 0.0).to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

#[derive(Debug, Clone)]
pub(super) struct PerfectTrees {
    depth: u32,
    n_features: usize,
    /// [`NARROW`] or [`WIDE`].
    width: usize,
    /// `width` places for each tree.
    nodes: Vec<Node>,
    /// The path lengths at the bottom: where a walk ends at `i`, the one at `i % width`.
    lengths: Vec<f64>,
}

impl PerfectTrees {
    /// `None` when a tree is deeper than [`MAX_DEPTH`], or there are too many features.
    pub(super) fn new(trees: &Trees, n_features: usize) -> Option<Self> {
        let depth = trees
            .iter()
            .map(|tree| super::depths(&tree).into_iter().max().unwrap_or(0))
            .max()?
            .max(TOP);
        if depth > MAX_DEPTH || n_features > MAX_FEATURES {
            return None;
        }
        let width = if 1 << depth <= NARROW { NARROW } else { WIDE };
        let mut perfect = Self {
            depth,
            n_features,
            width,
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
        let nodes = self.nodes.chunks_exact(self.width);
        let lengths = self.lengths.chunks_exact(self.width);
        nodes.zip(lengths).fold(0.0, |sum, (nodes, lengths)| {
            let mut at = 1;
            for _ in 0..self.depth {
                let node = nodes[at];
                let value = order(row[node.begin as usize / LANES]);
                at = 2 * at + usize::from(node.threshold < value);
            }
            sum + lengths[at % self.width]
        })
    }

    /// The sums of as many rows as `sums` is long.
    pub(super) fn path_length_sums(&self, value: impl Fn(usize, usize) -> f32, sums: &mut [f64]) {
        match (self.width, self.n_features) {
            (NARROW, ..=16) => self.walk::<u8, NARROW, FEW>(value, sums),
            (NARROW, _) => self.walk::<u8, NARROW, MANY>(value, sums),
            (_, ..=16) => self.walk::<u32, WIDE, FEW>(value, sums),
            (_, _) => self.walk::<u32, WIDE, MANY>(value, sums),
        }
    }

    /// Walks down every tree with all rows. `WIDTH`, and `VALUES` without the last [`LANES`], are
    /// powers of two, so that a remainder keeps an index in bounds without a branch.
    fn walk<P: Place, const WIDTH: usize, const VALUES: usize>(
        &self,
        value: impl Fn(usize, usize) -> f32,
        sums: &mut [f64],
    ) {
        // Feature by feature within a group of rows.
        let mut groups = vec![[0; VALUES]; sums.len().div_ceil(LANES)];
        for row in 0..sums.len() {
            let group = &mut groups[row / LANES];
            for feature in 0..self.n_features {
                group[feature * LANES + row % LANES] = order(value(row, feature));
            }
        }
        let mut places = vec![[P::default(); LANES]; groups.len()];
        let mut padded = vec![[0.0; LANES]; groups.len()];
        let (nodes, _) = self.nodes.as_chunks::<WIDTH>();
        let (lengths, _) = self.lengths.as_chunks::<WIDTH>();
        for (nodes, lengths) in nodes.iter().zip(lengths) {
            for (group, places) in groups.iter().zip(&mut places) {
                *places = top(nodes, group);
            }
            for ((group, places), sums) in groups.iter().zip(&places).zip(&mut padded) {
                for half in [0, OVERLAP] {
                    let mut at: [P; OVERLAP] = std::array::from_fn(|lane| places[half + lane]);
                    for _ in TOP..self.depth {
                        for (lane, at) in at.iter_mut().enumerate() {
                            let node = nodes[at.index() % WIDTH];
                            let begin = node.begin as usize % (VALUES - LANES);
                            *at = at.child(node.threshold < group[begin + half + lane]);
                        }
                    }
                    for (lane, at) in at.iter().enumerate() {
                        sums[half + lane] += lengths[at.index() % WIDTH];
                    }
                }
            }
        }
        for (sum, &padded) in sums.iter_mut().zip(padded.as_flattened()) {
            *sum = padded;
        }
    }
}

/// The number of a node in heap order, but for the multiples of a tree's width. A byte is enough for
/// narrow trees, and then neither a remainder nor wide registers are needed.
trait Place: Copy + Default {
    fn new(place: i32) -> Self;
    fn index(self) -> usize;
    fn child(self, right: bool) -> Self;
}

impl Place for u8 {
    fn new(place: i32) -> Self {
        place as u8
    }

    fn index(self) -> usize {
        self.into()
    }

    fn child(self, right: bool) -> Self {
        self.wrapping_mul(2).wrapping_add(right.into())
    }
}

impl Place for u32 {
    fn new(place: i32) -> Self {
        place as u32
    }

    fn index(self) -> usize {
        self as usize
    }

    fn child(self, right: bool) -> Self {
        2 * self + u32::from(right)
    }
}

/// The first levels for all rows of a group at once: each of their nodes is compared with every row,
/// which takes no addresses that depend on data, and the comparisons on a row's way are picked.
///
/// It and what it calls are inlined, since else the lanes go through memory at every call.
#[inline(always)]
fn top<P: Place, const VALUES: usize>(nodes: &[Node], group: &[i32; VALUES]) -> [P; LANES] {
    let right = |at| goes_right(nodes[at], group);
    let first = right(1);
    let second = pick(&first, right(3), right(2));
    let third = pick(
        &first,
        pick(&second, right(7), right(6)),
        pick(&second, right(5), right(4)),
    );
    std::array::from_fn(|lane| P::new(8 - 4 * first[lane] - 2 * second[lane] - third[lane]))
}

/// All bits set where a row's value goes right.
#[inline(always)]
fn goes_right<const VALUES: usize>(node: Node, group: &[i32; VALUES]) -> [i32; LANES] {
    let begin = node.begin as usize % (VALUES - LANES);
    let values = &group[begin..begin + LANES];
    let mut right = [0; LANES];
    for (right, &value) in right.iter_mut().zip(values) {
        *right = -i32::from(node.threshold < value);
    }
    right
}

#[inline(always)]
fn pick(which: &[i32; LANES], right: [i32; LANES], left: [i32; LANES]) -> [i32; LANES] {
    let mut picked = [0; LANES];
    for lane in 0..LANES {
        picked[lane] = (which[lane] & right[lane]) | (!which[lane] & left[lane]);
    }
    picked
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
                    threshold: order(f32_not_above(threshold)),
                    begin: (feature * LANES) as u32,
                };
                open.push((left, edges + 1, 2 * at));
                open.push((right, edges + 1, 2 * at + 1));
            }
            _ => {
                let rows = tree.n_node_samples()[node];
                let bottom = at << (depth - edges);
                lengths[bottom % nodes.len()] = path_lengths.of(edges, rows);
            }
        }
    }
}
