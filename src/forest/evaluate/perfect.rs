//! Trees padded to perfect binary trees, walked without branches, many rows at a time.
//!
//! In a perfect tree in heap order, the children of node `i` are `2i` and `2i + 1`, so each step
//! down is a comparison and an addition. All walks have the same length, so only addresses depend
//! on the data, and the walks of several rows overlap. Values and thresholds are replaced by
//! integers in the same order, because comparing integers yields an integer to add.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

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

/// Bytes of a node: threshold, feature and bottom.
const NODE: usize = 7;

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

/// The threshold of a node below a leaf: every value goes left.
pub(super) const PADDING: i32 = i32::MAX;

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
    /// `width` nodes per tree: the [`order_key`] of each threshold, or [`PADDING`].
    thresholds: Vec<i32>,
    /// The feature that splits each node.
    features: Vec<u8>,
    /// Which path length is at the bottom, `width` per tree: a walk that ends at `i` has the one at
    /// `i % width`.
    bottoms: Vec<u16>,
    /// The path lengths, each once.
    lengths: Vec<f64>,
}

impl PerfectTrees {
    /// Pads the trees. `None` if a tree is deeper than [`MAX_DEPTH`], there are more than
    /// [`MAX_FEATURES`] features, most of a large forest would be padding, or there are more than
    /// 65,536 different path lengths.
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
        let size = padded * NODE;
        if size > SMALL && padded > MAX_PADDING * trees.node_count() {
            return None;
        }
        let mut perfect = Self {
            depth,
            n_features,
            width,
            thresholds: vec![PADDING; padded],
            features: vec![0; padded],
            bottoms: vec![0; padded],
            lengths: Vec::new(),
        };
        let mut numbers = LengthNumbers::new();
        for (i, tree) in trees.iter().enumerate() {
            perfect.lay_out(&tree, i * width, &mut numbers)?;
        }
        perfect.lengths = numbers.into_lengths();
        Some(perfect)
    }

    /// Writes a tree in heap order, from `first` on. `None` if there are too many path lengths.
    fn lay_out(
        &mut self,
        tree: &Tree<'_>,
        first: usize,
        numbers: &mut LengthNumbers,
    ) -> Option<()> {
        // Node, depth and heap index.
        let mut pending = vec![(0, 0, 1usize)];
        while let Some((node, edges, index)) = pending.pop() {
            match (tree.split(node), tree.children(node)) {
                (Some((feature, threshold)), Some((left, right))) => {
                    self.thresholds[first + index] = order_key(round_down_to_f32(threshold));
                    self.features[first + index] = feature as u8;
                    pending.push((left, edges + 1, 2 * index));
                    pending.push((right, edges + 1, 2 * index + 1));
                }
                _ => {
                    let rows = tree.n_node_samples()[node];
                    let bottom = index << (self.depth - edges);
                    self.bottoms[first + bottom % self.width] = numbers.number(edges, rows)?;
                }
            }
        }
        Some(())
    }

    /// Number of trees.
    pub(super) fn len(&self) -> usize {
        self.thresholds.len() / self.width
    }

    /// The bytes that it holds.
    pub(super) fn memory_size(&self) -> usize {
        size_of::<i32>() * self.thresholds.capacity()
            + size_of::<u8>() * self.features.capacity()
            + size_of::<u16>() * self.bottoms.capacity()
            + size_of::<f64>() * self.lengths.capacity()
    }

    /// Levels of each tree, the leaves excluded.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    pub(super) fn n_features(&self) -> usize {
        self.n_features
    }

    /// The path lengths.
    pub(super) fn lengths(&self) -> &[f64] {
        &self.lengths
    }

    /// Thresholds, features and bottoms of each tree, in order, `width` items each.
    pub(super) fn trees(&self) -> impl Iterator<Item = (&[i32], &[u8], &[u16])> {
        let thresholds = self.thresholds.chunks_exact(self.width);
        let features = self.features.chunks_exact(self.width);
        let bottoms = self.bottoms.chunks_exact(self.width);
        thresholds
            .zip(features)
            .zip(bottoms)
            .map(|((thresholds, features), bottoms)| (thresholds, features, bottoms))
    }

    /// The sum of one row's path lengths, added in the order of the trees.
    pub(super) fn path_length_sum(&self, row: &[f32]) -> f64 {
        self.trees()
            .fold(0.0, |sum, (thresholds, features, bottoms)| {
                let mut index = 1;
                for _ in 0..self.depth {
                    let value = order_key(row[usize::from(features[index])]);
                    index = 2 * index + usize::from(thresholds[index] < value);
                }
                sum + self.lengths[usize::from(bottoms[index % self.width])]
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
        for (thresholds, features, bottoms) in self.trees() {
            let (Some(thresholds), Some(features), Some(bottoms)) = (
                thresholds.first_chunk::<WIDTH>(),
                features.first_chunk::<WIDTH>(),
                bottoms.first_chunk::<WIDTH>(),
            ) else {
                return;
            };
            for (group, positions) in groups.iter().zip(&mut positions) {
                *positions = walk_top(thresholds, features, group);
            }
            for ((group, positions), sums) in groups.iter().zip(&positions).zip(&mut padded_sums) {
                for half in [0, OVERLAP] {
                    let mut indices: [I; OVERLAP] =
                        std::array::from_fn(|lane| positions[half + lane]);
                    for _ in TOP_LEVELS..self.depth {
                        for (lane, index) in indices.iter_mut().enumerate() {
                            let node = index.get() % WIDTH;
                            let value = group[offset::<VALUES>(features[node]) + half + lane];
                            *index = index.child(thresholds[node] < value);
                        }
                    }
                    for (lane, index) in indices.iter().enumerate() {
                        let bottom = bottoms[index.get() % WIDTH];
                        sums[half + lane] += self.lengths[usize::from(bottom)];
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
    thresholds: &[i32],
    features: &[u8],
    group: &[i32; VALUES],
) -> [I; LANES] {
    let right = |index: usize| goes_right(thresholds[index], features[index], group);
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
fn goes_right<const VALUES: usize>(
    threshold: i32,
    feature: u8,
    group: &[i32; VALUES],
) -> [i32; LANES] {
    let offset = offset::<VALUES>(feature);
    let values = &group[offset..offset + LANES];
    let mut right = [0; LANES];
    for (right, &value) in right.iter_mut().zip(values) {
        *right = -i32::from(threshold < value);
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

/// Where the values of a feature begin in a group of rows.
#[inline(always)]
fn offset<const VALUES: usize>(feature: u8) -> usize {
    usize::from(feature) * LANES % (VALUES - LANES)
}

/// Numbers the path lengths of leaves.
struct LengthNumbers {
    path_lengths: PathLengths,
    /// By the bits of the path length.
    numbers: HashMap<u64, u16>,
    lengths: Vec<f64>,
}

impl LengthNumbers {
    fn new() -> Self {
        Self {
            path_lengths: PathLengths::new(),
            numbers: HashMap::new(),
            lengths: Vec::new(),
        }
    }

    /// The number of a leaf's path length. `None` beyond 65,536.
    fn number(&mut self, edges: u32, rows: u32) -> Option<u16> {
        let length = self.path_lengths.of_leaf(edges, rows);
        match self.numbers.entry(length.to_bits()) {
            Entry::Occupied(entry) => Some(*entry.get()),
            Entry::Vacant(entry) => {
                let number = self.lengths.len().try_into().ok()?;
                self.lengths.push(length);
                Some(*entry.insert(number))
            }
        }
    }

    fn into_lengths(mut self) -> Vec<f64> {
        self.lengths.shrink_to_fit();
        self.lengths
    }
}
