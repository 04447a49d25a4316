//! Checks of rows before they are fitted or scored.

use linfa::Float;
use ndarray::{ArrayBase, Data, Ix2};

use super::convert::as_f64;
use super::error::FitError;

/// Row, column and value of the first value, in row order, that is NaN or infinite.
pub(crate) fn first_not_finite<F: Float, D: Data<Elem = F>>(
    rows: &ArrayBase<D, Ix2>,
) -> Option<(usize, usize, f64)> {
    rows.indexed_iter()
        .map(|((row, feature), &value)| (row, feature, as_f64(value)))
        .find(|(_, _, value)| !value.is_finite())
}

/// Returns [`FitError::NotFinite`] unless all values can be trained on.
pub(crate) fn check_finite<F: Float, D: Data<Elem = F>>(
    rows: &ArrayBase<D, Ix2>,
) -> Result<(), FitError> {
    match first_not_finite(rows) {
        Some((row, feature, value)) => Err(FitError::NotFinite {
            row,
            feature,
            value,
        }),
        None => Ok(()),
    }
}
