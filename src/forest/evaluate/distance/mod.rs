//! Scores that know how far outside the training rows a row is.
//!
//! Each node of more than one training row has a box, the range of its rows in each feature. If the
//! node is cut at random with a new row among its rows, the cut parts the new row from all others with
//! probability `S / (R + S)`, where `R` is the sum of the box's ranges and `S` the sum of the new
//! row's distances from the box (Guha et al., "Robust Random Cut Forest Based Anomaly Detection On
//! Streams", 2016). The depth of a row is its expected depth: each edge counts with the probability
//! that no node before it parted the row.

mod batch;

use fearless_simd::{Level, dispatch};

use self::batch::Batch;
use super::path_length::{PathLengths, average_path_length, depths};
use super::threshold::round_down_to_f32;
use crate::forest::level::at_level;
use crate::forest::tree::{Boxes, Trees};

/// Sums that are added side by side, and at the end added to each other: in one sum, each addition
/// waits for the one before.
const LANES: usize = 4;

/// How many walks are made side by side: each step of one waits for its step before.
const SIDE_BY_SIDE: usize = 4;

/// With fewer features or values, a [`Batch`] costs more than it saves.
const MIN_BATCH_FEATURES: usize = 4;
const MIN_BATCH_VALUES: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Node {
    threshold: f32,
    /// The feature that splits the node.
    feature: u32,
    /// The children for values up to the threshold, and above it.
    children: [u32; 2],
    /// Index of the node's box.
    bounds: u32,
    /// The sum of the box's ranges. At least the smallest number, so that a box of equal rows needs no
    /// case of its own.
    range: f64,
    /// Index of what the node adds to the depth.
    length: u32,
}

/// What a node adds to the depth of a row.
#[derive(Debug, Clone, Copy)]
struct Length {
    /// For a split, the edge to the child; for a leaf, the average path length that its rows would
    /// add. Counts with the probability that no cut has parted the row.
    below: f64,
    /// For a leaf, the path length from the root, as scikit-learn rounds it.
    from_root: f64,
}

/// The length of all splits, and of the node that ends all walks.
const SPLIT: u32 = 0;
const END: u32 = 1;

/// Trees with boxes.
#[derive(Debug, Clone)]
pub(super) struct DistanceTrees {
    n_features: usize,
    /// The nodes of all trees, and at the end one that is its own child, and that of all leaves.
    nodes: Vec<Node>,
    /// Filled up with the last node to a multiple of [`SIDE_BY_SIDE`].
    roots: Vec<u32>,
    /// Number of trees.
    count: usize,
    lengths: Vec<Length>,
    /// The boxes of nodes of more than one row, and at the end one that no `f32` is outside of, for
    /// the others.
    boxes: Boxes,
}

impl DistanceTrees {
    pub(super) fn new(trees: &Trees, n_features: usize, mut boxes: Boxes) -> Self {
        let path_lengths = PathLengths::new();
        let everything = (boxes.len() / (2 * n_features)) as u32;
        boxes.reserve_exact(2 * n_features);
        boxes.extend(std::iter::repeat_n(f32::MIN, n_features));
        boxes.extend(std::iter::repeat_n(f32::MAX, n_features));
        let range = |bounds: u32| {
            let bounds = &boxes[bounds as usize * 2 * n_features..][..2 * n_features];
            let (least, greatest) = bounds.split_at(n_features);
            let ranges = least.iter().zip(greatest);
            let range: f64 = ranges
                .map(|(&least, &greatest)| f64::from(greatest) - f64::from(least))
                .sum();
            range.max(f64::MIN_POSITIVE)
        };
        let mut lengths = vec![
            Length {
                below: 1.0,
                from_root: 0.0,
            },
            Length {
                below: 0.0,
                from_root: 0.0,
            },
        ];
        let end = trees.node_count() as u32;
        let end_node = Node {
            threshold: f32::INFINITY,
            feature: 0,
            children: [end; 2],
            bounds: everything,
            range: range(everything),
            length: END,
        };
        let mut nodes = Vec::with_capacity(trees.node_count() + 1);
        let mut roots = Vec::with_capacity(trees.len().next_multiple_of(SIDE_BY_SIDE));
        let mut next_box = 0;
        for tree in trees.iter() {
            let root = nodes.len() as u32;
            roots.push(root);
            for (node, depth) in depths(&tree).into_iter().enumerate() {
                let rows = tree.n_node_samples()[node];
                let bounds = if rows > 1 { next_box } else { everything };
                next_box += u32::from(rows > 1);
                nodes.push(match (tree.split(node), tree.children(node)) {
                    (Some((feature, threshold)), Some((left, right))) => Node {
                        threshold: round_down_to_f32(threshold),
                        feature: feature as u32,
                        children: [root + left as u32, root + right as u32],
                        bounds,
                        range: range(bounds),
                        length: SPLIT,
                    },
                    _ => {
                        lengths.push(Length {
                            below: average_path_length(rows),
                            from_root: path_lengths.of_leaf(depth, rows),
                        });
                        Node {
                            bounds,
                            range: range(bounds),
                            length: lengths.len() as u32 - 1,
                            ..end_node
                        }
                    }
                });
            }
        }
        nodes.push(end_node);
        roots.resize(trees.len().next_multiple_of(SIDE_BY_SIDE), end);
        lengths.shrink_to_fit();
        Self {
            n_features,
            nodes,
            roots,
            count: trees.len(),
            lengths,
            boxes,
        }
    }

