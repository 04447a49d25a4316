//! The isolation forest: scikit-learn 1.9's `IsolationForest` under PyOD 3.6's `IForest`, to the
//! bit, as a linfa algorithm.
//!
//! With the same `random_state` and data, the trees, scores, offset, threshold and labels equal
//! those of PyOD in every bit, on any feature count. (On platforms whose C library is not glibc
//! a score, made of logarithms and a power, may differ in its last bit.) Knows nothing of scaling or HTTP.
//!
//! * `hyperparams`: what can be set, and its range
//! * `random`: the random streams of numpy and scikit-learn
//! * `tree`: growth of trees into flat arrays
//! * `evaluate`: from trees to scores
//! * `algorithm`: the forest, its offset and threshold, linfa's traits
//! * `error`: errors of parameters, of fitting and of scoring

mod algorithm;
mod error;
mod evaluate;
mod hyperparams;
mod random;
mod tree;

pub use algorithm::IsolationForest;
pub use error::{FitError, ParamsError, ScoreError};
pub use hyperparams::{
    IsolationForestParams, IsolationForestValidParams, MAX_ESTIMATORS, MaxSamples,
};
pub(crate) use random::NumpyRandom;
pub use tree::Tree;

/// The nearest `f32`; a magnitude beyond its range becomes infinite.
fn as_f32<F: linfa::Float>(value: F) -> f32 {
    as_f64(value) as f32
}

fn as_f64<F: linfa::Float>(value: F) -> f64 {
    // Every linfa float is f32 or f64, so this never fails.
    value.to_f64().unwrap_or(f64::NAN)
}
