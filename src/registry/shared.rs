//! The state that callers, changes and the sync loop share.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backlog::Backlog;
use super::config::RegistryConfig;
use super::error::ChangeError;
use super::model_queue::ModelQueues;
use super::models::Models;
use super::training_worker::TrainingWorker;
use crate::store::{ModelName, Store, Version};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) models: Models,
    pub(super) store: Store,
    pub(super) config: RegistryConfig,
    pub(super) queues: Arc<ModelQueues>,
    pub(super) worker: TrainingWorker,
    pub(super) backlog: Arc<Backlog>,
    /// The newest version of each model where this program does not support its format, so that a
    /// full scan does not read it again.
    unsupported_versions: Mutex<HashMap<ModelName, Version>>,
    /// Whether a change has still to be announced to other servers.
    pub(super) needs_announcement: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        models: Models,
        store: Store,
        config: RegistryConfig,
        worker: TrainingWorker,
    ) -> Self {
        Self {
            models,
            store,
            config,
            queues: Arc::default(),
            worker,
            backlog: Arc::default(),
            unsupported_versions: Mutex::default(),
            // A server that was killed may have stored a version without announcing it.
            needs_announcement: AtomicBool::new(true),
        }
    }

    /// The error for a change that cannot wait. Its time to retry is that of all waiting trainings.
    pub(super) fn busy(&self) -> ChangeError {
        ChangeError::Busy {
            retry_after: self.backlog.work(),
        }
    }

    pub(super) fn unsupported_versions(&self) -> MutexGuard<'_, HashMap<ModelName, Version>> {
        self.unsupported_versions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
