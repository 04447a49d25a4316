//! How much memory a forest takes, estimated before it is grown or decoded.
//!
//! The estimates are meant to be near the truth for large forests, and rather above it than below.

use super::hyperparams::IsolationForestValidParams;

/// Bytes of a node in the trees: two indices, a threshold and a count.
const TREE_NODE: usize = 20;

/// How much larger a growing `Vec` may be than its content, while it moves.
const GROWTH: usize = 2;

/// Bytes of a node in a compiled forest, at most: a node of a plain walk and the path length of a
/// leaf. A step function takes 7.
const COMPILED_NODE: usize = 16;

/// Bytes of a node in a padded tree, 7, and what it takes in planes, at most.
const PADDED_NODE: usize = 16;

/// Bytes of a row while a single feature is sorted: rank, order, value and target.
const SORTED_ROW: usize = 36;

/// Bytes of a node in an encoded version.
const ENCODED_NODE: usize = 12;

/// The memory to fit a forest to `rows` rows, in bytes, the forest included and the rows excluded.
pub(crate) fn fit_memory(
    params: &IsolationForestValidParams,
    rows: usize,
    features: usize,
) -> usize {
    let rows_per_tree = rows_per_tree(params, rows);
    let trees = params.n_estimators();
    let drawn = trees.saturating_mul(rows_per_tree);
    let sorted = if features == 1 && rows <= drawn.saturating_mul(2) {
        SORTED_ROW.saturating_mul(rows)
    } else {
        0
    };
    // Each thread that grows trees may permute all rows, twice where one feature is sorted.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let is_permuted = rows_per_tree < rows && rows_per_tree > rows / 100;
    let permutation = if is_permuted { 2 * 5 * rows } else { rows / 4 };
    let targets_or_scores = size_of::<f64>().saturating_mul(rows);
    // The trees of each thread, and all of them.
    let growing = 2 * TREE_NODE;
    [
        targets_or_scores,
        sorted,
        permutation.saturating_mul(threads),
        nodes(trees, rows_per_tree).saturating_mul(growing + ENCODED_NODE),
        compile_memory(trees, rows_per_tree, features),
    ]
    .into_iter()
    .fold(0, usize::saturating_add)
}

/// The memory that distances add to a fit, in bytes, where each tree is grown from `rows_per_tree`
/// rows: the boxes, as grown and compiled.
pub(crate) fn distance_memory(
    params: &IsolationForestValidParams,
    rows: usize,
    features: usize,
) -> usize {
    let rows_per_tree = rows_per_tree(params, rows);
    // Half of the nodes have a single row.
    let boxes = nodes(params.n_estimators(), rows_per_tree) / 2;
    let values = boxes.saturating_mul(2 * features);
    // They are encoded too.
    boxes_memory(values).saturating_add(size_of::<f32>().saturating_mul(values))
}

fn rows_per_tree(params: &IsolationForestValidParams, rows: usize) -> usize {
    let rows_per_tree = u32::try_from(rows)
        .ok()
        .and_then(|rows| params.rows_per_tree(rows).ok());
    // A fit without is refused.
    rows_per_tree.unwrap_or(0) as usize
}

/// The memory to compile boxes of so many numbers, in bytes, the compiled ones included.
pub(crate) fn boxes_memory(values: usize) -> usize {
    (GROWTH * size_of::<f32>() + size_of::<f64>()).saturating_mul(values)
}

/// The memory to decode a forest, in bytes, the forest included and its encoded form excluded.
pub(crate) fn decode_memory(trees: usize, rows_per_tree: usize, features: usize) -> usize {
    let decoding = GROWTH * TREE_NODE;
    nodes(trees, rows_per_tree)
        .saturating_mul(decoding)
        .saturating_add(compile_memory(trees, rows_per_tree, features))
}

/// The memory to compile a forest, in bytes, the compiled forest included.
fn compile_memory(trees: usize, rows_per_tree: usize, features: usize) -> usize {
    let depth = rows_per_tree.max(2).next_power_of_two().trailing_zeros();
    let nodes = nodes(trees, rows_per_tree);
    match (features, depth) {
        (2.., ..=8) => (256 * PADDED_NODE).saturating_mul(trees),
        (2.., ..=10) => (1024 * PADDED_NODE).saturating_mul(trees),
        _ => nodes
            .saturating_mul(GROWTH * COMPILED_NODE)
            // For each tree, the path lengths in a block of intervals.
            .saturating_add(trees.saturating_mul(128)),
    }
}

/// About the most nodes that trees have. A tree of a single row for each leaf would have nearly two
/// for each row, but the depth of trees is limited.
fn nodes(trees: usize, rows_per_tree: usize) -> usize {
    let nodes = (rows_per_tree + rows_per_tree / 4 + 4).min(2 * rows_per_tree);
    trees.saturating_mul(nodes)
}

#[cfg(test)]
mod tests {
    use linfa::traits::Fit;
    use linfa::{DatasetBase, ParamGuard};
    use ndarray::Array2;

    use super::*;
    use crate::forest::{IsolationForest, MaxSamples, NumpyRandom};

    // For readings that are spread evenly, trees have the most nodes.
    #[test]
    fn trees_have_no_more_nodes_than_estimated() {
        for features in [1, 2, 10] {
            for rows_per_tree in [1, 2, 3, 4, 7, 16, 100, 256, 400, 1024, 3000] {
                let mut random = NumpyRandom::new(7);
                let rows = Array2::from_shape_simple_fn((3000, features), || random.uniform());
                let params = IsolationForest::params()
                    .n_estimators(20)
                    .max_samples(MaxSamples::Count(rows_per_tree))
                    .random_state(1);
                let params = params.check().expect("valid");
                let forest = params.fit(&DatasetBase::from(rows)).expect("it fits");
                let count: usize = forest.trees().map(|tree| tree.node_count()).sum();
                let estimate = nodes(20, rows_per_tree);
                assert!(count <= estimate, "{features}, {rows_per_tree}: {count}");
            }
        }
    }
}
