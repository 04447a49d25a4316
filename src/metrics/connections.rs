//! The connections of a server.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::Exposition;

/// How many connections there are and were.
#[derive(Debug, Default)]
pub struct ConnectionMetrics {
    /// Open connections.
    pub open: AtomicUsize,
    /// Connections that were accepted since the start.
    pub accepted: AtomicU64,
    /// Connections that were closed because there were too many, or they held too much memory.
    pub evicted: AtomicU64,
}

impl ConnectionMetrics {
    /// Writes all of them.
    pub(crate) fn write(&self, text: &mut Exposition) {
        text.gauge("iforest_connections", "Open connections.")
            .sample(&[], self.open.load(Ordering::Relaxed));
        text.counter(
            "iforest_connections_accepted_total",
            "Connections that were accepted.",
        )
        .sample(&[], self.accepted.load(Ordering::Relaxed));
        text.counter(
            "iforest_connections_evicted_total",
            "Connections that were closed to make room for others.",
        )
        .sample(&[], self.evicted.load(Ordering::Relaxed));
    }
}
