//! What is stored becomes what is served: all of it at the start, and then what other servers
//! change.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::changes::{encode, fit, store_next};
use super::model_queue::ModelQueues;
use super::models::Models;
use super::training_worker::TrainingWorker;
use super::{
    Change, DefaultModel, MAX_WAITING_KIB, RegistryConfig, ServedModel, SetupError, Shared,
    TrainingRequest,
};
use crate::store::{FormatError, ModelName, Poll, ReadError, Store, StoreError, Version};

/// How many models are read at the same time.
const LOAD_CONCURRENCY: usize = 16;

/// How often the log tells how far loading is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// After so many intervals without an announcement the store is looked through all the same: a
/// server may have been killed between storing and announcing.
const FULL_SCAN_ROUNDS: u32 = 64;

/// Loads all models, and makes the default one where it is to be made. Also what announcement was
/// the last one before.
pub(super) async fn open(
    store: Store,
    config: RegistryConfig,
    first: DefaultModel,
    worker: TrainingWorker,
) -> Result<(Shared, Option<String>), SetupError> {
    let seen = if store.is_shared() {
        match store.changed_since(None).await? {
            Poll::Changed(e_tag) => e_tag,
            Poll::Unchanged => None,
        }
    } else {
        None
    };
    let (mut models, default_unreadable) = load_all(&store, &config).await?;
    let name = ModelName::default_model();
    let stored = models.remove(&name);
    let changed = matches!(first, DefaultModel::Retrain(_));
    let default = match (first, stored) {
        (DefaultModel::LoadOrTrain(_), Some(stored)) => {
            tracing::info!(
                version = stored.version_number(),
                trained_at = %humantime::format_rfc3339_seconds(stored.trained_at),
                readings = stored.detector.forest().n_samples(),
                contamination = stored.detector.forest().hyperparams().contamination(),
                "serving the stored model default"
            );
            stored
        }
        // What /predict says must not be a synthetic model's only because a disk fails.
        (DefaultModel::LoadOrTrain(_), None) if default_unreadable => {
            return Err(SetupError::DefaultUnreadable);
        }
        (DefaultModel::LoadOrTrain(readings), None) => {
            let fitting = config.clone();
            let fitted = worker.run(move || {
                let training = TrainingRequest {
                    samples: readings(),
                    feature_names: Vec::new(),
                    settings: Default::default(),
                };
                fit(&ModelName::default_model(), training, &fitting)
            });
            Arc::new(ServedModel::new(fitted.await??, None, &config))
        }
        (DefaultModel::Retrain(samples), stored) => {
            let training = TrainingRequest {
                samples,
                feature_names: Vec::new(),
                settings: stored.map_or_else(Default::default, |model| model.settings.clone()),
            };
            let (fitting, model) = (config.clone(), name.clone());
            let fitted = worker.run(move || fit(&model, training, &fitting));
            let record = fitted.await??;
            let version = store_next(&store, &name, &encode(&record)?).await?;
            Arc::new(ServedModel::new(record, Some(version), &config))
        }
    };
    for warning in default.warnings() {
        tracing::warn!(model = %name, "{warning}");
    }
    let shared = Shared {
        models: Models::new(default, models),
        store,
        config,
        queues: Arc::new(ModelQueues::default()),
        worker,
        waiting_kib: Arc::new(Semaphore::new(MAX_WAITING_KIB)),
        unsupported_versions: Mutex::default(),
        // Told at the start too: a server that was killed may have left something untold.
        needs_announcement: AtomicBool::new(true),
    };
    if changed {
        shared.announce_and_prune(&name, Change::Retrain).await;
    }
    Ok((shared, seen))
}

