//! The random streams that scikit-learn draws from, reproduced to the bit.
//!
//! * [`NumpyRandom`] is numpy's legacy `RandomState` seeded by one integer: MT19937 with bounded
//!   draws by masking and rejection. A forest seeds two generators for each tree and draws little
//!   from either, so they are seeded many at a time and put out no more than is asked for.
//! * [`RowSampler`] is `sklearn.utils.random.sample_without_replacement`.
//! * [`SplitterRandom`] is the xorshift generator of scikit-learn's tree splitter.

/// `numpy.iinfo(numpy.int32).max`, the bound of every seed that scikit-learn draws.
const INT32_MAX: u32 = i32::MAX as u32;

/// MT19937 (Matsumoto and Nishimura, "Mersenne Twister", 1998).
#[derive(Clone)]
struct Mt {
    /// The state, and once more its first word where the last one looks for the next.
    words: [u32; Self::N + 1],
    /// The next word to put out.
    at: usize,
    /// Up to here the words are renewed.
    renewed: usize,
}

impl Mt {
    const N: usize = 624;
    const M: usize = 397;

    /// One generator for each seed. Seeding is a chain of multiplications, each waiting for the one
    /// before; so several chains side by side take hardly longer than one.
    fn seeded<const COUNT: usize>(seeds: [u32; COUNT]) -> [Self; COUNT] {
        let mut all = [const {
            Self {
                words: [0; Self::N + 1],
                at: Self::N,
                renewed: Self::N,
            }
        }; COUNT];
        let mut words = seeds;
        for i in 0..Self::N {
            for (mt, word) in all.iter_mut().zip(&mut words) {
                mt.words[i] = *word;
                *word = (*word ^ (*word >> 30))
                    .wrapping_mul(1_812_433_253)
                    .wrapping_add(i as u32 + 1);
            }
        }
        all
    }

