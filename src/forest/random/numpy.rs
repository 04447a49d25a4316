//! numpy's legacy `RandomState`, seeded by one integer.

use super::mt19937::Mt19937;

/// `numpy.iinfo(numpy.int32).max`: the exclusive upper bound of every seed that scikit-learn draws.
pub(super) const INT32_MAX: u32 = i32::MAX as u32;

/// `numpy.random.RandomState(seed)`.
#[derive(Clone)]
pub(crate) struct NumpyRandom(Mt19937);

impl NumpyRandom {
    /// Seeds one generator.
    pub(crate) fn new(seed: u32) -> Self {
        let [generator] = Mt19937::seeded([seed]);
        Self(generator)
    }

    /// Seeds one generator per seed, which is faster than one by one.
    pub(super) fn seeded<const COUNT: usize>(seeds: [u32; COUNT]) -> impl Iterator<Item = Self> {
        Mt19937::seeded(seeds).into_iter().map(Self)
    }

    /// The first [`seed`](Self::seed) that a generator of each seed draws.
    pub(super) fn first_seeds<const COUNT: usize>(seeds: [u32; COUNT]) -> [u32; COUNT] {
        let mut first = Mt19937::first(seeds);
        for (first, seed) in first.iter_mut().zip(seeds) {
            *first &= INT32_MAX;
            // One draw in 2^31 is rejected.
            if *first == INT32_MAX {
                *first = Self::new(seed).seed();
            }
        }
        first
    }

    /// 32 random bits.
    pub(super) fn next(&mut self) -> u32 {
        self.0.next()
    }

    /// numpy's `random_interval`: a draw from `0..=max`. Applies the smallest all-ones mask that
    /// covers `max` and rejects values above `max`.
    pub(super) fn interval(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.next() & mask;
            if value <= max {
                return value;
            }
        }
    }

    /// `randint(2**31 - 1)`: scikit-learn derives one seed from another this way.
    pub(in crate::forest) fn seed(&mut self) -> u32 {
        self.interval(INT32_MAX - 1)
    }

    /// `uniform()`: 53 random bits scaled to `[0, 1)`.
    pub(crate) fn uniform(&mut self) -> f64 {
        let high = f64::from(self.next() >> 5);
        let low = f64::from(self.next() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded with numpy 2.4.6: RandomState(42).randint(2**31 - 1, size=5).
    #[test]
    fn seeds_are_those_of_numpy() {
        let mut random = NumpyRandom::new(42);
        let seeds: Vec<u32> = (0..5).map(|_| random.seed()).collect();
        assert_eq!(
            seeds,
            [1608637542, 1273642419, 1935803228, 787846414, 996406378]
        );
    }

    // Recorded with numpy 2.4.6: RandomState(42).uniform(size=3).
    #[test]
    fn uniforms_are_those_of_numpy() {
        let mut random = NumpyRandom::new(42);
        let drawn: Vec<f64> = (0..3).map(|_| random.uniform()).collect();
        assert_eq!(
            drawn,
            [0.3745401188473625, 0.9507143064099162, 0.7319939418114051]
        );
    }
}
