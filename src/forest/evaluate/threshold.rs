//! Thresholds as `f32`.
//!
//! Values are `f32`, so `value <= threshold` gives the same result if the `f64` threshold is
//! replaced by the largest `f32` that is not above it.

/// The largest `f32` not above a threshold.
pub(super) fn round_down_to_f32(threshold: f64) -> f32 {
    let near = threshold as f32;
    let above = i32::from(f64::from(near) > threshold);
    // If `near` is above, step to the next `f32` down. A branch, as in `f32::next_down`, would be
    // mispredicted every other time.
    let bits = near.to_bits() as i32;
    let down = (bits >> 31) | 1;
    f32::from_bits((bits - above * down) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Both signs, because the bits of negative numbers count downwards, and both ends of the range.
    #[test]
    fn the_largest_f32_not_above_a_threshold() {
        for near in [0.0, 1e-45, 0.1, 1.0, 3.0e38, f32::MAX].map(f64::from) {
            for threshold in [
                near,
                near.next_up(),
                near.next_down(),
                1.5 * near,
                0.7 * near,
            ] {
                for threshold in [threshold, -threshold] {
                    let found = round_down_to_f32(threshold);
                    assert!(f64::from(found) <= threshold, "{threshold:e}");
                    assert!(f64::from(found.next_up()) > threshold, "{threshold:e}");
                }
            }
        }
    }
}
