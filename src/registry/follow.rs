//! What is stored becomes what is served: all of it at the start, and then what other servers
//! change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::changes::{fit, store_next};
use super::models::Models;
use super::turns::Turns;
use super::{ChangeError, First, MAX_WAITING_KIB, Options, Served, SetupError, Shared, Training};
use crate::store::{FormatError, ModelName, ReadError, Store, StoreError, Version};

/// How many models are read at the same time.
const AT_ONCE: usize = 16;

/// How often the log tells how far loading is.
const PROGRESS: Duration = Duration::from_secs(1);

/// After so many intervals without an announcement the store is looked through all the same: a
/// server may have been killed between storing and announcing.
const UNTOLD: u32 = 64;

/// Loads all models, and makes the default one where it is to be made. Also what announcement was
/// the last one before.
pub(super) async fn open(
    store: Store,
    options: Options,
    first: First,
) -> Result<(Shared, Option<String>), SetupError> {
    let seen = if store.is_shared() {
        store.changed_since(None).await?.flatten()
    } else {
        None
    };
    let mut models = load_all(&store, &options).await?;
    let name = ModelName::default_model();
    let stored = models.remove(&name);
    let changed = matches!(first, First::Train(_));
    let default = match (first, stored) {
        (First::Stored(_), Some(stored)) => {
            tracing::info!(
                version = stored.version_number(),
                trained_at = %humantime::format_rfc3339_seconds(stored.trained_at),
                readings = stored.detector.forest().n_samples(),
                contamination = stored.detector.forest().hyperparams().contamination(),
                "serving the stored model default"
            );
            stored
        }
        (First::Stored(readings), None) => {
            let fitting = options.clone();
            let fitted = tokio::task::spawn_blocking(move || {
                let training = Training {
                    samples: readings(),
                    feature_names: Vec::new(),
                    settings: Default::default(),
                };
                fit(&ModelName::default_model(), training, &fitting)
            });
            let fitted = fitted.await.map_err(|_| ChangeError::Interrupted)??;
            Arc::new(Served::new(fitted.record, None, &options))
        }
        (First::Train(samples), stored) => {
            let newest = stored.as_deref().and_then(Served::version_number);
            let training = Training {
                samples,
                feature_names: Vec::new(),
                settings: stored.map_or_else(Default::default, |model| model.settings.clone()),
            };
            let (fitting, model) = (options.clone(), name.clone());
            let fitted = tokio::task::spawn_blocking(move || fit(&model, training, &fitting)).await;
            let fitted = fitted.map_err(|_| ChangeError::Interrupted)??;
            let version = store_next(&store, &name, newest, &fitted.bytes).await?;
            Arc::new(Served::new(fitted.record, Some(version), &options))
        }
    };
    for warning in default.warnings() {
        tracing::warn!(model = %name, "{warning}");
    }
    let shared = Shared {
        models: Models::new(default, models),
        store,
        options,
        turns: Arc::new(Turns::default()),
        fitting: Semaphore::new(1),
        waiting_kib: Arc::new(Semaphore::new(MAX_WAITING_KIB)),
        // Told at the start too: a server that was killed may have left something untold.
        unannounced: AtomicBool::new(true),
    };
    if changed {
        shared.tidy(&name).await;
    }
    Ok((shared, seen))
}