    fn next(&mut self) -> u32 {
        if self.at == self.renewed {
            self.renew();
        }
        let mut y = self.words[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    /// Renews as many words as do not depend on each other.
    fn renew(&mut self) {
        let start = self.renewed % Self::N;
        let end = Self::N.min(start + Self::N - Self::M);
        let far = (start + Self::M) % Self::N;
        // Set aside, so that the compiler sees that they can be worked out side by side.
        let mut renewed = [0; Self::N - Self::M];
        let renewed = &mut renewed[..end - start];
        let (words, nexts) = (&self.words[start..], &self.words[start + 1..]);
        let words = words.iter().zip(nexts).zip(&self.words[far..]);
        for (renewed, ((word, next), far)) in renewed.iter_mut().zip(words) {
            let joined = (word & 0x8000_0000) | (next & 0x7FFF_FFFF);
            let odd = (joined & 1).wrapping_neg() & 0x9908_B0DF;
            *renewed = far ^ (joined >> 1) ^ odd;
        }
        self.words[start..end].copy_from_slice(renewed);
        self.words[Self::N] = self.words[0];
        (self.at, self.renewed) = (start, end);
    }
}

/// `numpy.random.RandomState(seed)`.
#[derive(Clone)]
pub(crate) struct NumpyRandom(Mt);

impl NumpyRandom {
    pub(crate) fn new(seed: u32) -> Self {
        let [mt] = Mt::seeded([seed]);
        Self(mt)
    }

    /// A draw from `0..=max`: 32-bit outputs under the smallest all-ones mask that covers `max`,
    /// rejected while greater.
    fn up_to(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.0.next() & mask;
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
        let high = f64::from(self.0.next() >> 5);
        let low = f64::from(self.0.next() >> 6);
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

    /// The rows of the tree with this stream, of which nothing else must be drawn.
    ///
    /// scikit-learn picks one of three methods by the share that is drawn; which one decides the
    /// stream, so all three are needed.
    pub(super) fn draw(&mut self, mut random: NumpyRandom) -> &[u32] {
        self.rows.clear();
        if self.count == self.population {
            self.rows.extend(0..self.population);
            return &self.rows;
        }
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

    /// numpy's `permutation`: a shuffle from the end, with the draws of [`NumpyRandom::up_to`]. It
    /// ends where the rows to be drawn are the first ones and only their order would still change.
    fn permute(&mut self, random: &mut NumpyRandom) {
        self.permutation.clear();
        self.permutation.extend(0..self.population);
        let mut i = self.population - 1;
        while i >= self.count {
            let mask = u32::MAX >> i.leading_zeros();
            // While the mask stays the same. A rejected draw swaps nothing instead of taking a
            // branch, which would be mispredicted every third time.
            let stop = (mask >> 1).max(self.count - 1);
            while i > stop {
                let value = random.0.next() & mask;
                let accepted = value <= i;
                let j = if accepted { value } else { i };
                self.permutation.swap(i as usize, j as usize);
                i -= u32::from(accepted);
            }
        }
    }
}

/// The splitter's xorshift generator (Marsaglia, "Xorshift RNGs", 2003; shifts 13, 17, 5).
#[derive(Clone)]
pub(super) struct SplitterRandom(u32);

impl SplitterRandom {
    /// The largest draw.
    pub(super) const MAX: u32 = INT32_MAX;

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

/// The streams of the trees that got `seeds`: that of its rows, and that of its splitter, which
/// scikit-learn starts with a seed drawn from a seed drawn from the tree's.
pub(super) fn streams(seeds: &[u32]) -> impl Iterator<Item = (NumpyRandom, SplitterRandom)> {
    /// As many as the first-level cache has room for.
    const TOGETHER: usize = 16;
    seeds.chunks(TOGETHER).flat_map(|seeds| {
        let mut together = [0; TOGETHER];
        together[..seeds.len()].copy_from_slice(seeds);
        let rows = Mt::seeded(together).map(NumpyRandom);
        let splitters = Mt::seeded(rows.each_ref().map(|rows| rows.clone().seed()));
        let splitters = splitters.map(|mt| SplitterRandom(NumpyRandom(mt).seed()));
        rows.into_iter().zip(splitters).take(seeds.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded with numpy 2.4.6: RandomState(42).randint(2**32, size=2000, dtype="uint32"), on both
    // sides of where words are renewed.
    #[test]
    fn outputs_are_those_of_numpy() {
        let [mut mt] = Mt::seeded([42]);
        let drawn: Vec<u32> = (0..2000).map(|_| mt.next()).collect();
        for (i, expected) in [
            (0, 1608637542),
            (226, 3470850604),
            (227, 1269737021),
            (453, 4204312805),
            (454, 1688341868),
            (623, 1077437785),
            (624, 108880612),
            (850, 2360208606),
            (851, 239964793),
            (1247, 1014112781),
            (1248, 2655384025),
            (1999, 2238969328),
        ] {
            assert_eq!(drawn[i], expected, "{i}");
        }
    }

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
                RowSampler::new(population, count, None).draw(NumpyRandom::new(7)),
                expected,
                "{count} of {population}"
            );
        }
    }

    // Generators that are seeded together are those seeded alone, for any number of seeds.
    #[test]
    fn streams_are_those_of_single_generators() {
        let seeds: Vec<u32> = (0..1001u32).map(|i| i.wrapping_mul(4_285_193)).collect();
        for count in [0, 1, 15, 16, 17, 1001] {
            let together: Vec<(u32, u32)> = streams(&seeds[..count])
                .map(|(mut rows, splitter)| (rows.seed(), splitter.0))
                .collect();
            let alone = seeds[..count].iter().map(|&seed| {
                let seed = NumpyRandom::new(seed).seed();
                (seed, NumpyRandom::new(seed).seed())
            });
            assert_eq!(together, alone.collect::<Vec<_>>());
        }
    }

    // A sampler serves for tree after tree, and must not remember.
    #[test]
    fn a_sampler_draws_the_same_again() {
        for (population, count) in [(20, 5), (1000, 3), (200, 199), (10, 10)] {
            let mut sampler = RowSampler::new(population, count, None);
            let first = sampler.draw(NumpyRandom::new(7)).to_vec();
            sampler.draw(NumpyRandom::new(8));
            assert_eq!(sampler.draw(NumpyRandom::new(7)), first);
        }
    }

    // Rows under other numbers are the same rows.
    #[test]
    fn numbers_stand_for_rows() {
        for (population, count) in [(20, 5), (1000, 3), (200, 199), (10, 10)] {
            let numbers: Vec<u32> = (0..population).rev().collect();
            let mut numbered = RowSampler::new(population, count, Some(&numbers));
            let mut rows: Vec<u32> = numbered
                .draw(NumpyRandom::new(7))
                .iter()
                .map(|&n| population - 1 - n)
                .collect();
            rows.reverse();
            assert_eq!(
                rows,
                RowSampler::new(population, count, None).draw(NumpyRandom::new(7))
            );
        }
    }

    // The generator would stay at zero for ever, so scikit-learn restarts it from one.
    #[test]
    fn a_zero_state_does_not_stop_the_splitter() {
        assert_ne!(SplitterRandom(0).next(), 0);
    }
}
