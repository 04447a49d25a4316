//! The detector: scaler, forest and threshold as one value, which is trained, stored and served.
//!
//! A detector checks the shape and finiteness of everything it is given, so it returns either a
//! prediction or a clear error.
//!
//! * `algorithm`: the detector and its predictions
//! * `scaler`: scikit-learn's `StandardScaler`
//! * `ranges`: training ranges, normal ranges, and the policy for readings outside the training
//!   range
//! * `fit`: fits a detector with a window or a held-back threshold
//! * `held_back`: a threshold from scores of readings that were held back
//! * `window`: models that judge several readings together
//! * `explain`: which features make a reading abnormal
//! * `error`: the errors of fitting and prediction

mod algorithm;
mod error;
mod explain;
mod fit;
mod held_back;
mod ranges;
mod scaler;
mod window;

pub(crate) use algorithm::DistanceParts;
pub use algorithm::{Detector, Prediction};
pub use error::DetectorError;
pub use explain::Contribution;
pub use fit::{FitOptions, Fitted};
pub use held_back::{HeldBack, is_false_alarm_rate};
pub use ranges::{BlindSides, NormalRange, OutOfRange, TrainingRange};
pub use scaler::StandardScaler;
pub use window::{Judgement, MAX_WINDOW_VALUES, Stream, StreamAnswer, View, Window};
