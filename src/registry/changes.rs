//! Changes of a model, each made while it is that model's turn: nothing is served before it is
//! stored, and what is served stays as it was wherever a step fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::{Change, ChangeError, RegistryConfig, ServedModel, Shared, TrainingRequest};
use crate::detector::Detector;
use crate::store::{self, ModelName, ReadError, Record, Store, StoreError, Version, WriteOutcome};

/// How often to try the next version where other servers are always faster.
const MAX_VERSION_ATTEMPTS: usize = 10;

impl Shared {
    pub(super) async fn retrain<E: From<ChangeError> + Send + 'static>(
        &self,
        name: &ModelName,
        read: impl FnOnce(Option<&ServedModel>) -> Result<TrainingRequest, E> + Send + 'static,
    ) -> Result<Arc<ServedModel>, E> {
        self.refresh_if_shared(name).await?;
        let current = self.models.get(name);
        let config = self.config.clone();
        let model = name.clone();
        let fitted = self.worker.run(move || {
            let training = read(current.as_deref())?;
            let record = fit(&model, training, &config)?;
            let bytes = encode(&record)?;
            Ok::<_, E>((record, bytes))
        });
        let fitted = fitted.await?;
        let (record, bytes) = fitted?;
        Ok(self.store_and_serve(name, record, &bytes).await?)
    }

    pub(super) async fn rollback(
        &self,
        name: &ModelName,
        wanted: Option<u64>,
    ) -> Result<Arc<ServedModel>, ChangeError> {
        self.refresh_if_shared(name).await?;
        let served = self.models.get(name);
        let served = served.ok_or_else(|| ChangeError::NoModel(name.clone()))?;
        let versions = self.store.versions(name).await?;
        let kept: Vec<u64> = versions.iter().map(|version| version.number).collect();
        let candidates = match wanted {
            Some(wanted) if !kept.contains(&wanted) => {
                let name = name.clone();
                return Err(ChangeError::NoVersion { name, wanted, kept });
            }
            Some(wanted) => vec![wanted],
            // After a rollback the one before is older than what was copied, not than the copy.
            None => {
                let now = served.restored_from.or(served.version_number());
                let older = kept.iter().rev().copied();
                older.filter(|&number| Some(number) < now).collect()
            }
        };
        for candidate in candidates {
            match self.store.read(name, candidate).await {
                Ok(mut record) => {
                    record.restored_from = record.restored_from.or(Some(candidate));
                    let bytes = encode(&record)?;
                    return self.store_and_serve(name, record, &bytes).await;
                }
                Err(ReadError::Store(error)) => return Err(error.into()),
                Err(problem) if wanted.is_some() => {
                    return Err(ChangeError::Unreadable {
                        name: name.clone(),
                        wanted: candidate,
                        problem: problem.to_string(),
                    });
                }
                Err(problem) => {
                    tracing::warn!(model = %name, version = candidate, "passed over: {problem}");
                }
            }
        }
        Err(ChangeError::NoOlderVersion {
            name: name.clone(),
            served: served.version_number(),
            restored_from: served.restored_from,
            kept,
        })
    }

    pub(super) async fn delete(&self, name: &ModelName) -> Result<(), ChangeError> {
        if name.is_default() {
            return Err(ChangeError::DefaultStays);
        }
        let versions = self.store.versions(name).await?;
        if versions.is_empty() && self.models.get(name).is_none() {
            return Err(ChangeError::NoModel(name.clone()));
        }
        // From the oldest on: were this cut short, the version that is served would still be there.
        self.store.remove(name, &versions).await?;
        self.models.remove(name);
        tracing::info!(model = %name, "deleted");
        Ok(())
    }

    /// What other servers changed last counts for a change that builds on it. A version that cannot
    /// be read must not keep a better one from being made.
    async fn refresh_if_shared(&self, name: &ModelName) -> Result<(), ChangeError> {
        if self.store.is_shared() {
            self.refresh(name).await?;
        }
        Ok(())
    }

    /// What can be done after a change was answered: tells other servers, and removes versions that
    /// are too old.
    pub(super) async fn announce_and_prune(&self, name: &ModelName, change: Change) {
        let announced = async {
            if self.store.is_shared() {
                self.announce().await?;
            }
            Ok::<_, StoreError>(())
        };
        let removed = async {
            let keep = self.config.keep_versions;
            match change {
                Change::Retrain => {
                    let versions = self.store.versions(name).await?;
                    let too_many = versions.len().saturating_sub(keep);
                    self.store.remove(name, &versions[..too_many]).await
                }
                Change::Rollback => self.remove_copies(name, keep.saturating_mul(2)).await,
                Change::Deletion => Ok(()),
            }
        };
        // Both, whatever comes of the other: where a disk is full, the removal makes room.
        let (announced, removed) = tokio::join!(announced, removed);
        if let Err(error) = announced {
            tracing::warn!(model = %name, "other servers may learn late of this change: {error}");
        }
        if let Err(error) = removed {
            tracing::warn!(model = %name, "older versions may be kept: {error}");
        }
    }

    /// Removes the oldest copies that rollbacks made, until so many versions are left: what was
    /// trained stays, to be rolled back to.
    async fn remove_copies(&self, name: &ModelName, left: usize) -> Result<(), StoreError> {
        let versions = self.store.versions(name).await?;
        let Some((_newest, older)) = versions.split_last() else {
            return Ok(());
        };
        let mut too_many = versions.len().saturating_sub(left);
        for version in older {
            if too_many == 0 {
                break;
            }
            // One that cannot be read is named when it is asked for.
            let Ok(record) = self.store.read(name, version.number).await else {
                continue;
            };
            if record.restored_from.is_some() {
                let version = std::slice::from_ref(version);
                self.store.remove(name, version).await?;
                too_many -= 1;
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
        let version = store_next(&self.store, name, bytes).await;
        if let Err(error) = &version {
            tracing::error!(model = %name, "not stored: {error}");
            // Where the store took it and the answer was lost, it is to be found.
            self.needs_announcement.store(true, Ordering::Relaxed);
        }
        let version = version?;
        let number = version.number;
        let served = Arc::new(ServedModel::new(record, Some(version), &self.config));
        self.models.set(name, Arc::clone(&served));
        tracing::info!(model = %name, version = number, "stored");
        for warning in served.warnings() {
            tracing::warn!(model = %name, "{warning}");
        }
        Ok(served)
    }
}

/// Stores a model as the version after all that are stored: what is served may be older than those,
/// and a version below another one would never be served again.
pub(super) async fn store_next(
    store: &Store,
    name: &ModelName,
    bytes: &[u8],
) -> Result<Version, StoreError> {
    for _ in 0..MAX_VERSION_ATTEMPTS {
        let versions = store.versions(name).await?;
        let newest = versions.last().map_or(0, |version| version.number);
        let number = newest.saturating_add(1);
        match store.write(name, number, bytes).await? {
            WriteOutcome::Stored(version) => return Ok(version),
            WriteOutcome::AlreadyExists => tracing::info!(
                model = %name,
                version = number,
                "there is such a version already; it is kept, and the new one comes after it"
            ),
        }
    }
    Err(StoreError::new(format!(
        "other servers stored {MAX_VERSION_ATTEMPTS} versions of this model at the same time"
    )))
}

pub(super) fn encode(record: &Record) -> Result<Vec<u8>, ChangeError> {
    Ok(store::encode(record).map_err(StoreError::new)?)
}

/// Fits a model and tells the log what one needs to make it again.
pub(super) fn fit(
    name: &ModelName,
    training: TrainingRequest,
    config: &RegistryConfig,
) -> Result<Record, ChangeError> {
    let params = training.settings.params(&config.params);
    let detector = Detector::fit(&params, training.samples)?;
    let forest = detector.forest();
    tracing::info!(
        model = %name,
        readings = forest.n_samples(),
        features = forest.n_features(),
        contamination = forest.hyperparams().contamination(),
        n_estimators = forest.hyperparams().n_estimators(),
        max_samples = %forest.hyperparams().max_samples(),
        random_state = forest.random_state(),
        "trained"
    );
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(Record {
        detector,
        feature_names: training.feature_names,
        settings: training.settings,
        trained_at: now.map_or(0, |now| now.as_millis() as u64),
        restored_from: None,
    })
}
