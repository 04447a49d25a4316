// Data and checks shared by the benchmarks.

use iforest_server::forest::{IsolationForest, IsolationForestParams};
use linfa::prelude::*;
use ndarray::Array2;

#[path = "../tests/it/support/plain.rs"]
pub(crate) mod plain;

/// The data that `compare/compare.py` also generates: SplitMix64 (Steele, Lea and Flood, 2014),
/// uniform in `[0, 5)`, of shape (rows, columns).
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

pub(crate) fn fit(params: IsolationForestParams, data: &Array2<f64>) -> IsolationForest {
    let dataset = DatasetBase::from(data.view());
    params.fit(&dataset).expect("good data")
}

/// Checks that scores equal the plain evaluation of the trees to the bit, before anything is timed.
pub(crate) fn check(forest: &IsolationForest, rows: &Array2<f64>) {
    let scores = forest.score_samples(rows).expect("good rows");
    for (row, score) in rows.rows().into_iter().zip(&scores).take(1000) {
        let plain = plain::score(forest, &row.to_vec());
        assert_eq!(score.to_bits(), plain.to_bits(), "{row}");
    }
}
