//! Finds the place of a value among ascending breakpoints.

/// How many values are searched side by side. Fewer, and the compiler makes no vectors of them.
pub(super) const LANES: usize = 128;

/// Breakpoints that are compared at once, without a branch, to find a single value. More than most
/// buckets hold.
const PROBES: usize = 4;

/// Sizes of tables that are searched side by side.
const SMALLEST: usize = 64;
const LARGEST: usize = 1 << 15;

/// Ascending breakpoints, behind a table of buckets of equal width that leads near the right one.
#[derive(Debug, Clone)]
pub(super) struct Search {
    /// Ascending and distinct, then infinities: so many that the steps of a search stay in bounds.
    breakpoints: Vec<f32>,
    /// How many breakpoints there are without the infinities.
    count: usize,
    low: f32,
    /// Buckets per unit of value.
    per_unit: f32,
    /// For each bucket, the breakpoints before it.
    starts: Vec<u32>,
    /// How often the range of a search is halved.
    steps: u32,
}

impl Search {
    /// Takes breakpoints, which must be ascending, distinct and below infinity.
    pub(super) fn new(breakpoints: &[f32]) -> Self {
        let count = breakpoints.len();
        let (low, high) = match *breakpoints {
            [low, .., high] => (low, high),
            _ => (0.0, 0.0),
        };
        let mut size = (count + 1).next_power_of_two().max(SMALLEST);
        let mut search = loop {
            let buckets = size / 2;
            let per_unit = (buckets - 2) as f32 / (high - low);
            let mut search = Self {
                breakpoints: Vec::new(),
                count,
                low,
                per_unit: if per_unit.is_finite() { per_unit } else { 0.0 },
                starts: vec![0; buckets],
                steps: 0,
            };
            for &breakpoint in breakpoints {
                let bucket = search.bucket_of(breakpoint);
                search.starts[bucket] += 1;
            }
            let most = search.starts.iter().max().map_or(0, |&most| most);
            search.steps = u32::BITS - most.leading_zeros();
            let end = count + (1 << search.steps);
            // A table that is too large to be searched side by side only has to hold the probes.
            if end <= size || size >= LARGEST {
                break search;
            }
            size *= 2;
        };
        let mut start = 0;
        for count in &mut search.starts {
            start += std::mem::replace(count, start);
        }
        let end = size.max(count + PROBES);
        search.breakpoints.reserve_exact(end);
        search.breakpoints.extend(breakpoints);
        search.breakpoints.resize(end, f32::INFINITY);
        search
    }

    /// The bytes that it holds.
    pub(super) fn memory_size(&self) -> usize {
        size_of::<f32>() * self.breakpoints.capacity() + size_of::<u32>() * self.starts.capacity()
    }

    /// The breakpoints.
    pub(super) fn breakpoints(&self) -> &[f32] {
        &self.breakpoints[..self.count]
    }

    /// The bucket of a value. Rounding keeps it monotonic: breakpoints in earlier buckets are below
    /// the value, and breakpoints in later buckets are above it. The first bucket is that of NaN.
    #[inline(always)]
    fn bucket_of(&self, value: f32) -> usize {
        let last = (self.starts.len() - 1) as f32;
        ((value - self.low) * self.per_unit).max(0.0).min(last) as i32 as usize
    }

    /// How many breakpoints are below a value.
    pub(super) fn rank(&self, value: f32) -> usize {
        let bucket = self.bucket_of(value);
        let start = self.starts[bucket] as usize;
        // Breakpoints of later buckets are not below the value, so they add nothing.
        let probes = &self.breakpoints[start..start + PROBES];
        let below: u32 = probes.iter().map(|&b| u32::from(b < value)).sum();
        let rank = start + below as usize;
        if below as usize == PROBES {
            let end = self.starts.get(bucket + 1);
            let end = end.map_or(self.count, |&end| end as usize);
            let rest = &self.breakpoints[rank..end.max(rank)];
            return rank + rest.partition_point(|&b| b < value);
        }
        rank
    }

