//! The isolation forest as a library.

mod parity;
mod stored;

use iforest_server::forest::IsolationForest;
use linfa::prelude::*;
use ndarray::Array2;

use crate::support::data::readings;

/// A forest of seed 7 and its training data.
fn fitted(rows: usize, columns: usize) -> (IsolationForest, Array2<f64>) {
    let data = readings(1, rows, columns);
    let params = IsolationForest::params().random_state(7);
    let forest = params.fit(&DatasetBase::from(data.clone()));
    (forest.expect("valid data"), data)
}
