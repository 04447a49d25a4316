//! Path lengths of leaves, and the anomaly score computed from their sum.

use fearless_simd::Level;

use crate::forest::elementary::{ln, power_of_half};
use crate::forest::tree::Tree;

/// Average path length of an unsuccessful search in a binary search tree of `n` rows: equation 1
/// of Liu, Ting and Zhou (2008), with scikit-learn's values for 1 and 2 rows and its order of
/// operations.
pub(super) fn average_path_length(n: u32) -> f64 {
    /// numpy's `euler_gamma`.
    const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
    match n {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => {
            let n = f64::from(n);
            2.0 * (ln(n - 1.0) + EULER_GAMMA) - 2.0 * (n - 1.0) / n
        }
    }
}

/// The anomaly score of the paper (equation 2), in `(0, 1]`: greater for more isolated rows.
///
/// For loops within code for the level, as [`power_of_half`] is.
#[inline(always)]
pub(super) fn anomaly_score(level: Level, path_length_sum: f64, denominator: f64) -> f64 {
    let exponent = if denominator == 0.0 {
        1.0
    } else {
        path_length_sum / denominator
    };
    power_of_half(level, exponent)
}

/// Computes path lengths of leaves. Most leaves hold few rows, so their averages are tabulated.
pub(super) struct PathLengths(Vec<f64>);

impl PathLengths {
    pub(super) fn new() -> Self {
        Self((0..256).map(average_path_length).collect())
    }

    /// The path length of a leaf with `rows` rows: the edges from the root, and the average path
    /// length that the rows would add.
    pub(super) fn of_leaf(&self, edges: u32, rows: u32) -> f64 {
        let average = self
            .0
            .get(rows as usize)
            .copied()
            .unwrap_or_else(|| average_path_length(rows));
        // scikit-learn counts the root as depth 1 and subtracts the 1 last.
        f64::from(edges + 1) + average - 1.0
    }
}

/// The number of edges from the root to each node.
pub(super) fn depths(tree: &Tree<'_>) -> Vec<u32> {
    let mut depths = vec![0; tree.node_count()];
    for node in 0..tree.node_count() {
        if let Some((left, right)) = tree.children(node) {
            depths[left] = depths[node] + 1;
            depths[right] = depths[node] + 1;
        }
    }
    depths
}
