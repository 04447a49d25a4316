//! Reference evaluation of a forest, as scikit-learn does it: walk down each tree, add the path
//! lengths in the order of the trees, then take the power. Every fast path must equal it bit for bit.
//! The benchmarks use it too.

use iforest_server::forest::IsolationForest;

/// Average path length of an unsuccessful search among `n` rows.
fn c(n: u32) -> f64 {
    match n {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => {
            let n = f64::from(n);
            2.0 * ((n - 1.0).ln() + 0.5772156649015329) - 2.0 * (n - 1.0) / n
        }
    }
}

/// scikit-learn's `score_samples` of one row.
pub(crate) fn score(forest: &IsolationForest, row: &[f64]) -> f64 {
    let sum = forest.trees().fold(0.0, |sum, tree| {
        let (mut node, mut depth) = (0, 1.0);
        while let (Some((feature, threshold)), Some((left, right))) =
            (tree.split(node), tree.children(node))
        {
            let goes_left = f64::from(row[feature] as f32) <= threshold;
            node = if goes_left { left } else { right };
            depth += 1.0;
        }
        sum + (depth + c(tree.n_node_samples()[node]) - 1.0)
    });
    let denominator = forest.trees().len() as f64 * c(forest.max_samples() as u32);
    -std::hint::black_box(2f64).powf(-(sum / denominator))
}

/// Whether a score equals the plain one in every bit. Where the C library is not glibc, the plain one
/// may differ in the last bit, since it takes the library's logarithm and power.
#[allow(dead_code, reason = "the benchmarks do not compare")]
pub(crate) fn is_equal(score: f64, plain: f64) -> bool {
    let is_exact = cfg!(all(target_os = "linux", target_env = "gnu"));
    score.to_bits() == plain.to_bits() || !is_exact && (score - plain).abs() < 3e-16
}
