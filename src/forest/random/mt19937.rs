//! MT19937 (Matsumoto and Nishimura, "Mersenne Twister", 1998).
//!
//! A forest seeds two generators per tree and draws few numbers from one of them, and a single one
//! from the other. Generators are therefore seeded in batches, and the state is regenerated only as far
//! as it is read.

/// An MT19937 generator.
#[derive(Clone)]
pub(super) struct Mt19937 {
    /// The state, followed by a copy of its first word, which is the successor of the last one.
    words: [u32; Self::N + 1],
    /// Index of the next word to output.
    position: usize,
    /// End of the words that are regenerated.
    generated: usize,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    /// Seeds one generator per seed. Seeding is a chain of dependent multiplications, so several
    /// interleaved chains take hardly longer than one.
    pub(super) fn seeded<const COUNT: usize>(seeds: [u32; COUNT]) -> [Self; COUNT] {
        let mut generators = [const {
            Self {
                words: [0; Self::N + 1],
                position: Self::N,
                generated: Self::N,
            }
        }; COUNT];
        let mut words = seeds;
        for i in 0..Self::N {
            for (generator, word) in generators.iter_mut().zip(&mut words) {
                generator.words[i] = *word;
                *word = Self::successor(*word, i);
            }
        }
        generators
    }

    /// The first output of one generator per seed. It follows from 398 of the 624 words of a state,
    /// and none of them is kept.
    pub(super) fn first<const COUNT: usize>(seeds: [u32; COUNT]) -> [u32; COUNT] {
        let mut words = seeds;
        let mut second = seeds;
        for i in 0..Self::M {
            for word in &mut words {
                *word = Self::successor(*word, i);
            }
            if i == 0 {
                second = words;
            }
        }
        let mut outputs = [0; COUNT];
        for (i, output) in outputs.iter_mut().enumerate() {
            *output = Self::temper(Self::regenerate(seeds[i], second[i], words[i]));
        }
        outputs
    }

    /// The word of a new state that follows the word at a position.
    fn successor(word: u32, position: usize) -> u32 {
        (word ^ (word >> 30))
            .wrapping_mul(1_812_433_253)
            .wrapping_add(position as u32 + 1)
    }

    fn regenerate(word: u32, next: u32, far: u32) -> u32 {
        let joined = (word & 0x8000_0000) | (next & 0x7FFF_FFFF);
        let odd = (joined & 1).wrapping_neg() & 0x9908_B0DF;
        far ^ (joined >> 1) ^ odd
    }

    fn temper(word: u32) -> u32 {
        let mut y = word;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    /// The next 32-bit output.
    pub(super) fn next(&mut self) -> u32 {
        if self.position == self.generated {
            self.twist();
        }
        let word = self.words[self.position];
        self.position += 1;
        Self::temper(word)
    }

    /// Regenerates the next words of the state, as many as do not depend on each other.
    fn twist(&mut self) {
        let start = self.generated % Self::N;
        let end = Self::N.min(start + Self::N - Self::M);
        let far = (start + Self::M) % Self::N;
        // A separate buffer shows the compiler that the words are independent, so that it
        // vectorises the loop.
        let mut buffer = [0; Self::N - Self::M];
        let generated = &mut buffer[..end - start];
        let (words, nexts) = (&self.words[start..], &self.words[start + 1..]);
        let inputs = words.iter().zip(nexts).zip(&self.words[far..]);
        for (generated, ((word, next), far)) in generated.iter_mut().zip(inputs) {
            *generated = Self::regenerate(*word, *next, *far);
        }
        self.words[start..end].copy_from_slice(generated);
        self.words[Self::N] = self.words[0];
        (self.position, self.generated) = (start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded with numpy 2.4.6: RandomState(42).randint(2**32, size=2000, dtype="uint32"). The
    // indices lie on both sides of every boundary of `twist`.
    #[test]
    fn outputs_are_those_of_numpy() {
        let [mut generator] = Mt19937::seeded([42]);
        let drawn: Vec<u32> = (0..2000).map(|_| generator.next()).collect();
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
}