/// All models that can be served; also whether the default one is stored, but not to be read.
async fn load_all(
    store: &Store,
    config: &RegistryConfig,
) -> Result<(HashMap<ModelName, Arc<ServedModel>>, bool), SetupError> {
    let start = Instant::now();
    let listed = store.list().await?;
    let count = listed.len();
    let mut models = HashMap::with_capacity(count);
    let mut loading = stream::iter(listed)
        .map(|(name, versions)| async move {
            let mut loaded = load(store, config, &name, &versions).await;
            if loaded.is_gone() {
                // Another server stored newer ones since they were listed, and removed these.
                let versions = store.versions(&name).await?;
                loaded = load(store, config, &name, &versions).await;
            }
            Ok::<_, StoreError>((name, loaded))
        })
        .buffer_unordered(LOAD_CONCURRENCY);
    let (mut done, mut told) = (0, start);
    let mut default_unreadable = false;
    while let Some((name, loaded)) = loading.try_next().await? {
        match (loaded.model, loaded.unread) {
            // A network may be back in a moment, and the models with it. A disk may not, and then
            // one bad file must not keep the others from being served.
            (_, Some(error)) if !store.is_folder() => return Err(error.into()),
            (Some(model), _) => drop(models.insert(name, Arc::new(model))),
            (None, unread) if name.is_default() && (unread.is_some() || loaded.newer) => {
                default_unreadable = true;
            }
            (None, _) => {
                tracing::error!(model = %name, "none of its stored versions can be served")
            }
        }
        done += 1;
        if told.elapsed() > PROGRESS_INTERVAL {
            told = Instant::now();
            tracing::info!("loading models: {done} of {count}");
        }
    }
    if count > 0 {
        let took = start.elapsed();
        tracing::info!(
            "loaded {} of {count} stored models in {took:.1?}",
            models.len()
        );
    }
    Ok((models, default_unreadable))
}

/// What was found of a model.
struct Loaded {
    /// The newest version that can be served.
    model: Option<ServedModel>,
    /// Why a newer one could not be read.
    unread: Option<StoreError>,
    /// Whether a newer one is of a format that this program does not know yet.
    newer: bool,
}

impl Loaded {
    /// Whether nothing was found, good or bad.
    fn is_gone(&self) -> bool {
        self.model.is_none() && self.unread.is_none() && !self.newer
    }
}

/// Reads the newest of versions that are in ascending order. Damaged ones are set aside; those that
/// cannot be read are passed over.
async fn load(
    store: &Store,
    config: &RegistryConfig,
    name: &ModelName,
    versions: &[Version],
) -> Loaded {
    let mut loaded = Loaded {
        model: None,
        unread: None,
        newer: false,
    };
    for version in versions.iter().rev() {
        let object = store.describe(name, version.number);
        match store.read(name, version.number).await {
            Ok(record) => {
                loaded.model = Some(ServedModel::new(record, Some(version.clone()), config));
                return loaded;
            }
            // Too old by now, and removed by another server.
            Err(ReadError::Missing) => {}
            Err(ReadError::Store(error)) => {
                tracing::error!(model = %name, "{object} cannot be read: {error}");
                loaded.unread = Some(error);
            }
            Err(ReadError::Format(problem @ FormatError::Newer(_))) => {
                tracing::warn!(model = %name, "{object} is passed over: {problem}");
                loaded.newer = true;
            }
            Err(ReadError::Format(problem)) => {
                let aside = match store.quarantine(name, version.number).await {
                    Ok(place) => format!("it is now {place}"),
                    Err(error) => format!("it stays where it is, since {error}"),
                };
                tracing::warn!(model = %name, "{object} cannot be served: {problem}; {aside}");
            }
        }
    }
    loaded
}

