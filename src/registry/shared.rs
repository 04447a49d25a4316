//! The state that callers, changes and the sync loop share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::backlog::Backlog;
use super::config::RegistryConfig;
use super::decoder::Decoder;
use super::error::ChangeError;
use super::limits::LOAD_CONCURRENCY;
use super::load::Loads;
use super::metrics::RegistryMetrics;
use super::model_queue::ModelQueues;
use super::models::Models;
use super::streams::Streams;
use super::training_worker::TrainingWorker;
use crate::memory::MemoryBudget;
use crate::store::{Changes, ModelName, Store, Version};

/// The threads that work for a registry.
pub(super) struct Threads {
    pub(super) runtime: Handle,
    pub(super) worker: TrainingWorker,
    pub(super) decoder: Decoder,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) models: Models,
    pub(super) streams: Streams,
    pub(super) store: Store,
    pub(super) config: RegistryConfig,
    /// The memory of models and trainings.
    pub(super) budget: Arc<MemoryBudget>,
    /// Runs loads, which requests on other threads wait for.
    pub(super) runtime: Handle,
    pub(super) loads: Loads,
    /// A permit for each load that requests may run at the same time.
    pub(super) load_permits: Semaphore,
    /// Held while the metadata of all models are read.
    pub(super) summaries_turn: AsyncMutex<()>,
    pub(super) queues: Arc<ModelQueues>,
    pub(super) worker: TrainingWorker,
    pub(super) decoder: Decoder,
    pub(super) backlog: Arc<Backlog>,
    pub(super) metrics: Arc<RegistryMetrics>,
    /// The newest version of each model where this program does not support its format, so that a
    /// full scan does not read it again.
    unsupported_versions: Mutex<HashMap<ModelName, Version>>,
    /// The changes that have still to be announced to other servers.
    unannounced: Mutex<Changes>,
    /// Held while changes are announced.
    pub(super) announcing_turn: AsyncMutex<()>,
}

impl Shared {
    pub(super) fn new(
        models: Models,
        store: Store,
        config: RegistryConfig,
        budget: Arc<MemoryBudget>,
        metrics: Arc<RegistryMetrics>,
        threads: Threads,
    ) -> Self {
        let Threads {
            runtime,
            worker,
            decoder,
        } = threads;
        Self {
            models,
            streams: Streams::default(),
            store,
            config,
            budget,
            runtime,
            loads: Loads::default(),
            load_permits: Semaphore::new(LOAD_CONCURRENCY),
            summaries_turn: AsyncMutex::default(),
            queues: Arc::default(),
            worker,
            decoder,
            backlog: Arc::default(),
            metrics,
            unsupported_versions: Mutex::default(),
            // A server that was killed may have stored a version without announcing it.
            unannounced: Mutex::new(Changes::Any),
            announcing_turn: AsyncMutex::default(),
        }
    }

    /// The error for a change that cannot wait. Its time to retry is that of all waiting trainings.
    pub(super) fn busy(&self) -> ChangeError {
        ChangeError::Busy {
            retry_after: self.backlog.work(),
        }
    }

    pub(super) fn unannounced(&self) -> MutexGuard<'_, Changes> {
        self.unannounced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unsupported_versions(&self) -> MutexGuard<'_, HashMap<ModelName, Version>> {
        self.unsupported_versions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
