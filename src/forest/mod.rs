//! An isolation forest as a linfa algorithm, equal to scikit-learn 1.9's `IsolationForest` and
//! PyOD 3.6's `IForest` to the bit.
//!
//! With the same `random_state` and data, the trees, scores, offset, threshold and labels equal
//! those of PyOD on Linux in every bit, for any number of features and on every platform. This
//! module knows nothing of scaling or HTTP.
//!
//! * `algorithm`: the forest, its offset and threshold, linfa's traits
//! * `hyperparams`: the hyper-parameters and their ranges
//! * `cost`: what a training costs, estimated before it starts
//! * `tree`: growth of trees into flat arrays
//! * `evaluate`: from trees to scores
//! * `level`: runs code with the widest vector instructions of the processor
//! * `elementary`: `ln` and `2^-x` with the same bits everywhere
//! * `random`: the random streams of numpy and scikit-learn
//! * `percentile`: numpy's percentile, which sets offset and threshold
//! * `memory`: how much memory a forest takes, before it is made
//! * `error`: the errors of parameters, of fitting and of scoring
//! * `validate`, `convert`: checks and conversions of rows

mod algorithm;
mod convert;
mod cost;
mod elementary;
mod error;
mod evaluate;
mod hyperparams;
mod level;
mod memory;
mod percentile;
mod random;
mod tree;
mod validate;

pub use algorithm::IsolationForest;
pub use cost::{MAX_TABLE_ADDITIONS, TrainingCost};
pub(crate) use elementary::ln;
pub use error::{FitError, ParamsError, ScoreError};
pub use hyperparams::{
    IsolationForestParams, IsolationForestValidParams, MAX_ESTIMATORS, MaxSamples,
};
pub(crate) use memory::{boxes_memory, decode_memory, distance_memory, fit_memory};
pub(crate) use percentile::percentile;
pub(crate) use random::NumpyRandom;
pub use tree::Tree;
pub(crate) use validate::{check_finite, first_not_finite};
