//! The detector: scaler, forest and threshold as one value, which is trained, stored and served.
//!
//! A detector checks the shape and finiteness of everything it is given, so it returns either a
//! prediction or a clear error.
//!
//! * `algorithm`: the detector and its predictions
//! * `scaler`: scikit-learn's `StandardScaler`
//! * `ranges`: training ranges, normal ranges, and the policy for readings outside the training
//!   range
//! * `error`: the errors of fitting and prediction

mod algorithm;
mod error;
mod ranges;
mod scaler;

pub use algorithm::{Detector, Prediction};
pub use error::DetectorError;
pub use ranges::{BlindSides, NormalRange, OutOfRange, TrainingRange};
pub use scaler::StandardScaler;
