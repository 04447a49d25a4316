//! Grows the trees of a forest.

use rayon::prelude::*;

use super::boxes::{Boxes, push_boxes};
use super::trees::{Trees, max_depth};
use super::{exact, sorted};
use crate::forest::error::FitError;
use crate::forest::random::{RowSampler, tree_streams};

/// The input of a fit, shared by all trees.
pub(in crate::forest) struct Growth<'a, V> {
    /// Returns the value of a row and a feature.
    pub(in crate::forest) value: V,
    /// One random target per row.
    pub(in crate::forest) targets: &'a [f64],
    pub(in crate::forest) n_rows: u32,
    pub(in crate::forest) n_features: u32,
    /// Rows per tree.
    pub(in crate::forest) max_samples: u32,
    /// Whether to make the boxes of the nodes.
    pub(in crate::forest) with_boxes: bool,
}

/// The rows of one feature, sorted by value.
struct SortedColumn {
    /// Rank of each row.
    rank: Vec<u32>,
    /// Value and target of each rank.
    rows: Vec<(f32, f64)>,
}

/// Forests whose trees draw no more values than this in total are grown on one thread.
const MAX_SEQUENTIAL_VALUES: usize = 100 * 1024;

/// Sorting pays up to this ratio of all rows to the rows that the trees draw in total. Beyond it,
/// most sorted rows are never drawn, and each takes 28 bytes.
const MAX_SORTED_RATIO: usize = 2;

impl<V: Fn(u32, u32) -> f32 + Sync> Growth<'_, V> {
    /// Grows one tree per seed. Trees are independent, so large forests are grown in parallel.
    pub(in crate::forest) fn grow(&self, seeds: &[u32]) -> Result<(Trees, Boxes), FitError> {
        let column = self.sorted_column(seeds.len());
        if seeds.len() * (self.max_samples * self.n_features) as usize <= MAX_SEQUENTIAL_VALUES {
            return self.grow_sequentially(seeds, column.as_ref());
        }
        let chunk_size = seeds.len().div_ceil(4 * rayon::current_num_threads());
        let parts: Vec<_> = seeds
            .par_chunks(chunk_size)
            .map(|seeds| self.grow_sequentially(seeds, column.as_ref()))
            .collect();
        parts
            .into_iter()
            .try_fold(<(Trees, Boxes)>::default(), |mut all, part| {
                let (trees, mut boxes) = part?;
                all.0.append(trees)?;
                all.1.append(&mut boxes);
                Ok(all)
            })
    }

    fn grow_sequentially(
        &self,
        seeds: &[u32],
        column: Option<&SortedColumn>,
    ) -> Result<(Trees, Boxes), FitError> {
        let (n_rows, max_depth) = (self.n_rows, max_depth(self.max_samples));
        // Most trees have about as many nodes as rows.
        let nodes = seeds.len() * self.max_samples as usize;
        let mut trees = Trees::with_capacity(nodes.min(1 << 20));
        let mut row_sampler = RowSampler::new(n_rows, self.max_samples, None);
        let ranks = column.map(|column| column.rank.as_slice());
        let mut rank_sampler = RowSampler::new(n_rows, self.max_samples, ranks);
        let mut boxes = Boxes::default();
        let mut exact = exact::Grower::default();
        let mut sorted = sorted::Grower::default();
        for (row_random, splitter) in tree_streams(seeds) {
            let root = trees.node_count();
            let grown = column.is_some_and(|column| {
                let rows = rank_sampler
                    .draw(row_random.clone())
                    .iter()
                    .map(|&rank| column.rows[rank as usize]);
                sorted
                    .grow(rows, splitter.clone(), max_depth, &mut trees)
                    .is_ok()
            });
            if !grown {
                trees.truncate(root);
                let rows = row_sampler.draw(row_random.clone());
                let values = (0..self.n_features)
                    .flat_map(|feature| rows.iter().map(move |&row| (self.value)(row, feature)));
                let targets = rows.iter().map(|&row| self.targets[row as usize]);
                let n_features = self.n_features;
                exact.grow(values, targets, n_features, splitter, max_depth, &mut trees);
            }
            trees.end_tree()?;
            if self.with_boxes
                && let Some(tree) = trees.last()
            {
                let rows = row_sampler.draw(row_random);
                let n_features = self.n_features as usize;
                push_boxes(&tree, rows, n_features, &self.value, &mut boxes);
            }
        }
        Ok((trees, boxes))
    }

    /// The rows sorted by value, if `n_trees` trees can be grown from them and grow faster.
    fn sorted_column(&self, n_trees: usize) -> Option<SortedColumn> {
        let drawn = n_trees.saturating_mul(self.max_samples as usize);
        let pays = self.n_rows as usize <= drawn.saturating_mul(MAX_SORTED_RATIO);
        if self.n_features > 1 || self.max_samples > sorted::MAX_ROWS || !pays {
            return None;
        }
        let mut order: Vec<(f32, u32)> = (0..self.n_rows)
            .map(|row| ((self.value)(row, 0), row))
            .collect();
        order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let mut rank = vec![0; order.len()];
        for (i, &(_, row)) in order.iter().enumerate() {
            rank[row as usize] = i as u32;
        }
        let rows = order
            .iter()
            .map(|&(value, row)| (value, self.targets[row as usize]))
            .collect();
        Some(SortedColumn { rank, rows })
    }
}
