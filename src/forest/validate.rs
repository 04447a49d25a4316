//! Checks of rows before they are fitted or scored.

use linfa::Float;
use ndarray::{ArrayBase, Data, Ix2};

use super::convert::as_f64;

/// Row, column and value of the first value, in row order, that is NaN or infinite.
pub(crate) fn first_not_finite<F: Float, D: Data<Elem = F>>(
    rows: &ArrayBase<D, Ix2>,
) -> Option<(usize, usize, f64)> {
    rows.indexed_iter()
        .map(|((row, feature), &value)| (row, feature, as_f64(value)))
        .find(|(_, _, value)| !value.is_finite())
}
