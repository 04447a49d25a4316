//! Why a file cannot be predicted.

use std::io;

use thiserror::Error;

use super::summary::Problem;

/// An error that ends the prediction of a file.
#[derive(Debug, Error)]
pub enum PredictCsvError {
    /// The input failed.
    #[error("cannot read the readings: {0}")]
    Read(io::Error),
    /// The output failed.
    #[error("cannot write the predictions: {0}")]
    Write(io::Error),
    /// A line is not what the model needs, and others are likely to be like it.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// The fault, and what the model expects.
        problem: String,
    },
    /// There are no readings.
    #[error("there are no readings")]
    NoReadings,
    /// There are readings, but none can be predicted.
    #[error("none of the {count} readings can be predicted; {first}")]
    NoneReadable {
        /// How many there are.
        count: u64,
        /// The first of them.
        first: Problem,
    },
    /// A thread panicked.
    #[error("the prediction was interrupted")]
    Interrupted,
}
