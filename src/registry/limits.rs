//! Limits on the work that a registry does at the same time, and on how often it does it.

use std::time::Duration;

/// How many changes of one model may wait behind the one that runs.
pub(super) const MAX_WAITING_CHANGES: usize = 16;

/// How much estimated work of trainings may wait or run, in time of one processor core. A training
/// whose name has no other is done within this time, which is about as long as clients wait for an
/// answer.
pub(super) const MAX_BACKLOG: Duration = Duration::from_secs(60);

/// How much of that one model may take, so that there is room for others.
pub(super) const MAX_BACKLOG_PER_MODEL: Duration = Duration::from_secs(30);

/// Bodies up to this size, in bytes, are scanned on the thread of all changes, which takes less
/// than a millisecond; larger ones on the blocking pool.
pub(super) const MAX_INLINE_SCAN: usize = 256 * 1024;

/// Threads for blocking work: reading, writing, and compiling the forests that were read. Each
/// takes memory of its own, and more would not make a disk faster.
pub(super) const BLOCKING_THREADS: usize = 3;

/// How long a training waits for memory that loads and other changes hold.
pub(super) const MEMORY_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time between two looks whether there is memory.
pub(super) const MEMORY_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How many models are read at the same time, for requests and for changes of other servers.
pub(super) const LOAD_CONCURRENCY: usize = 16;

/// How often a load starts anew because the model was changed meanwhile.
pub(super) const MAX_LOAD_ATTEMPTS: usize = 4;

/// How many models are fetched at the same time to be loaded in the background. One thread decodes
/// them, which takes longer than to fetch them from a disk; from an object store it does not.
pub(super) const WARM_UP_CONCURRENCY: usize = 4;

/// How often the log reports progress while models are loaded in the background.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Number of polls after which the sync loop lists the whole store even if nothing was announced: a
/// server may have been killed between storing and announcing.
pub(super) const FULL_SCAN_ROUNDS: u32 = 64;

/// How many version numbers to try for a new version while other servers take each one first.
pub(super) const MAX_VERSION_ATTEMPTS: usize = 10;