    /// Number of trees.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The boxes of nodes of more than one row.
    pub(super) fn boxes(&self) -> &[f32] {
        &self.boxes[..self.boxes.len() - 2 * self.n_features]
    }

    /// The bytes that they hold.
    pub(super) fn memory_size(&self) -> usize {
        size_of::<Node>() * self.nodes.capacity()
            + size_of::<u32>() * self.roots.capacity()
            + size_of::<Length>() * self.lengths.capacity()
            + size_of::<f32>() * self.boxes.capacity()
    }

    /// The sum of one row's depths, added in the order of the trees. Values may be infinite.
    pub(super) fn depth_sum(&self, level: Level, row: &[f32]) -> f64 {
        at_level(
            level,
            #[inline(always)]
            || {
                let mut sum = 0.0;
                // No `fold`, which would not be inlined.
                for roots in self.roots.as_chunks::<SIDE_BY_SIDE>().0 {
                    for depth in self.depths(level, roots.map(|root| (root, row))) {
                        sum += depth;
                    }
                }
                sum
            },
        )
    }

    /// Writes the sum of depths of each row. `rows` has the values of one row after the other.
    pub(super) fn depth_sums(&self, level: Level, rows: &[f32], sums: &mut [f64]) {
        if self.n_features >= MIN_BATCH_FEATURES && rows.len() >= MIN_BATCH_VALUES {
            let mut batch = Batch::new(self, rows, sums);
            return dispatch!(level, simd => batch.run(simd));
        }
        at_level(
            level,
            #[inline(always)]
            || {
                sums.fill(0.0);
                // All rows walk down a tree before the next, so that its boxes stay in the cache.
                for &root in &self.roots[..self.count] {
                    let rows = rows.chunks(SIDE_BY_SIDE * self.n_features);
                    for (sums, rows) in sums.chunks_mut(SIDE_BY_SIDE).zip(rows) {
                        let mut starts = [(self.end(), &rows[..self.n_features]); SIDE_BY_SIDE];
                        let rows = rows.chunks_exact(self.n_features);
                        for (start, row) in starts.iter_mut().zip(rows) {
                            *start = (root, row);
                        }
                        for (sum, depth) in sums.iter_mut().zip(self.depths(level, starts)) {
                            *sum += depth;
                        }
                    }
                }
            },
        );
    }

    /// The node that ends all walks.
    fn end(&self) -> u32 {
        self.nodes.len() as u32 - 1
    }

