//! Values that each thread changes on its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

/// One value for each processor core. A thread changes the value of its own core, so threads do not
/// wait for each other; a reader sums up all of them.
#[derive(Debug)]
pub(crate) struct Sharded<T>(Box<[Shard<T>]>);

/// Processors fetch cache lines of 64 bytes in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard<T>(T);

thread_local! {
    static THREAD: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed)
    };
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        // A power of two makes the remainder cheap.
        Self(
            (0..cores.next_power_of_two())
                .map(|_| Shard::default())
                .collect(),
        )
    }
}

impl<T> Sharded<T> {
    /// The value that this thread changes. Other threads may change it too where there are more
    /// threads than cores.
    pub(crate) fn local(&self) -> &T {
        let thread = THREAD.with(|&thread| thread);
        &self.0[thread & (self.0.len() - 1)].0
    }

    /// All values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &shard.0)
    }
}
