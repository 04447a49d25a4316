//! The errors of fitting a detector and of predicting with it.

use thiserror::Error;

use crate::forest::{FitError, ScoreError};

/// An error that occurs while a detector is fitted or predicts.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DetectorError {
    /// The forest cannot be fitted.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// The number of features differs from that of the training data, or a value is not finite.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// A mean, or the distance of a reading from the mean, exceeds the range of `f64`.
    #[error("{}", describe_overflow(*row, *feature))]
    Overflow {
        /// Index of the reading; `None` if the mean overflows.
        row: Option<usize>,
        /// Index of the feature.
        feature: usize,
    },
    /// linfa's scaler rejected the data.
    #[error("the readings could not be scaled: {0}")]
    Scaler(String),
}

fn describe_overflow(row: Option<usize>, feature: usize) -> String {
    match row {
        Some(row) => format!(
            "row {row}, feature {feature} is too far from the training readings to be scaled"
        ),
        None => format!("the readings of feature {feature} are too large to be averaged"),
    }
}