    /// The depths of rows, each below its node.
    #[inline(always)]
    fn depths(&self, level: Level, starts: [(u32, &[f32]); SIDE_BY_SIDE]) -> [f64; SIDE_BY_SIDE] {
        match self.n_features {
            1 => return self.walk_few::<1>(starts),
            2 => return self.walk_few::<2>(starts),
            3 => return self.walk_few::<3>(starts),
            _ => {}
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = level.as_avx2() {
            return self.walk(
                starts,
                #[inline(always)]
                |row, ends| distance_avx2(avx2, row, ends),
            );
        }
        let _ = level;
        #[expect(clippy::redundant_closure, reason = "a function would not be inlined")]
        self.walk(
            starts,
            #[inline(always)]
            |row, ends| distance(row, ends),
        )
    }

    /// With a number of features that the compiler knows.
    #[inline(always)]
    fn walk_few<const FEATURES: usize>(
        &self,
        starts: [(u32, &[f32]); SIDE_BY_SIDE],
    ) -> [f64; SIDE_BY_SIDE] {
        self.walk(
            starts,
            #[inline(always)]
            |row, ends| {
                let (Some(row), Some(least), Some(greatest)) = (
                    row.first_chunk::<FEATURES>(),
                    ends.first_chunk::<FEATURES>(),
                    ends.last_chunk::<FEATURES>(),
                ) else {
                    return 0.0;
                };
                let mut sum = 0.0;
                for feature in 0..FEATURES {
                    sum += excess(row[feature], least[feature], greatest[feature]);
                }
                sum
            },
        )
    }

    /// `distance` returns how far outside a box a row is.
    #[inline(always)]
    fn walk(
        &self,
        starts: [(u32, &[f32]); SIDE_BY_SIDE],
        distance: impl Fn(&[f32], &[f32]) -> f64,
    ) -> [f64; SIDE_BY_SIDE] {
        let [mut a, mut b, mut c, mut d] = starts.map(|(node, row)| Walk {
            row,
            node,
            together: 1.0,
            depth: 0.0,
            from_root: 0.0,
        });
        // One by one: in a loop, the walks would go through memory.
        while [a.node, b.node, c.node, d.node] != [self.end(); SIDE_BY_SIDE] {
            a.step(self, &distance);
            b.step(self, &distance);
            c.step(self, &distance);
            d.step(self, &distance);
        }
        [a.depth(), b.depth(), c.depth(), d.depth()]
    }

    /// Number of features.
    pub(super) fn n_features(&self) -> usize {
        self.n_features
    }

    /// For each feature, the probability that a cut of this feature parts the row from the training
    /// rows, summed over all trees. `None` if the row is inside all boxes on its way.
    pub(super) fn shares(&self, row: &[f32]) -> Option<Vec<f64>> {
        let width = 2 * self.n_features;
        let mut shares = vec![0.0; self.n_features];
        let mut is_outside = false;
        let end = self.nodes.len() as u32 - 1;
        for &root in &self.roots {
            let mut together = 1.0;
            let mut index = root;
            while index != end {
                let node = self.nodes[index as usize];
                let bounds = node.bounds as usize;
                let ends = &self.boxes[bounds * width..][..width];
                let (least, greatest) = ends.split_at(self.n_features);
                let excesses = || {
                    let ends = least.iter().zip(greatest);
                    row.iter().zip(ends).map(|(&value, (&least, &greatest))| {
                        // Infinities would have no shares.
                        excess(value, least, greatest).min(f64::from(f32::MAX))
                    })
                };
                let distance: f64 = excesses().sum();
                if distance > 0.0 {
                    is_outside = true;
                    let range = node.range;
                    for (share, excess) in shares.iter_mut().zip(excesses()) {
                        *share += together * excess / (range + distance);
                    }
                    together *= range / (range + distance);
                }
                let is_right = row[node.feature as usize] > node.threshold;
                index = node.children[usize::from(is_right)];
            }
        }
        is_outside.then_some(shares)
    }

    /// All values at which the depth of a forest over one feature has a step or a bend, ascending:
    /// between two of them it is convex.
    pub(super) fn edges(&self) -> Vec<f32> {
        let splits = self.nodes.iter().filter(|node| node.length == SPLIT);
        let mut edges: Vec<f32> = splits
            .map(|node| node.threshold)
            .chain(self.boxes().iter().copied())
            // -0 and 0 are one edge.
            .map(|edge| edge + 0.0)
            .collect();
        edges.sort_unstable_by(f32::total_cmp);
        edges.dedup();
        edges
    }
}

/// A row on its way down a tree.
struct Walk<'a> {
    row: &'a [f32],
    node: u32,
    /// The probability that no cut so far parted the row.
    together: f64,
    depth: f64,
    from_root: f64,
}

