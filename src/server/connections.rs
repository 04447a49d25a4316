//! All open connections: how many there may be, and which to close where there are too many.
//!
//! Each connection publishes what it waits for, and since when. The accepting thread reads that,
//! and claims the connection that waited longest. The claim is one atomic exchange, so a connection
//! that receives something at the same instant is either closed before that counts, or kept.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::metrics::ConnectionMetrics;

/// Maximum number of open connections, whatever the limit of open files. An idle one takes 12 KB,
/// so that these take 200 MB.
const MAX_CONNECTIONS: usize = 16_384;

/// Files kept back for the store: 16 models are read at a time, each by a file or a connection to
/// an object store, and as many again may be open idle, or for a change; doubled for safety.
const STORE_FILES: usize = 64;

/// Files kept back for each serving thread: its event queue, its waker, and a connection that is
/// being closed.
const THREAD_FILES: usize = 4;

/// Where the limit of open files is very low, connections get at least this share of it.
const LEAST_SHARE: usize = 4;

/// Maximum number of bytes of unfinished request heads and unsent responses, over all connections.
const MAX_HELD: usize = 64 * 1024 * 1024;

/// A connection in the middle of a request is closed for another one only once it has waited this
/// long. Over a working network, the rest of a request follows sooner.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// How many idle connections to choose at a time, so that a flood of new ones does not look at all
/// connections for each.
const CANDIDATES: usize = 128;

/// How often to look again for a connection to close.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Shortest time between two warnings that the connections are used up.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// The open connections of a server, over all its threads.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    started: Instant,
    max: usize,
    /// Whether there is a processor to spare. On a single one the client would wait for it.
    polls: bool,
    metrics: Arc<ConnectionMetrics>,
    held: AtomicUsize,
    stopping: AtomicBool,
    all: Mutex<All>,
    /// Wakes the accepting thread where it waits for a connection to end.
    freed: Notify,
}

#[derive(Default)]
struct All {
    next_id: u64,
    open: HashMap<u64, Arc<Status>>,
    /// Idle connections with what they published when they were chosen, longest idle last. One that
    /// is still idle since then is still the longest idle.
    candidates: Vec<(u64, Arc<Status>)>,
    last_warned: Option<Instant>,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// For nothing that the client is to do.
    No,
    /// For the next request.
    Idle,
    /// For the rest of a request, or for the client to read its response.
    Client,
}

/// What a connection publishes: 0, or the milliseconds since the start of the server in the upper
/// bits and one of these in the lowest two.
const IDLE: u64 = 1;
const CLIENT: u64 = 2;
const EVICTED: u64 = 3;

/// The state of a connection that other threads see.
#[derive(Default)]
pub(super) struct Status {
    waiting: AtomicU64,
    held: AtomicUsize,
    waker: OnceLock<Waker>,
}

impl Status {
    /// The connection no longer waits. Returns false where it has to be closed instead.
    pub(super) fn resume(&self) -> bool {
        match self.waiting.load(Ordering::Relaxed) {
            0 => true,
            EVICTED => false,
            waiting => self.exchange(waiting, 0),
        }
    }

