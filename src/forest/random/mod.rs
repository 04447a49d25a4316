//! The random number streams of numpy and scikit-learn, reproduced bit for bit.
//!
//! * `mt19937`: the Mersenne Twister, seeded in batches
//! * `numpy`: numpy's legacy `RandomState`
//! * `sklearn`: scikit-learn's sampler of rows and the generator of its tree splitter

mod mt19937;
mod numpy;
mod sklearn;

pub(crate) use numpy::NumpyRandom;
pub(super) use sklearn::{RowSampler, SplitterRandom, tree_streams};
