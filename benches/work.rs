// The data and the checks that both benchmarks share.

use iforest_server::forest::{IsolationForest, IsolationForestParams};
use linfa::prelude::*;
use ndarray::Array2;

/// The data that `compare/compare.py` gives to the others: SplitMix64 (Steele, Lea and Flood,
/// 2014), uniform in 0 to 5.
pub(crate) fn data(rows: usize, columns: usize) -> Array2<f64> {
    let mut state = 1u64;
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        5.0 * ((z ^ (z >> 31)) >> 11) as f64 * 2f64.powi(-53)
    })
}

pub(crate) fn params() -> IsolationForestParams {
    IsolationForest::params()
        .contamination(0.05)
        .random_state(42)
}

pub(crate) fn fit(data: &Array2<f64>) -> IsolationForest {
    let dataset = DatasetBase::from(data.view());
    params().fit(&dataset).expect("good data")
}

/// Compares scores with the plain evaluation of the trees, to the bit, before anything is timed.
pub(crate) fn check(forest: &IsolationForest, rows: &Array2<f64>) {
    let c = |n: u32| match n {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => {
            let n = f64::from(n);
            2.0 * ((n - 1.0).ln() + 0.5772156649015329) - 2.0 * (n - 1.0) / n
        }
    };
    let denominator = forest.trees().len() as f64 * c(forest.n_samples().min(256) as u32);
    let scores = forest.score_samples(rows).expect("good rows");
    for (row, score) in rows.rows().into_iter().zip(&scores).take(1000) {
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
        let plain = -std::hint::black_box(2f64).powf(-(sum / denominator));
        assert_eq!(score.to_bits(), plain.to_bits(), "{row}");
    }
}
