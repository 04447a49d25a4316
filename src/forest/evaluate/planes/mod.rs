//! Trees as bit planes, for large batches: a plane has one bit for each of 512 rows.
//!
//! 1. For each feature, the thresholds of all trees are in one ascending table. A value becomes its
//!    rank among them.
//! 2. Each row sets its bit in the plane of its rank. Or-ing the planes from the first to the last
//!    leaves, in the plane of each threshold, the rows that go left there: one instruction compares
//!    512 rows with a threshold, for all trees that have it.
//! 3. A level of a tree is one plane: whether each row goes left on that level. It is selected among
//!    the planes of the level's splits by the planes of the levels above.
//! 4. The planes of the eight levels are transposed to one byte for each row: its leaf.
//! 5. The leaf's path length is added to the row's sum, tree after tree, as in a plain walk.
//!
//! The idea of a bit for each comparison is that of QuickScorer (Lucchese et al., "QuickScorer: A Fast
//! Algorithm to Rank Documents with Additive Ensembles of Regression Trees", 2015), with rows instead of
//! leaves in a word.

mod compile;
mod kernel;

use std::cell::RefCell;

use fearless_simd::Level;

use self::kernel::{add_path_lengths, transpose};
use super::search::{LANES, Search};

/// Rows in a block.
pub(super) const ROWS: usize = 512;

/// Words of a plane. Row `64 i + 8 k + j` is bit `8 k + i` of word `j`, so that transposing needs no
/// more than shifts.
const WORDS: usize = ROWS / 64;

/// Levels of a tree, at most: a leaf is a byte.
const LEVELS: usize = 8;

/// Aligned, because otherwise each plane would lie in two lines of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Aligned<T>(T);

type Plane = Aligned<[u64; WORDS]>;

const ZERO: Plane = Aligned([0; WORDS]);

#[derive(Debug, Clone)]
pub(in crate::forest) struct PlaneTrees {
    n_features: usize,
    groups: Vec<Group>,
}

/// So many trees that their planes stay in the second-level cache.
#[derive(Debug, Clone)]
struct Group {
    /// The thresholds of each feature.
    thresholds: Vec<Search>,
    /// The selections of all trees.
    muxes: Vec<Mux>,
    trees: Vec<Tree>,
    /// Planes that are needed: the first is for splits that do not exist, those of the thresholds of
    /// each feature and one more for each follow, then those of the muxes of one tree.
    planes: usize,
    /// The first plane of a mux.
    first_mux: usize,
}

/// A plane that takes its bits from `left` where `select` has a one, and else from `right`.
#[derive(Debug, Clone, Copy)]
struct Mux {
    select: u16,
    left: u16,
    right: u16,
}

#[derive(Debug, Clone)]
struct Tree {
    /// How many muxes it has.
    muxes: u32,
    /// The plane of each level, the root's first.
    levels: [u16; LEVELS],
    /// Which path length each leaf has. The leaf on the far right is the first.
    leaves: Box<Aligned<[u8; 256]>>,
    /// The path lengths, filled up to at least [`kernel::FEW`].
    lengths: Box<[f64]>,
    /// Whether there are no more than [`kernel::FEW`] of them.
    has_few_lengths: bool,
}

/// The memory to evaluate a block.
#[derive(Default)]
struct Scratch {
    planes: Vec<Plane>,
    /// The values of each feature.
    columns: Vec<Aligned<[f32; ROWS]>>,
}

thread_local! {
    /// Kept for the next block, at most a megabyte for each thread: to return it to the system and to
    /// allocate it again would take as long as half a block.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl PlaneTrees {
    /// The bytes that they hold.
    pub(super) fn memory_size(&self) -> usize {
        let of_group = |group: &Group| {
            let thresholds = group.thresholds.iter().map(Search::memory_size);
            let lengths = group.trees.iter().map(|tree| size_of_val(&*tree.lengths));
            thresholds.chain(lengths).sum::<usize>()
                + size_of::<Mux>() * group.muxes.capacity()
                + (size_of::<Tree>() + 256) * group.trees.capacity()
        };
        self.groups.iter().map(of_group).sum()
    }

    /// Writes the sum of path lengths of each row to `sums`, at most [`ROWS`] of them; `value` returns
    /// the value of a row and a feature.
    #[inline(always)]
    pub(super) fn path_length_sums(
        &self,
        level: Level,
        value: impl Fn(usize, usize) -> f32,
        sums: &mut [f64],
    ) {
        // Not used in place, because the closure for that would not be inlined.
        let mut scratch = SCRATCH.take();
        scratch
            .columns
            .resize(self.n_features, Aligned([0.0; ROWS]));
        // Eight rows at a time, so that their values are read from the first-level cache.
        for first in (0..sums.len()).step_by(8) {
            let rows = first..sums.len().min(first + 8);
            for (feature, column) in scratch.columns.iter_mut().enumerate() {
                for row in rows.clone() {
                    column.0[row] = value(row, feature);
                }
            }
        }
        let mut padded = Aligned([0.0; ROWS]);
        for group in &self.groups {
            group.add_path_lengths(level, &mut scratch, &mut padded);
        }
        SCRATCH.set(scratch);
        sums.copy_from_slice(&padded.0[..sums.len()]);
    }
}

impl Group {
    /// Adds the path lengths of the rows in `scratch` to their sums.
    #[inline(always)]
    fn add_path_lengths(
        &self,
        level: Level,
        scratch: &mut Scratch,
        sums: &mut Aligned<[f64; ROWS]>,
    ) {
        let planes = &mut scratch.planes;
        if planes.len() < self.planes {
            planes.resize(self.planes, ZERO);
        }
        let mut next = 1;
        for (thresholds, column) in self.thresholds.iter().zip(&scratch.columns) {
            let end = next + thresholds.breakpoints().len() + 1;
            let planes = &mut planes[next..end];
            planes.fill(ZERO);
            for (i, values) in column.0.as_chunks::<LANES>().0.iter().enumerate() {
                let mut ranks = [0; LANES];
                thresholds.ranks(values, &mut ranks);
                for (half, ranks) in ranks.as_chunks::<64>().0.iter().enumerate() {
                    let chunk = LANES / 64 * i + half;
                    for (row, &rank) in ranks.iter().enumerate() {
                        planes[rank as usize].0[row % 8] |= 1 << (row / 8 * 8 + chunk);
                    }
                }
            }
            let mut left = ZERO;
            for plane in planes {
                for (left, word) in left.0.iter_mut().zip(&mut plane.0) {
                    *left |= *word;
                    *word = *left;
                }
            }
            next = end;
        }
        let mut muxes = self.muxes.as_slice();
        for tree in &self.trees {
            let (here, later) = muxes.split_at(tree.muxes as usize);
            muxes = later;
            for (at, mux) in (self.first_mux..).zip(here) {
                let [select, left, right] =
                    [mux.select, mux.left, mux.right].map(|plane| planes[usize::from(plane)]);
                let plane = &mut planes[at];
                for word in 0..WORDS {
                    let select = select.0[word];
                    plane.0[word] = (select & left.0[word]) | (!select & right.0[word]);
                }
            }
            // The root's bit counts most.
            let mut leaves = [ZERO; LEVELS];
            for (leaf, &plane) in leaves.iter_mut().rev().zip(&tree.levels) {
                *leaf = planes[usize::from(plane)];
            }
            transpose(&mut leaves);
            add_path_lengths(level, tree, &leaves, sums);
        }
    }
}
