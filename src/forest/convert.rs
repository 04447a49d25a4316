//! Numeric conversions.

use linfa::Float;

use super::error::FitError;

/// The nearest `f32`; infinite beyond the range of `f32`.
pub(super) fn as_f32<F: Float>(value: F) -> f32 {
    as_f64(value) as f32
}

pub(super) fn as_f64<F: Float>(value: F) -> f64 {
    // linfa implements Float for f32 and f64 only, so the conversion never fails.
    value.to_f64().unwrap_or(f64::NAN)
}

/// Narrows a count to the 32 bits that indices have; `what` names the count in the error.
pub(super) fn to_u32(count: usize, what: &'static str) -> Result<u32, FitError> {
    u32::try_from(count).map_err(|_| FitError::TooLarge(what))
}
