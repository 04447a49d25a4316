//! Floats as integers in the same order.
//!
//! The keys order numbers as `total_cmp` does: -0 is less than 0.

/// The key of an `f32`.
#[inline]
pub(crate) fn f32_to_key(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// The `f32` with a key.
pub(crate) fn f32_from_key(key: i32) -> f32 {
    f32::from_bits((key ^ (((key >> 31) as u32) >> 1) as i32) as u32)
}

/// The key of an `f64`.
pub(crate) fn f64_to_key(value: f64) -> i64 {
    flip_negative(value.to_bits() as i64)
}

/// The `f64` with a key.
pub(crate) fn f64_from_key(key: i64) -> f64 {
    f64::from_bits(flip_negative(key) as u64)
}

/// Inverts all bits but the sign of a negative number. Its own inverse.
fn flip_negative(bits: i64) -> i64 {
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    // Neighbouring numbers have neighbouring keys, for both signs and up to infinity.
    #[test]
    fn keys_are_in_the_order_of_the_numbers() {
        for value in [f64::MIN_POSITIVE, 0.1, 1.0, f64::MAX, -0.1, f64::MIN] {
            assert_eq!(f64_from_key(f64_to_key(value)), value);
            assert_eq!(f64_to_key(value.next_up()), f64_to_key(value) + 1);
        }
        for value in [f32::MIN_POSITIVE, 0.1, 1.0, f32::MAX, -0.1, f32::MIN] {
            assert_eq!(f32_from_key(f32_to_key(value)), value);
            assert_eq!(f32_to_key(value.next_up()), f32_to_key(value) + 1);
        }
        assert_eq!((f64_to_key(-0.0), f64_to_key(0.0)), (-1, 0));
        assert_eq!((f32_to_key(-0.0), f32_to_key(0.0)), (-1, 0));
    }
}
