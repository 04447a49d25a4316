//! Counts and times the operations of a store, and counts those that failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::Store;
use super::error::{ReadError, StoreError};
use crate::metrics::{Exposition, Histogram};

/// The kinds of operations.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    List,
    Read,
    Write,
    Delete,
    Announce,
    Poll,
}

const OPERATIONS: [(&str, Operation); 6] = [
    ("list", Operation::List),
    ("read", Operation::Read),
    ("write", Operation::Write),
    ("delete", Operation::Delete),
    ("announce", Operation::Announce),
    ("poll", Operation::Poll),
];

#[derive(Debug, Default)]
pub(super) struct StoreMetrics([OperationMetrics; OPERATIONS.len()]);

#[derive(Debug, Default)]
struct OperationMetrics {
    errors: AtomicU64,
    successes: AtomicU64,
    durations: Histogram,
}

/// Whether an error is the store's fault.
pub(super) trait IsFailure {
    fn is_failure(&self) -> bool;
}

impl IsFailure for StoreError {
    fn is_failure(&self) -> bool {
        true
    }
}

impl IsFailure for ReadError {
    fn is_failure(&self) -> bool {
        matches!(self, Self::Store(_))
    }
}

impl Store {
    /// Counts an operation, and the time that it takes.
    pub(super) async fn count<T, E: IsFailure>(
        &self,
        operation: Operation,
        run: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let start = Instant::now();
        let result = run.await;
        let metrics = &self.metrics.0[operation as usize];
        metrics.durations.observe(start.elapsed());
        let sum = match &result {
            Err(error) if error.is_failure() => &metrics.errors,
            _ => &metrics.successes,
        };
        sum.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Writes the metrics of the store.
    pub(crate) fn write_metrics(&self, text: &mut Exposition) {
        let metrics = OPERATIONS.map(|(name, operation)| {
            let metrics = &self.metrics.0[operation as usize];
            (name, metrics)
        });
        let mut family = text.counter(
            "iforest_store_operations_total",
            "Operations of the store by kind and result.",
        );
        for (name, metrics) in &metrics {
            for (result, count) in [("success", &metrics.successes), ("error", &metrics.errors)] {
                let labels: [(_, &dyn std::fmt::Display); 2] =
                    [("operation", name), ("result", &result)];
                family.sample(&labels, count.load(Ordering::Relaxed));
            }
        }
        let mut family = text.histogram(
            "iforest_store_operation_duration_seconds",
            "Time of operations of the store.",
        );
        for (name, metrics) in &metrics {
            let durations = std::iter::once(&metrics.durations);
            family.durations(&[("operation", name)], durations);
        }
    }
}
