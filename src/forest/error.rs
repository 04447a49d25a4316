//! The errors of hyper-parameters, of fitting and of scoring.

use thiserror::Error;

use super::hyperparams::MAX_ESTIMATORS;

/// A hyper-parameter outside its range.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum ParamsError {
    /// The number of trees must be in `1..=`[`MAX_ESTIMATORS`].
    #[error("n_estimators must be from 1 to {MAX_ESTIMATORS}, got {0}")]
    NEstimators(usize),
    /// A count of rows per tree must be at least 1; see
    /// [`MaxSamples::Count`](super::MaxSamples::Count).
    #[error("max_samples must be at least 1 reading, got 0")]
    MaxSamplesCount,
    /// A fraction of rows per tree must be in `(0, 1]`; see
    /// [`MaxSamples::Fraction`](super::MaxSamples::Fraction).
    #[error("max_samples as a fraction must be greater than 0 and at most 1, got {0}")]
    MaxSamplesFraction(f64),
    /// The share of anomalies must be in `(0, 0.5]`, as in PyOD.
    #[error("contamination must be greater than 0 and at most 0.5, got {0}")]
    Contamination(f64),
}

/// An error that occurs while a forest is fitted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FitError {
    /// A hyper-parameter is outside its range.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// The data set has no rows.
    #[error("at least one row is needed to fit a forest, got none")]
    NoRows,
    /// The data set has no columns.
    #[error("at least one feature is needed to fit a forest, got none")]
    NoFeatures,
    /// A training value is NaN or infinite.
    #[error("row {row}, feature {feature} is {value}, which is not a finite number")]
    NotFinite {
        /// Index of the row.
        row: usize,
        /// Index of the column.
        feature: usize,
        /// The value.
        value: f64,
    },
    /// A training value exceeds the range of `f32`, so the distance from it is not known.
    #[error("row {row}, feature {feature} is {value:e}, which is too large to measure distances")]
    BeyondF32 {
        /// Index of the row.
        row: usize,
        /// Index of the column.
        feature: usize,
        /// The value.
        value: f64,
    },
    /// Trees grown from a single row each know no distance.
    #[error("at least two rows per tree are needed to measure distances, got one of {rows}")]
    NoDistance {
        /// Number of rows.
        rows: u32,
    },
    /// `max_samples` is a fraction so small that it draws no row.
    #[error("max_samples of {fraction} draws no row out of {rows}")]
    NoSamples {
        /// The requested fraction.
        fraction: f64,
        /// Number of rows in the data set.
        rows: usize,
    },
    /// The number of rows, features or nodes exceeds the range of 32-bit indices.
    #[error("the forest would be too large: {0} does not fit in 32 bits")]
    TooLarge(&'static str),
    /// linfa rejected the data set.
    #[error(transparent)]
    Linfa(#[from] linfa::Error),
}

/// An error that occurs while rows are scored.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The number of features differs from that of the training data.
    #[error("expected {expected} feature(s) per row, got {got}")]
    Width {
        /// Number of features in the training data.
        expected: usize,
        /// Number of features in the rows to score.
        got: usize,
    },
    /// A value is NaN or infinite.
    #[error("row {row}, feature {feature} is {value}, which is not a finite number")]
    NotFinite {
        /// Index of the row.
        row: usize,
        /// Index of the column.
        feature: usize,
        /// The value.
        value: f64,
    },
}