async fn load_all(
    store: &Store,
    options: &Options,
) -> Result<HashMap<ModelName, Arc<Served>>, StoreError> {
    let start = Instant::now();
    let listed = store.list().await?;
    let count = listed.len();
    let mut models = HashMap::with_capacity(count);
    let mut loading = stream::iter(listed)
        .map(|(name, versions)| async move {
            // One file that a disk cannot read must not keep the others from being served.
            let loaded = load(store, options, &name, &versions, store.is_folder()).await?;
            Ok::<_, StoreError>(loaded.map(|model| (name, Arc::new(model))))
        })
        .buffer_unordered(AT_ONCE);
    let (mut done, mut told) = (0, start);
    while let Some(loaded) = loading.try_next().await? {
        models.extend(loaded);
        done += 1;
        if told.elapsed() > PROGRESS {
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
    Ok(models)
}

/// The newest version of a model that can be served. Damaged ones are set aside; those that cannot
/// be read are passed over, or else are an error.
async fn load(
    store: &Store,
    options: &Options,
    name: &ModelName,
    versions: &[Version],
    pass_over: bool,
) -> Result<Option<Served>, StoreError> {
    for version in versions.iter().rev() {
        let object = store.describe(name, version.number);
        match store.read(name, version.number).await {
            Ok(record) => return Ok(Some(Served::new(record, Some(version.clone()), options))),
            // Too old by now, and removed by another server.
            Err(ReadError::Missing) => {}
            Err(ReadError::Store(error)) if pass_over => {
                tracing::error!(model = %name, "{object} cannot be read: {error}");
            }
            Err(ReadError::Store(error)) => return Err(error),
            Err(ReadError::Format(problem @ FormatError::Newer(_))) => {
                tracing::warn!(model = %name, "{object} is passed over: {problem}");
            }
            Err(ReadError::Format(problem)) => {
                let aside = match store.set_aside(name, version.number).await {
                    Ok(place) => format!("it is now {place}"),
                    Err(error) => format!("it stays where it is, since {error}"),
                };
                tracing::warn!(model = %name, "{object} cannot be served: {problem}; {aside}");
            }
        }
    }
    if !versions.is_empty() {
        tracing::error!(model = %name, "none of its stored versions can be served");
    }
    Ok(None)
}

impl Shared {
    /// Asks the store at each interval what other servers changed.
    pub(super) async fn follow(self: Arc<Self>, interval: Duration, mut seen: Option<String>) {
        let (mut failing, mut silent) = (false, false);
        for round in 1u32.. {
            tokio::time::sleep(interval).await;
            let followed = async {
                let changed = self.store.changed_since(seen.as_deref()).await?;
                if changed.is_some() || round % UNTOLD == 0 {
                    self.refresh_all().await?;
                }
                Ok::<_, StoreError>(changed)
            };
            match followed.await {
                Ok(changed) => {
                    if let Some(now) = changed {
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
            // By itself, since a store that may only be read, or is full, can be followed as well.
            if self.unannounced.swap(false, Ordering::Relaxed) {
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
            self.unannounced.store(true, Ordering::Relaxed);
        }
        announced
    }

    async fn refresh_all(&self) -> Result<(), StoreError> {
        let listed = self.store.list().await?;
        let mut newest: BTreeMap<ModelName, Option<&Version>> = listed
            .iter()
            .map(|(name, versions)| (name.clone(), versions.last()))
            .collect();
        for (name, model) in self.models.all() {
            let served = model.version.as_ref();
            let is_served = match newest.get(&name) {
                Some(Some(newest)) => served.is_some_and(|served| served.is(newest)),
                _ => served.is_none(),
            };
            if is_served {
                newest.remove(&name);
            } else {
                newest.entry(name).or_default();
            }
        }
        // The list may be outdated by now, for a model whose turn it just was: so each of those
        // that differ is looked at again in its turn.
        stream::iter(newest.into_keys().map(Ok))
            .try_for_each_concurrent(AT_ONCE, |name| async move {
                let Some(place) = self.turns.enter(&name, usize::MAX) else {
                    return Ok(());
                };
                let _turn = place.turn().await;
                self.refresh(&name).await
            })
            .await
    }

    /// Serves what is stored of a model, in its turn.
    pub(super) async fn refresh(&self, name: &ModelName) -> Result<(), StoreError> {
        let versions = self.store.versions(name).await?;
        let served = self.models.get(name);
        let served = served.as_ref().and_then(|model| model.version.as_ref());
        let is_served = |version: Option<&Version>| {
            served
                .zip(version)
                .is_some_and(|(served, version)| served.is(version))
        };
        if versions.is_empty() {
            if served.is_some() {
                self.models.remove(name);
                tracing::info!(model = %name, "deleted by another server");
            }
            return Ok(());
        }
        if is_served(versions.last()) {
            return Ok(());
        }
        let loaded = load(&self.store, &self.options, name, &versions, false).await?;
        if let Some(loaded) = loaded.filter(|loaded| !is_served(loaded.version.as_ref())) {
            let version = loaded.version_number();
            self.models.set(name, Arc::new(loaded));
            tracing::info!(model = %name, version, "now served as another server stored it");
        }
        Ok(())
    }
}
