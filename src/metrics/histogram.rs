//! Durations, counted by their size.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets: in nanoseconds, and as they are written, in seconds. A
/// prediction takes some 10 us, a large training some seconds.
const BOUNDS: [(u64, &str); 14] = [
    (25_000, "0.000025"),
    (50_000, "0.00005"),
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (10_000_000_000, "10"),
    (30_000_000_000, "30"),
];

/// How many durations there were of which size.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// The last one is for longer durations than all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Histogram {
    /// Counts a duration.
    pub(crate) fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|&(bound, _)| nanos <= bound);
        self.buckets[bucket.unwrap_or(BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// The sum of some histograms.
pub(super) struct Total {
    /// The bounds in seconds, and how many durations are at most as long.
    pub(super) buckets: [(&'static str, u64); BOUNDS.len() + 1],
    pub(super) seconds: f64,
    pub(super) count: u64,
}

impl Total {
    pub(super) fn of<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut buckets = [("+Inf", 0); BOUNDS.len() + 1];
        for (bucket, (_, bound)) in buckets.iter_mut().zip(BOUNDS) {
            bucket.0 = bound;
        }
        let mut nanos = 0.0;
        for histogram in histograms {
            for ((_, sum), bucket) in buckets.iter_mut().zip(&histogram.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
            nanos += histogram.nanos.load(Ordering::Relaxed) as f64;
        }
        let mut count = 0;
        for (_, sum) in &mut buckets {
            count += *sum;
            *sum = count;
        }
        Self {
            buckets,
            seconds: nanos / 1e9,
            count,
        }
    }
}
