//! numpy's `percentile`.

/// The `q`-th percentile with linear interpolation, with numpy's order of operations.
/// Reorders `values`, which must not be empty.
pub(crate) fn percentile(values: &mut [f64], q: f64) -> f64 {
    let last = values.len() - 1;
    let index = last as f64 * (q / 100.0);
    // At the last value numpy takes -1 as the lower index and computes the weight from it. The
    // result is the same except for the sign of a zero.
    let (low, gamma) = if index >= last as f64 {
        (last, index + 1.0)
    } else {
        (index.floor() as usize, index - index.floor())
    };
    let (_, &mut a, above) = values.select_nth_unstable_by(low, f64::total_cmp);
    let b = above.iter().copied().min_by(f64::total_cmp).unwrap_or(a);
    let step = b - a;
    if gamma < 0.5 {
        a + step * gamma
    } else {
        b - step * (1.0 - gamma)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded with numpy 2.4.6. The second and third case take the two branches of the
    // interpolation.
    #[test]
    fn percentiles_are_those_of_numpy() {
        for (values, q, expected) in [
            (vec![3.0], 5.0, 3.0),
            (vec![0.1, 0.7], 49.0, 0.394),
            (vec![0.1, 0.7], 51.0, 0.40599999999999997),
            (vec![4.0, 1.0, 3.0, 2.0], 100.0, 4.0),
            (vec![4.0, 1.0, 3.0, 2.0], 95.0, 3.8499999999999996),
        ] {
            assert_eq!(
                percentile(&mut values.clone(), q),
                expected,
                "{values:?} at {q}"
            );
        }
    }
}
