//! The random streams that scikit-learn draws from, reproduced to the bit.
//!
//! * [`NumpyRandom`] is numpy's legacy `RandomState` seeded by one integer: MT19937 with bounded
//!   draws by masking and rejection.
//! * [`sample_without_replacement`] is `sklearn.utils.random.sample_without_replacement`.
//! * [`SplitterRandom`] is the xorshift generator of scikit-learn's tree splitter.

use std::collections::HashSet;

use rand_mt::Mt;

/// `numpy.iinfo(numpy.int32).max`, the bound of every seed that scikit-learn draws.
const INT32_MAX: u32 = i32::MAX as u32;

/// `numpy.random.RandomState(seed)`.
pub(crate) struct NumpyRandom(Mt);

impl NumpyRandom {
    pub(crate) fn new(seed: u32) -> Self {
        Self(Mt::new(seed))
    }

    /// A draw from `0..=max`: 32-bit outputs under the smallest all-ones mask that covers `max`,
    /// rejected while greater.
    fn up_to(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.0.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }

    /// `randint(2**31 - 1)`, the way scikit-learn derives one seed from another.
    pub(super) fn seed(&mut self) -> u32 {
        self.up_to(INT32_MAX - 1)
    }

    /// `uniform()`: 53 random bits scaled to `[0, 1)`.
    pub(crate) fn uniform(&mut self) -> f64 {
        let high = f64::from(self.0.next_u32() >> 5);
        let low = f64::from(self.0.next_u32() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }
}

/// `count` distinct numbers below `population`, in ascending order.
///
/// scikit-learn picks one of three methods by the share that is drawn; which one decides the
/// stream, so all three are needed. The tree uses its rows in ascending order whatever the order
/// they were drawn in.
pub(super) fn sample_without_replacement(seed: u32, population: u32, count: u32) -> Vec<u32> {
    debug_assert!(count <= population);
    let mut random = NumpyRandom::new(seed);
    let ratio = f64::from(count) / f64::from(population);
    let mut drawn: Vec<u32> = if ratio > 0.01 && ratio < 0.99 {
        let mut all: Vec<u32> = (0..population).collect();
        for i in (1..population).rev() {
            let j = random.up_to(i);
            all.swap(i as usize, j as usize);
        }
        all.truncate(count as usize);
        all
    } else if ratio < 0.2 {
        let mut seen = HashSet::with_capacity(count as usize);
        while seen.len() < count as usize {
            seen.insert(random.up_to(population - 1));
        }
        seen.into_iter().collect()
    } else {
        let mut reservoir: Vec<u32> = (0..count).collect();
        for i in count..population {
            let j = random.up_to(i);
            if let Some(slot) = reservoir.get_mut(j as usize) {
                *slot = i;
            }
        }
        reservoir
    };
    drawn.sort_unstable();
    drawn
}

/// The splitter's xorshift generator (Marsaglia, "Xorshift RNGs", 2003; shifts 13, 17, 5).
pub(super) struct SplitterRandom(u32);

impl SplitterRandom {
    /// The largest draw.
    pub(super) const MAX: u32 = INT32_MAX;

    /// Seeded as scikit-learn seeds the splitter of the tree that got `tree_seed`.
    pub(super) fn new(tree_seed: u32) -> Self {
        let random_state = NumpyRandom::new(tree_seed).seed();
        Self(NumpyRandom::new(random_state).seed())
    }

    /// A draw from `0..=MAX`.
    pub(super) fn next(&mut self) -> u32 {
        let mut state = if self.0 == 0 { 1 } else { self.0 };
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        self.0 = state;
        state & Self::MAX
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

    // Recorded with scikit-learn 1.9.1: sorted(sample_without_replacement(n, m, random_state=7)),
    // for each of its three methods and on both sides of where they meet.
    #[test]
    fn samples_are_those_of_scikit_learn() {
        let but = |n: u32, left_out: u32| (0..n).filter(|&i| i != left_out).collect::<Vec<_>>();
        let cases = [
            (20, 5, vec![1, 2, 5, 11, 17]),
            (1000, 3, vec![175, 196, 537]),
            (
                1000,
                10,
                vec![175, 185, 196, 211, 348, 502, 537, 579, 615, 919],
            ),
            (
                1000,
                11,
                vec![24, 94, 170, 216, 271, 334, 408, 487, 778, 802, 812],
            ),
            (10, 10, (0..10).collect()),
            (200, 199, but(200, 175)),
            (100, 99, but(100, 47)),
            (3, 1, vec![2]),
        ];
        for (population, count, expected) in cases {
            assert_eq!(
                sample_without_replacement(7, population, count),
                expected,
                "{count} of {population}"
            );
        }
    }

    // The generator would stay at zero for ever, so scikit-learn restarts it from one.
    #[test]
    fn a_zero_state_does_not_stop_the_splitter() {
        assert_ne!(SplitterRandom(0).next(), 0);
    }
}