impl Walk<'_> {
    #[inline(always)]
    fn step(&mut self, trees: &DistanceTrees, distance: impl Fn(&[f32], &[f32]) -> f64) {
        let node = &trees.nodes[self.node as usize];
        let width = 2 * self.row.len();
        let ends = &trees.boxes[node.bounds as usize * width..][..width];
        // Exactly 1 inside the box.
        self.together *= node.range / (node.range + distance(self.row, ends));
        let length = &trees.lengths[node.length as usize];
        self.depth += self.together * length.below;
        self.from_root += length.from_root;
        let is_right = self.row[node.feature as usize] > node.threshold;
        self.node = node.children[usize::from(is_right)];
    }

    #[inline(always)]
    fn depth(&self) -> f64 {
        depth_at_leaf(self.together, self.depth, self.from_root)
    }
}

/// The depth of a row that has arrived at a leaf: see [`Walk`].
#[inline(always)]
fn depth_at_leaf(together: f64, depth: f64, from_root: f64) -> f64 {
    // Inside all boxes the bits are scikit-learn's. Outside, the minimum keeps the depth from rising by
    // a rounding error.
    if together == 1.0 {
        from_root
    } else {
        depth.min(from_root)
    }
}

/// How far a value is outside a range.
#[inline(always)]
fn excess(value: f32, least: f32, greatest: f32) -> f64 {
    let value = f64::from(value);
    let below = f64::from(least) - value;
    let above = value - f64::from(greatest);
    // `f64::max` would take care of NaN, which takes three times as long.
    let outside = if below > above { below } else { above };
    if outside > 0.0 { outside } else { 0.0 }
}

/// The sum of a row's distances from a box in each feature.
#[inline(always)]
fn distance(row: &[f32], bounds: &[f32]) -> f64 {
    let (least, greatest) = bounds.split_at(row.len());
    let (rows, row) = row.as_chunks::<LANES>();
    let (leasts, least) = least.as_chunks::<LANES>();
    let (greatests, greatest) = greatest.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for ((row, least), greatest) in rows.iter().zip(leasts).zip(greatests) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += excess(row[lane], least[lane], greatest[lane]);
        }
    }
    add_rest(sums, row, least, greatest)
}

/// Adds the distances in the last features, fewer than [`LANES`].
#[inline(always)]
fn add_rest(sums: [f64; LANES], row: &[f32], least: &[f32], greatest: &[f32]) -> f64 {
    let [mut a, mut b, mut c, d] = sums;
    // One by one: in a loop, the sums would go through memory.
    if let (&[value, ..], &[least, ..], &[greatest, ..]) = (row, least, greatest) {
        a += excess(value, least, greatest);
    }
    if let (&[_, value, ..], &[_, least, ..], &[_, greatest, ..]) = (row, least, greatest) {
        b += excess(value, least, greatest);
    }
    if let (&[_, _, value], &[_, _, least], &[_, _, greatest]) = (row, least, greatest) {
        c += excess(value, least, greatest);
    }
    (a + b) + (c + d)
}

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel! {
    /// As `distance`: the compiler puts no more than two lanes into a vector.
    #[inline]
    fn distance_avx2(_avx2: Avx2, row: &[f32], bounds: &[f32]) -> f64 {
        use fearless_simd::{SimdBase, SimdInto, f32x4, f64x4};
        use std::arch::x86_64::{
            __m128, _mm256_add_pd, _mm256_cvtps_pd, _mm256_max_pd, _mm256_setzero_pd, _mm256_sub_pd,
        };

        let wide = |values: &[f32; LANES]| {
            let narrow: __m128 = f32x4::from_slice(_avx2, values).into();
            _mm256_cvtps_pd(narrow)
        };
        let (least, greatest) = bounds.split_at(row.len());
        let (rows, row) = row.as_chunks::<LANES>();
        let (leasts, least) = least.as_chunks::<LANES>();
        let (greatests, greatest) = greatest.as_chunks::<LANES>();
        let mut sums = _mm256_setzero_pd();
        for ((row, least), greatest) in rows.iter().zip(leasts).zip(greatests) {
            let row = wide(row);
            let below = _mm256_sub_pd(wide(least), row);
            let above = _mm256_sub_pd(row, wide(greatest));
            let outside = _mm256_max_pd(_mm256_max_pd(below, above), _mm256_setzero_pd());
            sums = _mm256_add_pd(sums, outside);
        }
        let sums: f64x4<_> = sums.simd_into(_avx2);
        add_rest(sums.into(), row, least, greatest)
    }
}
