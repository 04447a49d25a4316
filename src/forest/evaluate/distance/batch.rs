//! Depths of many rows: all of them go down a tree together, node by node, so that a box is read once
//! for all rows that reach its node.

use fearless_simd::{Simd, SimdBase, f64x4};

use super::{DistanceTrees, LANES, SPLIT, depth_at_leaf};

/// Values of a row, or ends of a box. Aligned, because otherwise many would lie in two lines of the
/// cache.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
struct Values([f64; LANES]);

/// Rows on their way down the trees.
pub(super) struct Batch<'a> {
    trees: &'a DistanceTrees,
    /// The values of one row after the other, each row filled up with zeros.
    rows: Vec<Values>,
    /// The least and the greatest values of the node's box, filled up with zeros, so that these add
    /// no distance.
    bounds: Vec<Values>,
    states: Vec<State>,
    /// Indices of the rows. Those of a node lie side by side.
    order: Vec<u32>,
    /// Those that go right.
    right: Vec<u32>,
    /// The nodes to the right that rows wait for, and the ends of these rows.
    pending: Vec<(u32, usize)>,
    /// The sums of depths, in the order of the trees.
    sums: &'a mut [f64],
}

/// A row on its way down a tree.
#[derive(Debug, Clone, Copy)]
struct State {
    /// The probability that no cut so far parted the row.
    together: f64,
    depth: f64,
}

const AT_THE_ROOT: State = State {
    together: 1.0,
    depth: 0.0,
};

impl<'a> Batch<'a> {
    /// `rows` has the values of one row after the other.
    pub(super) fn new(trees: &'a DistanceTrees, rows: &[f32], sums: &'a mut [f64]) -> Self {
        let width = trees.n_features.div_ceil(LANES);
        let count = sums.len();
        let mut wide = vec![Values::default(); width * count];
        for (wide, row) in wide.chunks_mut(width).zip(rows.chunks(trees.n_features)) {
            widen(row, wide);
        }
        sums.fill(0.0);
        Self {
            trees,
            rows: wide,
            bounds: vec![Values::default(); 2 * width],
            states: vec![AT_THE_ROOT; count],
            order: (0..count as u32).collect(),
            right: vec![0; count],
            pending: Vec::new(),
            sums,
        }
    }

    /// Adds the depths.
    #[inline(always)]
    pub(super) fn run<S: Simd>(&mut self, simd: S) {
        // With a width that the compiler knows, the loop over the features is unrolled.
        match self.bounds.len() / 2 {
            1 => self.walk_all::<S, 1>(simd),
            2 => self.walk_all::<S, 2>(simd),
            3 => self.walk_all::<S, 3>(simd),
            4 => self.walk_all::<S, 4>(simd),
            5 => self.walk_all::<S, 5>(simd),
            6 => self.walk_all::<S, 6>(simd),
            _ => self.walk_all::<S, 0>(simd),
        }
    }

    /// `WIDTH` is that of a row in [`Values`], or 0.
    #[inline(always)]
    fn walk_all<S: Simd, const WIDTH: usize>(&mut self, simd: S) {
        for &root in &self.trees.roots[..self.trees.count] {
            self.walk::<S, WIDTH>(simd, root);
        }
    }

    /// Takes all rows down a tree, and adds their depths to their sums.
    #[inline(always)]
    fn walk<S: Simd, const WIDTH: usize>(&mut self, simd: S, root: u32) {
        let trees = self.trees;
        let features = trees.n_features;
        let width = if WIDTH == 0 {
            self.bounds.len() / 2
        } else {
            WIDTH
        };
        self.states.fill(AT_THE_ROOT);
        let (mut node, mut rows) = (root, 0..self.order.len());
        loop {
            let at = &trees.nodes[node as usize];
            let ends = &trees.boxes[at.bounds as usize * 2 * features..][..2 * features];
            let (least, greatest) = ends.split_at(features);
            widen(least, &mut self.bounds[..width]);
            widen(greatest, &mut self.bounds[width..]);
            let bounds = &self.bounds[..2 * width];
            // Exactly 1 inside the box.
            let stays = |row: &[Values]| at.range / (at.range + distance(simd, row, bounds));
            if at.length == SPLIT {
                let (mut left, mut right) = (rows.start, 0);
                let feature = at.feature as usize;
                let threshold = f64::from(at.threshold);
                for i in rows.clone() {
                    let index = self.order[i];
                    let row = &self.rows[index as usize * width..][..width];
                    let state = &mut self.states[index as usize];
                    state.together *= stays(row);
                    state.depth += state.together;
                    let is_right = row[feature / LANES].0[feature % LANES] > threshold;
                    // Without a branch, which would be mispredicted.
                    self.order[left] = index;
                    self.right[right] = index;
                    left += usize::from(!is_right);
                    right += usize::from(is_right);
                }
                self.order[left..rows.end].copy_from_slice(&self.right[..right]);
                if left == rows.start {
                    node = at.children[1];
                } else {
                    if left < rows.end {
                        self.pending.push((at.children[1], rows.end));
                    }
                    node = at.children[0];
                    rows.end = left;
                }
                continue;
            }
            let length = trees.lengths[at.length as usize];
            for &index in &self.order[rows.clone()] {
                let mut state = self.states[index as usize];
                // A leaf of one row adds nothing, and has the box that no value is outside of.
                if length.below > 0.0 {
                    state.together *= stays(&self.rows[index as usize * width..][..width]);
                    state.depth += state.together * length.below;
                }
                self.sums[index as usize] +=
                    depth_at_leaf(state.together, state.depth, length.from_root);
            }
            let Some((next, end)) = self.pending.pop() else {
                break;
            };
            node = next;
            rows = rows.end..end;
        }
    }
}

/// The sum of a row's distances from a box in each feature, added in the same order as for a single
/// row: the zeros at the end change no bit.
#[inline(always)]
fn distance<S: Simd>(simd: S, row: &[Values], bounds: &[Values]) -> f64 {
    let load = |values: &Values| f64x4::from_slice(simd, &values.0);
    let zero = f64x4::splat(simd, 0.0);
    let mut sums = zero;
    let (least, greatest) = bounds.split_at(row.len());
    for ((row, least), greatest) in row.iter().zip(least).zip(greatest) {
        let row = load(row);
        sums += (load(least) - row).max(row - load(greatest)).max(zero);
    }
    let [a, b, c, d]: [f64; 4] = sums.into();
    (a + b) + (c + d)
}

/// Converts values. The rest of the last ones stays as it is.
#[inline(always)]
fn widen(narrow: &[f32], wide: &mut [Values]) {
    let (whole, rest) = narrow.as_chunks::<LANES>();
    for (wide, narrow) in wide.iter_mut().zip(whole) {
        wide.0 = narrow.map(f64::from);
    }
    if let Some(last) = wide.get_mut(whole.len()) {
        for (wide, &narrow) in last.0.iter_mut().zip(rest) {
            *wide = f64::from(narrow);
        }
    }
}
