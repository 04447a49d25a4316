//! Scores that know how far outside the training rows a row is.
//!
//! Each node of more than one training row has a box, the range of its rows in each feature. If the
//! node is cut at random with a new row among its rows, the cut parts the new row from all others with
//! probability `S / (R + S)`, where `R` is the sum of the box's ranges and `S` the sum of the new
//! row's distances from the box (Guha et al., "Robust Random Cut Forest Based Anomaly Detection On
//! Streams", 2016). The depth of a row is its expected depth: each edge counts with the probability
//! that no node before it parted the row.

use super::path_length::{PathLengths, average_path_length, depths};
use super::threshold::round_down_to_f32;
use crate::forest::tree::{Boxes, Trees};

/// Sums that are added side by side, and at the end added to each other: in one sum, each addition
/// waits for the one before.
const LANES: usize = 4;

/// How many trees are walked side by side: each step of one waits for its step before.
const TREES: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Node {
    threshold: f32,
    /// The feature that splits the node.
    feature: u32,
    /// The children for values up to the threshold, and above it.
    children: [u32; 2],
    /// Index of the node's box.
    bounds: u32,
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
    /// Filled up with the last node to a multiple of [`TREES`].
    roots: Vec<u32>,
    /// Number of trees.
    count: usize,
    lengths: Vec<Length>,
    /// The boxes of nodes of more than one row, and at the end one that no `f32` is outside of, for
    /// the others.
    boxes: Boxes,
    /// The sum of each box's ranges. At least the smallest number, so that a box of equal rows needs no
    /// case of its own.
    widths: Vec<f64>,
}

impl DistanceTrees {
    pub(super) fn new(trees: &Trees, n_features: usize, mut boxes: Boxes) -> Self {
        let path_lengths = PathLengths::new();
        let everything = (boxes.len() / (2 * n_features)) as u32;
        boxes.reserve_exact(2 * n_features);
        boxes.extend(std::iter::repeat_n(f32::MIN, n_features));
        boxes.extend(std::iter::repeat_n(f32::MAX, n_features));
        let widths = boxes
            .chunks_exact(2 * n_features)
            .map(|bounds| {
                let (least, greatest) = bounds.split_at(n_features);
                let ranges = least.iter().zip(greatest);
                let width: f64 = ranges
                    .map(|(&least, &greatest)| f64::from(greatest) - f64::from(least))
                    .sum();
                width.max(f64::MIN_POSITIVE)
            })
            .collect();
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
            length: END,
        };
        let mut nodes = Vec::with_capacity(trees.node_count() + 1);
        let mut roots = Vec::with_capacity(trees.len().next_multiple_of(TREES));
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
                        length: SPLIT,
                    },
                    _ => {
                        lengths.push(Length {
                            below: average_path_length(rows),
                            from_root: path_lengths.of_leaf(depth, rows),
                        });
                        Node {
                            bounds,
                            length: lengths.len() as u32 - 1,
                            ..end_node
                        }
                    }
                });
            }
        }
        nodes.push(end_node);
        roots.resize(trees.len().next_multiple_of(TREES), end);
        lengths.shrink_to_fit();
        Self {
            n_features,
            nodes,
            roots,
            count: trees.len(),
            lengths,
            boxes,
            widths,
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
            + size_of::<f64>() * self.widths.capacity()
    }

    /// The sum of one row's depths, added in the order of the trees. Values may be infinite.
    pub(super) fn depth_sum(&self, row: &[f32]) -> f64 {
        if self.n_features == 1 {
            let value = row[0];
            return self.sum_depths(row, |bounds| excess(value, bounds[0], bounds[1]));
        }
        self.sum_depths(row, |bounds| distance(row, bounds))
    }

    /// `distance` returns how far outside a box the row is.
    #[inline(always)]
    fn sum_depths(&self, row: &[f32], distance: impl Fn(&[f32]) -> f64) -> f64 {
        let width = 2 * self.n_features;
        let end = self.nodes.len() as u32 - 1;
        let (groups, _) = self.roots.as_chunks::<TREES>();
        groups.iter().fold(0.0, |sum, roots| {
            let mut indices = *roots;
            // The probability that no cut so far parted the row.
            let mut together = [1.0; TREES];
            let mut depths = [0.0; TREES];
            let mut from_root = [0.0; TREES];
            while indices != [end; TREES] {
                for tree in 0..TREES {
                    let node = self.nodes[indices[tree] as usize];
                    let bounds = node.bounds as usize;
                    let distance = distance(&self.boxes[bounds * width..][..width]);
                    let range = self.widths[bounds];
                    // Exactly 1 inside the box.
                    together[tree] *= range / (range + distance);
                    let length = self.lengths[node.length as usize];
                    depths[tree] += together[tree] * length.below;
                    from_root[tree] += length.from_root;
                    let is_right = row[node.feature as usize] > node.threshold;
                    indices[tree] = node.children[usize::from(is_right)];
                }
            }
            (0..TREES).fold(sum, |sum, tree| {
                // Inside all boxes the bits are scikit-learn's. Outside, the minimum keeps the depth
                // from rising by a rounding error.
                let is_inside = together[tree] == 1.0;
                let outside = depths[tree].min(from_root[tree]);
                sum + if is_inside { from_root[tree] } else { outside }
            })
        })
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
                    let range = self.widths[bounds];
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
    let mut sums = [0.0; LANES];
    let (rows, row) = row.as_chunks::<LANES>();
    let (leasts, least) = least.as_chunks::<LANES>();
    let (greatests, greatest) = greatest.as_chunks::<LANES>();
    for ((row, least), greatest) in rows.iter().zip(leasts).zip(greatests) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += excess(row[lane], least[lane], greatest[lane]);
        }
    }
    for (((sum, &value), &least), &greatest) in sums.iter_mut().zip(row).zip(least).zip(greatest) {
        *sum += excess(value, least, greatest);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}
