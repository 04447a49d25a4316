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
    /// There are too few readings to learn a threshold from readings that are held back.
    #[error("{}", describe_too_short(*window, *got, *needed))]
    TooShort {
        /// Readings in a window; 1 without one.
        window: usize,
        /// How many full windows there are.
        got: usize,
        /// How many are needed.
        needed: usize,
    },
    /// An option of the fit is outside its range.
    #[error("{0}")]
    Options(String),
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

fn describe_too_short(window: usize, got: usize, needed: usize) -> String {
    match window {
        1 => format!("a false_alarm_rate needs at least {needed} readings to train on, got {got}"),
        window => format!(
            "a window of {window} readings needs at least {needed} full windows to train on, \
             {} readings in one run, got {got} full windows",
            needed + window - 1
        ),
    }
}
