//! An isolation forest as a linfa algorithm, equal to scikit-learn 1.9's `IsolationForest` and
//! PyOD 3.6's `IForest` to the bit.
//!
//! With the same `random_state` and data, the trees, scores, offset, threshold and labels equal
//! those of PyOD in every bit, for any number of features. On platforms whose C library is not
//! glibc, a score may differ in its last bit, because it is computed with logarithms and a power.
//! This module knows nothing of scaling or HTTP.
//!
//! * `algorithm`: the forest, its offset and threshold, linfa's traits
//! * `hyperparams`: the hyper-parameters and their ranges
//! * `cost`: what a training costs, estimated before it starts
//! * `tree`: growth of trees into flat arrays
//! * `evaluate`: from trees to scores
//! * `random`: the random streams of numpy and scikit-learn
//! * `percentile`: numpy's percentile, which sets offset and threshold
//! * `memory`: how much memory a forest takes, before it is made
//! * `error`: the errors of parameters, of fitting and of scoring
//! * `validate`, `convert`: checks and conversions of rows

mod algorithm;
mod convert;
mod cost;
mod error;
mod evaluate;
mod hyperparams;
mod memory;
mod percentile;
mod random;
mod tree;
mod validate;

pub use algorithm::IsolationForest;
pub use cost::{MAX_TABLE_ADDITIONS, TrainingCost};
pub use error::{FitError, ParamsError, ScoreError};
pub use hyperparams::{
    IsolationForestParams, IsolationForestValidParams, MAX_ESTIMATORS, MaxSamples,
};
pub(crate) use memory::{boxes_memory, decode_memory, distance_memory, fit_memory};
pub(crate) use percentile::percentile;
pub(crate) use random::NumpyRandom;
pub use tree::Tree;
pub(crate) use validate::{check_finite, first_not_finite};
