//! Compiles perfect trees to planes.

use super::super::perfect::{PADDING, PerfectTrees};
use super::super::search::Search;
use super::kernel::FEW;
use super::{Aligned, Group, LEVELS, Mux, PlaneTrees, Tree};
use crate::total_order::f32_from_key;

/// Nodes of a perfect tree of [`LEVELS`] levels, leaves included, in heap order.
const NODES: usize = 2 << LEVELS;

/// Splits of a group, about: the planes of so many take half a megabyte.
const SPLITS: usize = 8 * 1024;

/// Stands for the length of a node whose rows have different path lengths.
const DIFFERENT: u32 = u32::MAX;

impl PlaneTrees {
    /// `None` for trees of more than [`LEVELS`] levels.
    pub(in super::super) fn new(perfect: &PerfectTrees) -> Option<Self> {
        if perfect.depth() > LEVELS as u32 {
            return None;
        }
        let mut groups = Vec::new();
        let mut splits = Splits::new(perfect.n_features());
        for (thresholds, features, bottoms) in perfect.trees() {
            splits.push(thresholds, features, bottoms, perfect.depth());
            if splits.count >= SPLITS {
                groups.push(splits.compile(perfect.lengths()));
                splits = Splits::new(perfect.n_features());
            }
        }
        if !splits.trees.is_empty() {
            groups.push(splits.compile(perfect.lengths()));
        }
        Some(Self {
            n_features: perfect.n_features(),
            groups,
        })
    }
}

/// The splits of the trees of a group.
struct Splits {
    /// Of each feature: the key of the threshold, and where in `trees` it splits.
    of_features: Vec<Vec<(i32, u32)>>,
    trees: Vec<PerfectTree>,
    count: usize,
}

struct PerfectTree {
    /// For each node, the number of its path length, or [`DIFFERENT`].
    lengths: [u32; NODES],
    /// For each split, its plane; else 0.
    planes: [u16; NODES / 2],
}

impl Splits {
    fn new(n_features: usize) -> Self {
        Self {
            of_features: vec![Vec::new(); n_features],
            trees: Vec::new(),
            count: 0,
        }
    }

    /// Adds a tree of `depth` levels. A split whose sides have the same path length decides nothing
    /// and is dropped.
    fn push(&mut self, thresholds: &[i32], features: &[u8], bottoms: &[u16], depth: u32) {
        let tree = self.trees.len();
        let mut lengths = [DIFFERENT; NODES];
        for node in (1..2 << depth).rev() {
            lengths[node] = if node >> depth == 1 {
                bottoms[node % bottoms.len()].into()
            } else if thresholds[node] == PADDING || lengths[2 * node] == lengths[2 * node + 1] {
                lengths[2 * node]
            } else {
                DIFFERENT
            };
            if lengths[node] == DIFFERENT {
                let at = tree * NODES + node;
                self.of_features[usize::from(features[node])].push((thresholds[node], at as u32));
                self.count += 1;
            }
        }
        self.trees.push(PerfectTree {
            lengths,
            planes: [0; NODES / 2],
        });
    }

    fn compile(mut self, lengths: &[f64]) -> Group {
        // The first plane stands for no split.
        let mut next = 1;
        let mut tables = Vec::with_capacity(self.of_features.len());
        for splits in &mut self.of_features {
            splits.sort_unstable();
            let mut thresholds: Vec<f32> = Vec::with_capacity(splits.len());
            let mut last = None;
            for &(key, at) in &*splits {
                if last.replace(key) != Some(key) {
                    thresholds.push(f32_from_key(key));
                }
                let plane = next + thresholds.len() - 1;
                self.trees[at as usize / NODES].planes[at as usize % NODES] = plane as u16;
            }
            // One more, for the values above all thresholds.
            next += thresholds.len() + 1;
            tables.push(Search::new(&thresholds));
        }
        let mut group = Group {
            thresholds: tables,
            muxes: Vec::new(),
            trees: Vec::with_capacity(self.trees.len()),
            planes: next,
            first_mux: next,
        };
        for tree in &self.trees {
            let tree = group.add_muxes(tree, lengths);
            group.planes = group.planes.max(next + tree.muxes as usize);
            group.trees.push(tree);
        }
        group.muxes.shrink_to_fit();
        group
    }
}

impl Group {
    fn add_muxes(&mut self, tree: &PerfectTree, lengths: &[f64]) -> Tree {
        let before = self.muxes.len();
        let mut splits = tree.planes;
        let mut levels = [0; LEVELS];
        for level in 0..LEVELS {
            let mut here = &mut splits[1 << level..2 << level];
            for &select in &levels[..level] {
                // The splits on the left of the level above, and those on the right.
                let (left, right) = here.split_at_mut(here.len() / 2);
                for (left, &mut right) in left.iter_mut().zip(right) {
                    if *left != 0 && right != 0 {
                        let next = self.first_mux + self.muxes.len() - before;
                        self.muxes.push(Mux {
                            select,
                            left: std::mem::replace(left, next as u16),
                            right,
                        });
                    } else {
                        // No row that counts takes its bit from the other.
                        *left |= right;
                    }
                }
                here = left;
            }
            levels[level] = here[0];
        }
        let mut leaves = Box::new(Aligned([0; 256]));
        let mut numbers = Vec::new();
        // Node, level, and the lowest leaf below: a bit is set where the way goes left.
        let mut pending = vec![(1, 0, 0)];
        while let Some((node, level, leaf)) = pending.pop() {
            let width = 256 >> level;
            if tree.planes.get(node).is_some_and(|&plane| plane != 0) {
                pending.push((2 * node, level + 1, leaf + width / 2));
                pending.push((2 * node + 1, level + 1, leaf));
            } else {
                let length = tree.lengths[node];
                let number = numbers.iter().position(|&number| number == length);
                let number = number.unwrap_or_else(|| {
                    numbers.push(length);
                    numbers.len() - 1
                });
                leaves.0[leaf..leaf + width].fill(number as u8);
            }
        }
        let lengths = numbers.iter().map(|&number| lengths[number as usize]);
        let padding = FEW.saturating_sub(numbers.len());
        Tree {
            muxes: (self.muxes.len() - before) as u32,
            levels,
            leaves,
            lengths: lengths.chain(std::iter::repeat_n(0.0, padding)).collect(),
            has_few_lengths: numbers.len() <= FEW,
        }
    }
}