    fn exchange(&self, from: u64, to: u64) -> bool {
        self.waiting
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    fn evict(&self, waiting: u64) -> bool {
        let evicted = self.exchange(waiting, EVICTED);
        if evicted && let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
        evicted
    }
}

impl Connections {
    /// `files` is how many files the process may have open, if that is limited.
    pub(super) fn new(cores: usize, files: Option<u64>, metrics: Arc<ConnectionMetrics>) -> Self {
        let max = files.map_or(MAX_CONNECTIONS, |files| max_connections(files, cores));
        Self(Arc::new(Shared {
            started: Instant::now(),
            max,
            polls: cores > 1,
            metrics,
            held: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            all: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// Counts a new connection. Where there are too many, closes the one that has been idle
    /// longest, or else the one that has waited longest for its client. If none waits, this one
    /// waits until a connection ends.
    pub(super) async fn admit(&self) -> OpenConnection {
        while self.0.metrics.open.load(Ordering::Acquire) >= self.0.max {
            let freed = self.0.freed.notified();
            self.evict(Victim::AnyWaiting);
            let _ = timeout(RETRY_DELAY, freed).await;
        }
        self.0.metrics.open.fetch_add(1, Ordering::AcqRel);
        self.0.metrics.accepted.fetch_add(1, Ordering::Relaxed);
        let status = Arc::<Status>::default();
        let mut all = self.all();
        let id = all.next_id;
        all.next_id += 1;
        all.open.insert(id, Arc::clone(&status));
        OpenConnection {
            connections: self.clone(),
            id,
            status,
        }
    }

    /// Tells the connections that the server stops.
    pub(super) fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Evicts a connection. Returns false where none waits.
    fn evict(&self, victim: Victim) -> bool {
        let evicted = self.evict_longest_waiting(victim);
        if evicted {
            self.0.metrics.evicted.fetch_add(1, Ordering::Relaxed);
        }
        evicted
    }

    fn evict_longest_waiting(&self, victim: Victim) -> bool {
        let mut all = self.all();
        if victim == Victim::AnyWaiting {
            let now = Instant::now();
            if all
                .last_warned
                .is_none_or(|warned| now.duration_since(warned) > WARN_INTERVAL)
            {
                all.last_warned = Some(now);
                tracing::warn!(
                    "all {} connections are in use: the longest idle ones are closed for new ones; \
                     a higher limit of open files allows up to {MAX_CONNECTIONS}",
                    self.0.max
                );
            }
            for refilled in [false, true] {
                if refilled {
                    all.refill();
                }
                while let Some((waiting, status)) = all.candidates.pop() {
                    if status.evict(waiting) {
                        return true;
                    }
                }
            }
        }
        let before = self.milliseconds(Instant::now());
        let before = before.saturating_sub(EVICTION_GRACE.as_millis() as u64);
        let mut waiting: Vec<(u64, &Arc<Status>)> = all
            .open
            .values()
            .filter(|status| {
                victim == Victim::AnyWaiting || status.held.load(Ordering::Relaxed) > 0
            })
            .map(|status| (status.waiting.load(Ordering::Relaxed), status))
            .filter(|(waiting, _)| waiting & 3 == CLIENT && waiting >> 2 <= before)
            .collect();
        waiting.sort_unstable_by_key(|(waiting, _)| *waiting);
        waiting
            .into_iter()
            .any(|(waiting, status)| status.evict(waiting))
    }

    fn milliseconds(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.0.started).as_millis() as u64
    }

    fn all(&self) -> MutexGuard<'_, All> {
        // Each change is a single insertion or removal, so a poisoned lock holds a good map.
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which connections may be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    AnyWaiting,
    /// Those that hold memory for the rest of a request head or of a response.
    Holding,
}

impl All {
    fn refill(&mut self) {
        let mut idle: Vec<(u64, &Arc<Status>)> = self
            .open
            .values()
            .map(|status| (status.waiting.load(Ordering::Relaxed), status))
            .filter(|(waiting, _)| waiting & 3 == IDLE)
            .collect();
        if idle.len() > CANDIDATES {
            idle.select_nth_unstable_by_key(CANDIDATES, |(waiting, _)| *waiting);
            idle.truncate(CANDIDATES);
        }
        idle.sort_unstable_by_key(|(waiting, _)| Reverse(*waiting));
        self.candidates = idle
            .into_iter()
            .map(|(waiting, status)| (waiting, Arc::clone(status)))
            .collect();
    }
}

/// How many of `files` open files may be connections.
fn max_connections(files: u64, cores: usize) -> usize {
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let kept_back = STORE_FILES + THREAD_FILES * cores;
    files
        .saturating_sub(kept_back)
        .max(files / LEAST_SHARE)
        .clamp(1, MAX_CONNECTIONS)
}

/// A connection that is counted while this lives.
pub(super) struct OpenConnection {
    connections: Connections,
    id: u64,
    status: Arc<Status>,
}

impl OpenConnection {
    pub(super) fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Whether the server has no other connection, and a processor to spare.
    pub(super) fn is_alone(&self) -> bool {
        self.connections.0.polls && self.connections.0.metrics.open.load(Ordering::Relaxed) == 1
    }

    /// Whether the server stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.connections.0.stopping.load(Ordering::Acquire)
    }

    /// Names the task to wake when this connection is evicted.
    pub(super) fn set_waker(&self, waker: &Waker) {
        let _ = self.status.waker.set(waker.clone());
    }

    /// Whether this connection has to be closed for another one.
    pub(super) fn is_evicted(&self) -> bool {
        self.status.waiting.load(Ordering::Relaxed) == EVICTED
    }

    /// Publishes what this connection waits for, and since when. An eviction stays.
    pub(super) fn wait(&self, waiting: Waiting, since: Instant) {
        let kind = match waiting {
            Waiting::No => 0,
            Waiting::Idle => IDLE,
            Waiting::Client => CLIENT,
        };
        let published = match kind {
            0 => 0,
            kind => self.connections.milliseconds(since) << 2 | kind,
        };
        let before = self.status.waiting.load(Ordering::Relaxed);
        if before != EVICTED && before != published {
            // Lost to an eviction at the worst, which the next poll finds.
            self.status.exchange(before, published);
        }
    }

    /// Publishes how many bytes of an unfinished request head, or of an unsent response, this
    /// connection holds. Where all connections hold too many, evicts the one that has waited
    /// longest for its client; returns false if none waits.
    pub(super) fn hold(&self, bytes: usize) -> bool {
        let shared = &self.connections.0;
        let before = self.status.held.swap(bytes, Ordering::Relaxed);
        if bytes <= before {
            shared.held.fetch_sub(before - bytes, Ordering::Relaxed);
            return true;
        }
        let more = bytes - before;
        let held = shared.held.fetch_add(more, Ordering::Relaxed) + more;
        held <= MAX_HELD || self.connections.evict(Victim::Holding)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.hold(0);
        self.status.waiting.store(0, Ordering::Relaxed);
        self.connections.all().open.remove(&self.id);
        let shared = &self.connections.0;
        if shared.metrics.open.fetch_sub(1, Ordering::AcqRel) >= shared.max {
            shared.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn admitted(connections: &Connections) -> Option<OpenConnection> {
        timeout(Duration::from_millis(20), connections.admit())
            .await
            .ok()
    }

    #[tokio::test]
    async fn the_longest_idle_connection_makes_room() {
        let connections = Connections::new(1, Some(12), Arc::default());
        assert_eq!(connections.0.max, 3);
        let start = connections.0.started;
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(admitted(&connections).await.expect("there is room"));
        }
        assert!(admitted(&connections).await.is_none(), "all are busy");
        assert!(open.iter().all(|open| !open.is_evicted()));

        open[0].wait(Waiting::Idle, at(5));
        open[1].wait(Waiting::Idle, at(3));
        open[2].wait(Waiting::Idle, at(4));
        assert!(
            admitted(&connections).await.is_none(),
            "it is not yet closed"
        );
        assert!(open[1].is_evicted());
        assert!(!open[1].status().resume());
        open[1].wait(Waiting::No, at(6));
        assert!(open[1].is_evicted(), "for good");
        drop(open.remove(1));
        let admitted = admitted(&connections).await.expect("there is room");
        assert!(!open[0].is_evicted() && !open[1].is_evicted());
        assert!(open[0].status().resume());
        drop(admitted);
    }

    // The files that the store needs must not be connections, nor must a low limit allow none.
    #[test]
    fn files_are_kept_back_for_the_store() {
        assert_eq!(max_connections(1024, 2), 1024 - 64 - 8);
        assert_eq!(max_connections(40, 2), 10);
        assert_eq!(max_connections(3, 2), 1);
        assert_eq!(max_connections(u64::MAX, 2), MAX_CONNECTIONS);
    }
}
