//! Changes of a model. Each runs in that model's turn, serves nothing before it is stored, and
//! leaves the model unchanged if a step fails.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use linfa::ParamGuard;

use super::backlog::BacklogShare;
use super::error::ChangeError;
use super::limits::{MAX_INLINE_SCAN, MEMORY_POLL_INTERVAL, MEMORY_TIMEOUT};
use super::models::ServedModel;
use super::save::{encode, store_next};
use super::shared::Shared;
use super::training::{TrainingEstimate, TrainingRequest, fit, parse_memory, training_memory};
use crate::memory::Reservation;
use crate::store::{ModelName, ReadError, Record, StoreError, Version};

/// The kinds of changes.
#[derive(Debug, Clone, Copy)]
pub(super) enum ChangeKind {
    Retrain,
    Rollback,
    Deletion,
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retrain => "retrain",
            Self::Rollback => "rollback",
            Self::Deletion => "deletion",
        })
    }
}

/// A training that may wait for its turn.
pub(super) struct Admitted {
    share: BacklogShare,
    /// The most numbers that its body may have.
    numbers: usize,
}

impl Shared {
    /// Admits a training whose request holds `size` bytes, by its estimated cost.
    pub(super) async fn admit<E: From<ChangeError> + Send + 'static>(
        self: &Arc<Self>,
        name: &ModelName,
        size: usize,
        estimate: impl FnOnce(Option<&ServedModel>) -> Result<TrainingEstimate, E> + Send + 'static,
    ) -> Result<Admitted, E> {
        let current = self.get(name).await.map_err(ChangeError::from)?;
        let estimate = move || estimate(current.as_deref());
        let TrainingEstimate { nanos, numbers } = if size <= MAX_INLINE_SCAN {
            estimate()?
        } else {
            tokio::task::spawn_blocking(estimate)
                .await
                .map_err(|_| ChangeError::Interrupted)??
        };
        let admitted = self.backlog.admit(name, nanos);
        let share = admitted.map_err(|retry_after| ChangeError::Busy { retry_after })?;
        Ok(Admitted { share, numbers })
    }

    pub(super) async fn retrain<E: From<ChangeError> + Send + 'static>(
        self: &Arc<Self>,
        name: &ModelName,
        admitted: Admitted,
        read: impl FnOnce(Option<&ServedModel>) -> Result<TrainingRequest, E> + Send + 'static,
    ) -> Result<Arc<ServedModel>, E> {
        let current = self.get(name).await.map_err(ChangeError::from)?;
        let (shared, model) = (Arc::clone(self), name.clone());
        let Admitted { mut share, numbers } = admitted;
        let job = move || {
            let start = Instant::now();
            share.begin();
            let mut memory = shared.reserve_training(parse_memory(numbers))?;
            let request = read(current.as_deref())?;
            if let Ok(params) = request.settings.params(&shared.config.params).check() {
                let (rows, features) = request.samples.dim();
                let server = shared.config.out_of_range;
                let options = request.settings.fit_options(server, Vec::new());
                share.correct(options.cost(&params, rows, features).total());
            }
            let samples = request.samples.nrows();
            // The body is freed by now.
            drop(current);
            let needed = training_memory(&request, &shared.config)?;
            drop(memory);
            memory = shared.reserve_training(needed)?;
            let record = fit(&model, request, &shared.config)?;
            let bytes = encode(&record).inspect_err(|_| shared.metrics.training_failed())?;
            memory.shrink(record.detector.memory_size() + bytes.len());
            // The work is done; storing may take long and costs nobody else time.
            drop(share);
            Ok::<_, E>((record, bytes, memory, start.elapsed(), samples))
        };
        let failed = || self.metrics.training_failed();
        let ended = self.worker.run(job).await.inspect_err(|_| failed())?;
        let (record, bytes, memory, duration, samples) = ended?;
        let served = self.store_and_serve(name, record, &bytes).await;
        drop(memory);
        match &served {
            Ok(_) => self.metrics.trained(duration, samples),
            Err(_) => failed(),
        }
        Ok(served?)
    }

    /// Reserves memory for a training. Unloads models if it has to, and waits a while for what is
    /// being loaded or stored. Blocks the thread.
    fn reserve_training(&self, needed: usize) -> Result<Reservation, ChangeError> {
        let default = self.models.default_model().memory_size();
        let available = self.budget.limit().saturating_sub(default);
        if needed > available {
            return Err(ChangeError::TooLarge { needed, available });
        }
        let start = Instant::now();
        loop {
            if let Some(memory) = self.make_room(needed) {
                return Ok(memory);
            }
            let left = MEMORY_TIMEOUT.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(ChangeError::NoMemory);
            }
            // A model that is unloaded may be given back before the wait begins.
            self.budget.wait(left.min(MEMORY_POLL_INTERVAL));
        }
    }

    pub(super) async fn rollback(
        self: &Arc<Self>,
        name: &ModelName,
        requested: Option<u64>,
    ) -> Result<Arc<ServedModel>, ChangeError> {
        let served = self
            .get(name)
            .await?
            .ok_or_else(|| ChangeError::NoModel(name.clone()))?;
        let versions = self.store.versions(name).await?;
        let available: Vec<u64> = versions.iter().map(|version| version.number).collect();
        let candidates = match requested {
            Some(requested) if !available.contains(&requested) => {
                return Err(ChangeError::NoVersion {
                    name: name.clone(),
                    requested,
                    available,
                });
            }
            Some(requested) => vec![requested],
            None => {
                // A copy is as old as its original, so repeated rollbacks go back step by step.
                let current = served.restored_from.or(served.version_number());
                available
                    .iter()
                    .rev()
                    .copied()
                    .filter(|&number| Some(number) < current)
                    .collect()
            }
        };
        for candidate in candidates {
            let version = Version {
                number: candidate,
                e_tag: None,
            };
            match self.decode_version(name, version).await {
                Ok(Some(decoded)) => {
                    let (mut record, _memory) = decoded.into_parts();
                    record.restored_from = record.restored_from.or(Some(candidate));
                    let bytes = encode(&record)?;
                    return self.store_and_serve(name, record, &bytes).await;
                }
                Ok(None) => return Err(ChangeError::NoMemory),
                Err(ReadError::Store(error)) => return Err(error.into()),
                Err(problem) if requested.is_some() => {
                    return Err(ChangeError::Unreadable {
                        name: name.clone(),
                        requested: candidate,
                        problem: problem.to_string(),
                    });
                }
                Err(problem) => {
                    tracing::warn!(model = %name, version = candidate, "skipped: {problem}");
                }
            }
        }
        Err(ChangeError::NoOlderVersion {
            name: name.clone(),
            served: served.version_number(),
            restored_from: served.restored_from,
            available,
        })
    }

    pub(super) async fn delete(&self, name: &ModelName) -> Result<(), ChangeError> {
        if name.is_default() {
            return Err(ChangeError::DefaultStays);
        }
        let versions = self.store.versions(name).await?;
        if versions.is_empty() && !self.models.contains(name) {
            return Err(ChangeError::NoModel(name.clone()));
        }
        // Removes the oldest first: if this is interrupted, the served version is still stored.
        self.store.remove(name, &versions).await?;
        self.models.remove(name);
        self.streams.remove(name);
        self.metrics.forget(name);
        Ok(())
    }

    /// Refreshes the model from the store before a change that builds on it. Ignores versions that
    /// cannot be read, since the change may replace them.
    pub(super) async fn refresh_before(
        &self,
        kind: ChangeKind,
        name: &ModelName,
    ) -> Result<(), ChangeError> {
        let builds_on_it = !matches!(kind, ChangeKind::Deletion);
        if builds_on_it && self.store.is_shared() {
            self.refresh(name).await?;
        }
        Ok(())
    }

    /// The version of a model that is served, if it is stored.
    pub(super) fn served_version(&self, name: &ModelName) -> Option<u64> {
        Some(self.models.version(name)?.number)
    }

    /// Announces a change to other servers and removes old versions. Runs after the change was
    /// answered, so failures are only logged.
    pub(super) async fn announce_and_prune(&self, name: &ModelName, kind: ChangeKind) {
        let announce = async {
            if self.store.is_shared() {
                self.unannounced().extend(name.clone().into());
                self.announce().await?;
            }
            Ok::<_, StoreError>(())
        };
        let prune = async {
            let keep = self.config.keep_versions;
            match kind {
                ChangeKind::Retrain => {
                    let versions = self.store.versions(name).await?;
                    let excess = versions.len().saturating_sub(keep);
                    self.store.remove(name, &versions[..excess]).await
                }
                ChangeKind::Rollback => self.prune_copies(name, keep.saturating_mul(2)).await,
                ChangeKind::Deletion => Ok(()),
            }
        };
        // Prune even if announcing fails: on a full disk it makes room.
        let (announced, pruned) = tokio::join!(announce, prune);
        if let Err(error) = announced {
            tracing::warn!(model = %name, "cannot announce the change to other servers: {error}");
        }
        if let Err(error) = pruned {
            tracing::warn!(model = %name, "cannot remove old versions: {error}");
        }
    }

    /// Removes the oldest copies made by rollbacks until `keep` versions are left. Trained versions
    /// stay available for rollback.
    async fn prune_copies(&self, name: &ModelName, keep: usize) -> Result<(), StoreError> {
        let versions = self.store.versions(name).await?;
        let Some((_newest, older)) = versions.split_last() else {
            return Ok(());
        };
        let mut excess = versions.len().saturating_sub(keep);
        for version in older {
            if excess == 0 {
                break;
            }
            // A version that cannot be read is reported when it is requested.
            let Ok(metadata) = self.store.read_metadata(name, version.number).await else {
                continue;
            };
            if metadata.restored_from.is_some() {
                self.store
                    .remove(name, std::slice::from_ref(version))
                    .await?;
                excess -= 1;
            }
        }
        Ok(())
    }

    async fn store_and_serve(
        &self,
        name: &ModelName,
        record: Record,
        bytes: &[u8],
    ) -> Result<Arc<ServedModel>, ChangeError> {
        let version = store_next(&self.store, name, bytes)
            .await
            .inspect_err(|error| {
                tracing::error!(model = %name, "cannot store the new version: {error}");
                // If only the answer was lost, the announcement lets all servers find the version.
                self.unannounced().extend(name.clone().into());
            })?;
        let served = Arc::new(ServedModel::new(
            record,
            Some(version),
            self.metrics.verdicts(name),
            &self.config,
            &self.budget,
        ));
        self.serve(name, &served);
        for warning in served.warnings() {
            tracing::warn!(model = %name, "{warning}");
        }
        Ok(served)
    }
}
