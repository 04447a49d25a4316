//! The random streams that scikit-learn draws from, reproduced to the bit.
//!
//! * [`NumpyRandom`] is numpy's legacy `RandomState` seeded by one integer: MT19937 with bounded
//!   draws by masking and rejection.
//! * [`RowSampler`] is `sklearn.utils.random.sample_without_replacement`.
//! * [`SplitterRandom`] is the xorshift generator of scikit-learn's tree splitter.

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

/// `sklearn.utils.random.sample_without_replacement`: distinct rows, in ascending order, since a
/// tree uses its rows in ascending order whatever the order they were drawn in.
///
/// Rows can be given other numbers, which are then what is returned, in ascending order too.
pub(super) struct RowSampler<'a> {
    population: u32,
    count: u32,
    numbers: Option<&'a [u32]>,
    permutation: Vec<u32>,
    /// One bit for each number.
    drawn: Vec<u64>,
    rows: Vec<u32>,
}

impl<'a> RowSampler<'a> {
    /// Draws `count` of `population` rows, of which there must be as many. `numbers`, if given, is
    /// a permutation of the rows.
    pub(super) fn new(population: u32, count: u32, numbers: Option<&'a [u32]>) -> Self {
        Self {
            population,
            count,
            numbers,
            permutation: Vec::new(),
            drawn: vec![0; population.div_ceil(64) as usize],
            rows: Vec::with_capacity(count as usize),
        }
    }

