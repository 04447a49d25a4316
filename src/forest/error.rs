//! What can go wrong with a forest: parameters, fitting and scoring, each with an error of its own.

use thiserror::Error;

/// A hyper-parameter outside its range.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum ParamsError {
    /// A forest of no trees has no score, and one of too many fits no memory.
    #[error("n_estimators must be from 1 to {max}, got {0}", max = super::MAX_ESTIMATORS)]
    NEstimators(usize),
    /// See [`MaxSamples::Count`](super::MaxSamples::Count).
    #[error("max_samples must be at least 1 reading, got 0")]
    MaxSamplesCount,
    /// See [`MaxSamples::Fraction`](super::MaxSamples::Fraction).
    #[error("max_samples as a fraction must be greater than 0 and at most 1, got {0}")]
    MaxSamplesFraction(f64),
    /// The share of anomalies lies in `(0, 0.5]`, as in PyOD.
    #[error("contamination must be greater than 0 and at most 0.5, got {0}")]
    Contamination(f64),
}

/// Why a forest could not be fitted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FitError {
    /// A hyper-parameter is outside its range.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// There is no row to learn from.
    #[error("at least one row is needed to fit a forest, got none")]
    NoRows,
    /// The rows have no columns.
    #[error("at least one feature is needed to fit a forest, got none")]
    NoFeatures,
    /// Training data must be finite.
    #[error("row {row}, feature {feature} is {value}, which is not a finite number")]
    NotFinite {
        /// Index of the row.
        row: usize,
        /// Index of the column.
        feature: usize,
        /// What stands there.
        value: f64,
    },
    /// `max_samples` is a fraction so small that it draws no row.
    #[error("max_samples of {fraction} draws no row out of {rows}")]
    NoSamples {
        /// The fraction asked for.
        fraction: f64,
        /// The rows there are.
        rows: usize,
    },
    /// More rows, features or nodes than 32-bit indices can name.
    #[error("the forest would be too large: {0} does not fit 32 bits")]
    TooLarge(&'static str),
    /// linfa itself refused the data set.
    #[error(transparent)]
    Linfa(#[from] linfa::Error),
}

/// Why rows could not be scored.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The rows have another number of features than the training data.
    #[error("expected {expected} feature(s) per row, got {got}")]
    Width {
        /// Features the forest was fitted on.
        expected: usize,
        /// Features of the rows given.
        got: usize,
    },
    /// Rows must be finite.
    #[error("row {row}, feature {feature} is {value}, which is not a finite number")]
    NotFinite {
        /// Index of the row.
        row: usize,
        /// Index of the column.
        feature: usize,
        /// What stands there.
        value: f64,
    },
}
