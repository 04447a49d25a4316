//! scikit-learn's sampling without replacement, and the generator of its tree splitter.

use super::numpy::{INT32_MAX, NumpyRandom};

/// `sklearn.utils.random.sample_without_replacement`, sorted: trees use their rows in ascending
/// order, so the order of the draws does not matter.
///
/// With `ranks`, returns the ranks of the rows instead of the rows.
pub(in crate::forest) struct RowSampler<'a> {
    population: u32,
    count: u32,
    ranks: Option<&'a [u32]>,
    permutation: Vec<u32>,
    /// One bit per row, or per rank.
    selected: Vec<u64>,
    sample: Vec<u32>,
}

impl<'a> RowSampler<'a> {
    /// Samples `count` of `population` rows; `count` must not exceed `population`. `ranks`, if
    /// given, must be a permutation of the rows.
    pub(in crate::forest) fn new(population: u32, count: u32, ranks: Option<&'a [u32]>) -> Self {
        Self {
            population,
            count,
            ranks,
            permutation: Vec::new(),
            selected: vec![0; population.div_ceil(64) as usize],
            sample: Vec::with_capacity(count as usize),
        }
    }

    /// Draws the rows of one tree, in ascending order. Consumes the generator, because it may be
    /// left in another state than scikit-learn's.
    ///
    /// scikit-learn picks one of three methods by the share of rows that is drawn. Each method
    /// draws other random numbers, so all three are needed.
    pub(in crate::forest) fn draw(&mut self, mut random: NumpyRandom) -> &[u32] {
        self.sample.clear();
        if self.count == self.population {
            self.sample.extend(0..self.population);
            return &self.sample;
        }
        let ratio = f64::from(self.count) / f64::from(self.population);
        if ratio > 0.01 && ratio < 0.99 {
            self.permute(&mut random);
            for i in 0..self.count as usize {
                self.select(self.permutation[i]);
            }
        } else if ratio < 0.2 {
            let mut missing = self.count;
            while missing > 0 {
                let row = random.interval(self.population - 1);
                missing -= u32::from(self.select(row));
            }
        } else {
            self.permutation.clear();
            self.permutation.extend(0..self.count);
            for i in self.count..self.population {
                let j = random.interval(i) as usize;
                if let Some(slot) = self.permutation.get_mut(j) {
                    *slot = i;
                }
            }
            for i in 0..self.count as usize {
                self.select(self.permutation[i]);
            }
        }
        for (i, word) in self.selected.iter_mut().enumerate() {
            let mut bits = std::mem::take(word);
            while bits != 0 {
                self.sample.push(64 * i as u32 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
        &self.sample
    }

    /// Adds a row to the sample; returns whether it was new.
    fn select(&mut self, row: u32) -> bool {
        let bit_index = self.ranks.map_or(row, |ranks| ranks[row as usize]);
        let word = &mut self.selected[bit_index as usize / 64];
        let bit = 1 << (bit_index % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// numpy's `permutation`: a shuffle from the end, with the draws of [`NumpyRandom::interval`].
    /// Stops once the first `count` places hold the sample, whose order does not matter.
    fn permute(&mut self, random: &mut NumpyRandom) {
        self.permutation.clear();
        self.permutation.extend(0..self.population);
        let mut i = self.population - 1;
        while i >= self.count {
            let mask = u32::MAX >> i.leading_zeros();
            // The mask is constant in this loop. A rejected draw swaps an element with itself
            // instead of branching: one branch in three would be mispredicted.
            let stop = (mask >> 1).max(self.count - 1);
            while i > stop {
                let value = random.next() & mask;
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
pub(in crate::forest) struct SplitterRandom(u32);

impl SplitterRandom {
    /// The greatest draw: scikit-learn's `RAND_R_MAX`.
    const MAX: u32 = INT32_MAX;

    /// Draws a threshold in `[min, max)`.
    pub(in crate::forest) fn threshold(&mut self, min: f32, max: f32) -> f64 {
        let (low, high) = (f64::from(min), f64::from(max));
        let draw = f64::from(self.next());
        let threshold = (high - low) * draw / f64::from(Self::MAX) + low;
        if threshold == high { low } else { threshold }
    }

    /// Draws from `0..=MAX`.
    pub(in crate::forest) fn next(&mut self) -> u32 {
        let mut state = if self.0 == 0 { 1 } else { self.0 };
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        self.0 = state;
        state & Self::MAX
    }
}

/// The two streams of each tree: one samples its rows, the other drives its splitter. scikit-learn
/// seeds the splitter with a seed drawn from a seed drawn from the tree's seed.
pub(in crate::forest) fn tree_streams(
    seeds: &[u32],
) -> impl Iterator<Item = (NumpyRandom, SplitterRandom)> {
    /// As many generators as fit into the first-level cache.
    const BATCH: usize = 16;
    seeds.chunks(BATCH).flat_map(|seeds| {
        let mut batch = [0; BATCH];
        batch[..seeds.len()].copy_from_slice(seeds);
        let splitters = NumpyRandom::first_seeds(NumpyRandom::first_seeds(batch));
        let splitters = splitters.map(SplitterRandom);
        NumpyRandom::seeded(batch).zip(splitters).take(seeds.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded with scikit-learn 1.9.1: sorted(sample_without_replacement(n, m, random_state=7)),
    // for each of its three methods and on both sides of the limits between them.
    #[test]
    fn samples_are_those_of_scikit_learn() {
        let all_but = |n: u32, left_out: u32| (0..n).filter(|&i| i != left_out).collect::<Vec<_>>();
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
            (200, 199, all_but(200, 175)),
            (100, 99, all_but(100, 47)),
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

    // Generators seeded in a batch equal those seeded one by one, for any number of seeds.
    #[test]
    fn streams_are_those_of_single_generators() {
        let seeds: Vec<u32> = (0..1001u32).map(|i| i.wrapping_mul(4_285_193)).collect();
        for count in [0, 1, 15, 16, 17, 1001] {
            let batched: Vec<(u32, u32)> = tree_streams(&seeds[..count])
                .map(|(mut rows, splitter)| (rows.seed(), splitter.0))
                .collect();
            let single = seeds[..count].iter().map(|&seed| {
                let seed = NumpyRandom::new(seed).seed();
                (seed, NumpyRandom::new(seed).seed())
            });
            assert_eq!(batched, single.collect::<Vec<_>>());
        }
    }

    // One sampler draws for tree after tree, so a draw must leave no state behind.
    #[test]
    fn a_sampler_draws_the_same_again() {
        for (population, count) in [(20, 5), (1000, 3), (200, 199), (10, 10)] {
            let mut sampler = RowSampler::new(population, count, None);
            let first = sampler.draw(NumpyRandom::new(7)).to_vec();
            sampler.draw(NumpyRandom::new(8));
            assert_eq!(sampler.draw(NumpyRandom::new(7)), first);
        }
    }

    // Drawing ranks selects the same rows as drawing the rows themselves.
    #[test]
    fn ranks_stand_for_rows() {
        for (population, count) in [(20, 5), (1000, 3), (200, 199), (10, 10)] {
            let ranks: Vec<u32> = (0..population).rev().collect();
            let mut sampler = RowSampler::new(population, count, Some(&ranks));
            let mut rows: Vec<u32> = sampler
                .draw(NumpyRandom::new(7))
                .iter()
                .map(|&rank| population - 1 - rank)
                .collect();
            rows.reverse();
            assert_eq!(
                rows,
                RowSampler::new(population, count, None).draw(NumpyRandom::new(7))
            );
        }
    }

    // Xorshift never leaves the state zero, so scikit-learn replaces zero by one.
    #[test]
    fn a_zero_state_does_not_stop_the_splitter() {
        assert_ne!(SplitterRandom(0).next(), 0);
    }
}