    /// The rows of the tree with this seed.
    ///
    /// scikit-learn picks one of three methods by the share that is drawn; which one decides the
    /// stream, so all three are needed.
    pub(super) fn draw(&mut self, seed: u32) -> &[u32] {
        self.rows.clear();
        if self.count == self.population {
            self.rows.extend(0..self.population);
            return &self.rows;
        }
        let mut random = NumpyRandom::new(seed);
        let ratio = f64::from(self.count) / f64::from(self.population);
        if ratio > 0.01 && ratio < 0.99 {
            self.permute(&mut random);
            for i in 0..self.count as usize {
                self.insert(self.permutation[i]);
            }
        } else if ratio < 0.2 {
            let mut missing = self.count;
            while missing > 0 {
                let row = random.up_to(self.population - 1);
                missing -= u32::from(self.insert(row));
            }
        } else {
            self.permutation.clear();
            self.permutation.extend(0..self.count);
            for i in self.count..self.population {
                let j = random.up_to(i) as usize;
                if let Some(slot) = self.permutation.get_mut(j) {
                    *slot = i;
                }
            }
            for i in 0..self.count as usize {
                self.insert(self.permutation[i]);
            }
        }
        for (i, word) in self.drawn.iter_mut().enumerate() {
            let mut bits = std::mem::take(word);
            while bits != 0 {
                self.rows.push(64 * i as u32 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
        &self.rows
    }

    /// Whether the row is new.
    fn insert(&mut self, row: u32) -> bool {
        let number = self.numbers.map_or(row, |numbers| numbers[row as usize]);
        let word = &mut self.drawn[number as usize / 64];
        let bit = 1 << (number % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// numpy's `permutation`: a shuffle from the end, with the draws of [`NumpyRandom::up_to`].
    fn permute(&mut self, random: &mut NumpyRandom) {
        self.permutation.clear();
        self.permutation.extend(0..self.population);
        let mut i = self.population - 1;
        while i > 0 {
            let mask = u32::MAX >> i.leading_zeros();
            // While the mask stays the same. A rejected draw swaps nothing instead of taking a
            // branch, which would be mispredicted every third time.
            while i > mask >> 1 {
                let value = random.0.next_u32() & mask;
                let accepted = value <= i;
                let j = if accepted { value } else { i };
                self.permutation.swap(i as usize, j as usize);
                i -= u32::from(accepted);
            }
        }
    }
}

/// The splitter's xorshift generator (Marsaglia, "Xorshift RNGs", 2003; shifts 13, 17, 5).
pub(super) struct SplitterRandom(u32);

impl SplitterRandom {
    /// The largest draw.
    pub(super) const MAX: u32 = INT32_MAX;

    /// With a state of [`splitter_states`].
    pub(super) fn new(state: u32) -> Self {
        Self(state)
    }

    /// A threshold between two values, but never the greater one.
    pub(super) fn threshold(&mut self, min: f32, max: f32) -> f64 {
        let (low, high) = (f64::from(min), f64::from(max));
        let draw = f64::from(self.next());
        let threshold = (high - low) * draw / f64::from(Self::MAX) + low;
        if threshold == high { low } else { threshold }
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

/// The states with which scikit-learn starts the splitters of the trees that got `tree_seeds`: a
/// seed drawn from a seed drawn from the tree's.
pub(super) fn splitter_states(tree_seeds: &[u32]) -> Vec<u32> {
    let mut states = Vec::with_capacity(tree_seeds.len());
    for seeds in tree_seeds.chunks(CHAINS) {
        let mut eight = [0; CHAINS];
        eight[..seeds.len()].copy_from_slice(seeds);
        states.extend_from_slice(&first_seeds(first_seeds(eight))[..seeds.len()]);
    }
    states
}

/// Generators that are seeded side by side.
const CHAINS: usize = 8;

/// `RandomState(seed).randint(2**31 - 1)` for each seed.
///
/// Seeding MT19937 is a chain of multiplications, each waiting for the one before. The first output
/// depends on three words of the state only, so the chains stop at the last of them, and eight run
/// side by side: a tenth of the time of eight whole generators.
fn first_seeds(seeds: [u32; CHAINS]) -> [u32; CHAINS] {
    const LAST: u32 = 397;
    let mut words = seeds;
    let mut second = [0; CHAINS];
    for i in 1..=LAST {
        for word in &mut words {
            *word = (*word ^ (*word >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i);
        }
        if i == 1 {
            second = words;
        }
    }
    std::array::from_fn(|i| {
        let joined = (seeds[i] & 0x8000_0000) | (second[i] & 0x7FFF_FFFF);
        let odd = if joined & 1 == 1 { 0x9908_B0DF } else { 0 };
        let mut y = words[i] ^ (joined >> 1) ^ odd;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^= y >> 18;
        let seed = y & INT32_MAX;
        if seed == INT32_MAX {
            // Rejected: only the whole generator knows what comes next.
            NumpyRandom::new(seeds[i]).seed()
        } else {
            seed
        }
    })
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
                RowSampler::new(population, count, None).draw(7),
                expected,
                "{count} of {population}"
            );
        }
    }

    // The short cut is the whole generator, for any number of seeds.
    #[test]
    fn splitter_states_are_those_of_whole_generators() {
        let seeds: Vec<u32> = (0..1001u32).map(|i| i.wrapping_mul(4_285_193)).collect();
        for count in [0, 1, 7, 8, 9, 1001] {
            let whole = seeds[..count]
                .iter()
                .map(|&seed| NumpyRandom::new(NumpyRandom::new(seed).seed()).seed());
            assert_eq!(splitter_states(&seeds[..count]), whole.collect::<Vec<_>>());
        }
    }

    // A sampler serves for tree after tree, and must not remember.
    #[test]
    fn a_sampler_draws_the_same_again() {
        for (population, count) in [(20, 5), (1000, 3), (200, 199), (10, 10)] {
            let mut sampler = RowSampler::new(population, count, None);
            let first = sampler.draw(7).to_vec();
            sampler.draw(8);
            assert_eq!(sampler.draw(7), first);
        }
    }

    // Rows under other numbers are the same rows.
    #[test]
    fn numbers_stand_for_rows() {
        for (population, count) in [(20, 5), (1000, 3), (200, 199), (10, 10)] {
            let numbers: Vec<u32> = (0..population).rev().collect();
            let mut numbered = RowSampler::new(population, count, Some(&numbers));
            let mut rows: Vec<u32> = numbered
                .draw(7)
                .iter()
                .map(|&n| population - 1 - n)
                .collect();
            rows.reverse();
            assert_eq!(rows, RowSampler::new(population, count, None).draw(7));
        }
    }

    // The generator would stay at zero for ever, so scikit-learn restarts it from one.
    #[test]
    fn a_zero_state_does_not_stop_the_splitter() {
        assert_ne!(SplitterRandom(0).next(), 0);
    }
}