    /// Writes how many breakpoints are below each value.
    #[inline(always)]
    pub(super) fn ranks(&self, values: &[f32; LANES], ranks: &mut [u32; LANES]) {
        match self.starts.len() {
            32 => self.search::<64, 32>(values, ranks),
            64 => self.search::<128, 64>(values, ranks),
            128 => self.search::<256, 128>(values, ranks),
            256 => self.search::<512, 256>(values, ranks),
            512 => self.search::<1024, 512>(values, ranks),
            1024 => self.search::<2048, 1024>(values, ranks),
            2048 => self.search::<4096, 2048>(values, ranks),
            4096 => self.search::<8192, 4096>(values, ranks),
            8192 => self.search::<16384, 8192>(values, ranks),
            _ => {
                for (rank, &value) in ranks.iter_mut().zip(values) {
                    *rank = self.rank(value) as u32;
                }
            }
        }
    }

    /// With sizes that the compiler knows, a remainder keeps indices in bounds, and the loops become
    /// gathers.
    #[inline(always)]
    fn search<const SIZE: usize, const BUCKETS: usize>(
        &self,
        values: &[f32; LANES],
        ranks: &mut [u32; LANES],
    ) {
        let (Some(breakpoints), Some(starts)) = (
            self.breakpoints.first_chunk::<SIZE>(),
            self.starts.first_chunk::<BUCKETS>(),
        ) else {
            return;
        };
        for (rank, &value) in ranks.iter_mut().zip(values) {
            *rank = starts[self.bucket_of(value) % BUCKETS];
        }
        for step in (0..self.steps).rev().map(|step| 1 << step) {
            for (rank, &value) in ranks.iter_mut().zip(values) {
                let breakpoint = breakpoints[(*rank + step - 1) as usize % SIZE];
                // A multiplication, because an `if` becomes a branch.
                *rank += u32::from(breakpoint < value) * step;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::level::{at_level, levels};
    use crate::forest::random::NumpyRandom;

    #[test]
    fn ranks_are_those_of_a_binary_search() {
        let mut random = NumpyRandom::new(3);
        let mut uniform =
            |n: usize| -> Vec<f32> { (0..n).map(|_| random.uniform() as f32 - 0.5).collect() };
        let mut sets = vec![
            vec![],
            vec![0.0],
            vec![f32::MIN, f32::MAX],
            vec![f32::NEG_INFINITY, -1.0, 1.0],
            vec![f32::MIN, 0.0, 1e-45, 1.0],
        ];
        for count in [1, 2, 31, 63, 64, 500, 1000, 1024, 6000, 20_000, 70_000] {
            sets.push(uniform(count));
            // Nearly all of them in one bucket.
            let skewed = uniform(count).into_iter().map(|v| (60.0 * v).exp());
            sets.push(skewed.collect());
            sets.push((0..count).map(|i| i as f32).collect());
        }
        for mut breakpoints in sets {
            breakpoints.sort_unstable_by(f32::total_cmp);
            breakpoints.dedup();
            let search = Search::new(&breakpoints);
            let mut values: Vec<f32> = breakpoints
                .iter()
                .take(5000)
                .flat_map(|b| [b.next_down(), *b, b.next_up()])
                .collect();
            values.extend([f32::NEG_INFINITY, -0.0, 0.0, f32::INFINITY, f32::NAN]);
            values.extend(uniform(100));
            values.resize(values.len().next_multiple_of(LANES), 0.25);
            for values in values.as_chunks::<LANES>().0 {
                let expected = values.map(|value| breakpoints.partition_point(|&b| b < value));
                assert_eq!(values.map(|value| search.rank(value)), expected);
                for level in levels() {
                    let mut ranks = [0; LANES];
                    at_level(
                        level,
                        #[inline(always)]
                        || search.ranks(values, &mut ranks),
                    );
                    assert_eq!(ranks.map(|rank| rank as usize), expected, "{level:?}");
                }
            }
        }
    }
}