impl Shared {
    /// Asks the store at each interval what other servers changed.
    pub(super) async fn sync_loop(self: Arc<Self>, interval: Duration, mut seen: Option<String>) {
        let (mut failing, mut silent) = (false, false);
        // Models that could not be looked at when they should have been.
        let mut pending = BTreeSet::new();
        for round in 1u32.. {
            tokio::time::sleep(interval).await;
            let followed = async {
                let changed = self.store.changed_since(seen.as_deref()).await?;
                if changed != Poll::Unchanged || round % FULL_SCAN_ROUNDS == 0 {
                    pending.extend(self.changed_models().await?);
                }
                Ok::<_, StoreError>(changed)
            };
            match followed.await {
                Ok(changed) => {
                    if let Poll::Changed(now) = changed {
                        seen = now;
                    }
                    if failing {
                        tracing::info!("the store answers again");
                    }
                    failing = false;
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!("what other servers change is not seen for now: {error}");
                    }
                    failing = true;
                    // Nothing is announced either: the store may no longer be in its place.
                    continue;
                }
            }
            pending = self.sync_models(pending).await;
            // By itself, since a store that may only be read, or is full, can be followed as well.
            if self.needs_announcement.swap(false, Ordering::Relaxed) {
                let announced = self.announce().await;
                if let (Err(error), false) = (&announced, silent) {
                    tracing::warn!("other servers are not told of changes for now: {error}");
                }
                silent = announced.is_err();
            }
        }
    }

    /// Tells other servers of a change, or remembers that they are still to be told.
    pub(super) async fn announce(&self) -> Result<(), StoreError> {
        let announced = self.store.announce().await;
        if announced.is_err() {
            self.needs_announcement.store(true, Ordering::Relaxed);
        }
        announced
    }

    /// The models of which something else is stored than served or passed over.
    async fn changed_models(&self) -> Result<BTreeSet<ModelName>, StoreError> {
        let mut stored = self.store.list().await?;
        let mut unsupported_versions = self.unsupported_versions();
        unsupported_versions.retain(|name, _| stored.contains_key(name));
        let mut changed = BTreeSet::new();
        for (name, model) in self.models.all() {
            let stored = stored.remove(&name);
            let newest = stored.as_ref().and_then(|versions| versions.last());
            let served = model.version.as_ref();
            let is_known = match (served, newest) {
                (Some(served), Some(newest)) if served.is(newest) => true,
                // Unless what was served above it is gone.
                (served, Some(newest)) => {
                    unsupported_versions
                        .get(&name)
                        .is_some_and(|unsupported_versions| {
                            let above = served
                                .is_none_or(|served| unsupported_versions.number > served.number);
                            above && unsupported_versions.is(newest)
                        })
                }
                (served, None) => served.is_none(),
            };
            if !is_known {
                changed.insert(name);
            }
        }
        stored.retain(|name, versions| {
            let unsupported_versions = unsupported_versions.get(name).zip(versions.last());
            unsupported_versions
                .is_none_or(|(unsupported_versions, newest)| !unsupported_versions.is(newest))
        });
        changed.extend(stored.into_keys());
        Ok(changed)
    }

    fn unsupported_versions(&self) -> MutexGuard<'_, HashMap<ModelName, Version>> {
        self.unsupported_versions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at models; returns those for which it has to be done again, since they are being
    /// changed here, or the store did not answer.
    async fn sync_models(&self, models: BTreeSet<ModelName>) -> BTreeSet<ModelName> {
        let still_behind = stream::iter(models)
            .map(|name| async move {
                let place = self.queues.enter(&name, usize::MAX)?;
                let turn = place.try_acquire();
                let done = match &turn {
                    // What was listed may be outdated; what is listed now, in its turn, is not.
                    Some(_) => matches!(self.refresh(&name).await, Ok(true)),
                    None => false,
                };
                (!done).then_some(name)
            })
            .buffer_unordered(LOAD_CONCURRENCY)
            .filter_map(async |name| name);
        still_behind.collect().await
    }

    /// Serves what is stored of a model, in its turn; whether all of it could be read. What cannot be
    /// read leaves the model as it is.
    pub(super) async fn refresh(&self, name: &ModelName) -> Result<bool, StoreError> {
        let versions = self.store.versions(name).await?;
        let served = self.models.get(name);
        let served = served.as_ref().and_then(|model| model.version.as_ref());
        if versions.is_empty() {
            if served.is_some() && !name.is_default() {
                self.models.remove(name);
                tracing::info!(model = %name, "deleted by another server");
            }
            return Ok(true);
        }
        // Only what came after the one that is served, if that is still there.
        let position = |served: &Version| versions.iter().position(|version| version.is(served));
        let newer = served.and_then(position).map_or(0, |at| at + 1);
        let loaded = load(&self.store, &self.config, name, &versions[newer..]).await;
        // A network may be back in a moment, and the version with it.
        if loaded.unread.is_some() && !self.store.is_folder() {
            return Ok(false);
        }
        let newest = versions.last();
        let newest = newest.filter(|_| loaded.newer && loaded.unread.is_none());
        match newest {
            Some(newest) => self
                .unsupported_versions()
                .insert(name.clone(), newest.clone()),
            None => self.unsupported_versions().remove(name),
        };
        if let Some(model) = loaded.model {
            let version = model.version_number();
            self.models.set(name, Arc::new(model));
            tracing::info!(model = %name, version, "now served as another server stored it");
        }
        Ok(true)
    }
}
