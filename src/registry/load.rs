//! Loads stored models: all of them at the start, or the newest readable version of one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::config::RegistryConfig;
use super::limits::{LOAD_CONCURRENCY, PROGRESS_INTERVAL};
use super::models::ServedModel;
use crate::store::{ModelName, ReadError, Store, StoreError, Version};

/// The models of a store.
pub(super) struct StoredModels {
    /// Those that can be served.
    pub(super) models: HashMap<ModelName, Arc<ServedModel>>,
    /// Whether the default model is stored, but cannot be read.
    pub(super) default_unreadable: bool,
}

/// Loads all models that can be served.
pub(super) async fn load_all(
    store: &Store,
    config: &RegistryConfig,
) -> Result<StoredModels, StoreError> {
    let start = Instant::now();
    let listed = store.list().await?;
    let default = ModelName::default_model();
    if !listed.contains_key(&default) {
        // Fails if its folder cannot be listed: never replace it with the synthetic one then.
        store.versions(&default).await?;
    }
    let count = listed.len();
    let mut models = HashMap::with_capacity(count);
    let mut loading = stream::iter(listed)
        .map(|(name, versions)| async move {
            let mut newest = load_newest(store, config, &name, &versions).await;
            if newest.is_missing() {
                // Another server stored newer versions since the listing, and removed these.
                let versions = store.versions(&name).await?;
                newest = load_newest(store, config, &name, &versions).await;
            }
            Ok::<_, StoreError>((name, newest))
        })
        .buffer_unordered(LOAD_CONCURRENCY);
    let (mut done, mut last_logged) = (0, start);
    let mut default_unreadable = false;
    while let Some((name, newest)) = loading.try_next().await? {
        match (newest.model, newest.read_error) {
            // A network error is likely to be transient: a later start loads every model. A disk
            // error may be permanent, and one bad file must not block the other models.
            (_, Some(error)) if !store.is_folder() => return Err(error),
            (Some(model), _) => {
                models.insert(name, Arc::new(model));
            }
            (None, read_error)
                if name.is_default() && (read_error.is_some() || newest.has_unsupported) =>
            {
                default_unreadable = true;
            }
            (None, _) => {
                tracing::error!(model = %name, "none of the stored versions can be served");
            }
        }
        done += 1;
        if last_logged.elapsed() > PROGRESS_INTERVAL {
            last_logged = Instant::now();
            tracing::info!("loading models: {done} of {count}");
        }
    }
    if count > 0 {
        let elapsed = start.elapsed();
        tracing::info!(
            "loaded {} of {count} stored models in {elapsed:.1?}",
            models.len()
        );
    }
    Ok(StoredModels {
        models,
        default_unreadable,
    })
}

/// The newest readable version of a model, and the problems of newer ones.
pub(super) struct NewestVersion {
    /// The model, unless no version is readable.
    pub(super) model: Option<ServedModel>,
    /// Why the store could not return a newer version.
    pub(super) read_error: Option<StoreError>,
    /// Whether a newer version has a format that this program does not support.
    pub(super) has_unsupported: bool,
}

impl NewestVersion {
    /// Whether all versions were missing or damaged.
    fn is_missing(&self) -> bool {
        self.model.is_none() && self.read_error.is_none() && !self.has_unsupported
    }
}

/// Loads the newest readable one of `versions`, which are in ascending order. Quarantines damaged
/// versions; skips those that cannot be read or have an unsupported format.
pub(super) async fn load_newest(
    store: &Store,
    config: &RegistryConfig,
    name: &ModelName,
    versions: &[Version],
) -> NewestVersion {
    let mut newest = NewestVersion {
        model: None,
        read_error: None,
        has_unsupported: false,
    };
    for version in versions.iter().rev() {
        let object = store.describe(name, version.number);
        match store.read(name, version.number).await {
            Ok(record) => {
                newest.model = Some(ServedModel::new(record, Some(version.clone()), config));
                return newest;
            }
            // Another server has pruned it.
            Err(ReadError::Missing) => {}
            Err(ReadError::Store(error)) => {
                if store.is_new_problem(&format!("{object}: {error}")) {
                    tracing::error!(model = %name, "{object} cannot be read: {error}");
                }
                newest.read_error = Some(error);
            }
            Err(ReadError::Format(problem)) if problem.is_unsupported() => {
                tracing::warn!(model = %name, "{object} skipped: {problem}");
                newest.has_unsupported = true;
            }
            Err(ReadError::Format(problem)) => {
                let quarantine = match store.quarantine(name, version.number).await {
                    Ok(path) => format!("quarantined as {path}"),
                    Err(error) => format!("cannot quarantine it: {error}"),
                };
                if store.is_new_problem(&format!("{object}: {problem}; {quarantine}")) {
                    tracing::warn!(
                        model = %name,
                        "{object} cannot be served: {problem}; {quarantine}"
                    );
                }
            }
        }
    }
    newest
}
