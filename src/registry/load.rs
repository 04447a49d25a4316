//! Reads stored models into memory: when they are first asked for, or again after they were
//! unloaded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, Shared as SharedFuture};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::config::RegistryConfig;
use super::error::LoadError;
use super::limits::{LOAD_CONCURRENCY, MAX_LOAD_ATTEMPTS};
use super::metrics::Verdicts;
use super::models::{Place, ServedModel, Summary, load_memory};
use super::shared::Shared;
use crate::memory::{MemoryBudget, Reservation};
use crate::store::{
    self, FormatError, MetadataPrefix, ModelName, ReadError, Record, Store, StoreError, Version,
};

/// Bytes that decoding takes for each byte of a version without readable metadata. Most bytes are
/// those of nodes, which take 10 and more each.
const DECODE_RATIO: usize = 8;

/// The newest readable version of a model, and the problems of newer ones.
pub(super) struct Newest<T> {
    /// What was read, unless no version is readable.
    pub(super) found: Option<T>,
    /// Why the store could not return a newer version.
    pub(super) read_error: Option<StoreError>,
    /// Whether a newer version has a format that this program does not support.
    pub(super) has_unsupported: bool,
    /// Whether a newer version is damaged and still in its place.
    pub(super) has_damaged: bool,
}

impl<T> Newest<T> {
    /// Whether all versions were missing or damaged.
    pub(super) fn is_missing(&self) -> bool {
        self.found.is_none() && self.read_error.is_none() && !self.has_unsupported
    }
}

/// Reads the newest readable one of `versions`, which are in ascending order. Quarantines damaged
/// versions; skips those that cannot be read or have an unsupported format.
///
/// Where no version of the default model is readable, damaged ones stay in their place: otherwise the
/// next start would find none, and make the synthetic model.
pub(super) async fn find_newest<T, F>(
    store: &Store,
    name: &ModelName,
    versions: &[Version],
    read: impl Fn(Version) -> F,
) -> Newest<T>
where
    F: Future<Output = Result<T, ReadError>>,
{
    let mut newest = Newest {
        found: None,
        read_error: None,
        has_unsupported: false,
        has_damaged: false,
    };
    let mut damaged = Vec::new();
    for version in versions.iter().rev() {
        let object = store.describe(name, version.number);
        match read(version.clone()).await {
            Ok(found) => {
                newest.found = Some(found);
                break;
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
            Err(ReadError::Format(problem)) => damaged.push((version.number, object, problem)),
        }
    }
    newest.has_damaged = newest.found.is_none() && name.is_default() && !damaged.is_empty();
    for (version, object, problem) in damaged {
        let place = if newest.has_damaged {
            "it stays in its place".to_owned()
        } else {
            match store.quarantine(name, version).await {
                Ok(path) => format!("quarantined as {path}"),
                Err(error) => format!("cannot quarantine it: {error}"),
            }
        };
        if store.is_new_problem(&format!("{object}: {problem}; {place}")) {
            tracing::warn!(model = %name, "{object} cannot be served: {problem}; {place}");
        }
    }
    newest
}

/// The bytes of a version, and the memory to decode it.
pub(super) struct Fetched {
    bytes: Bytes,
    version: Version,
    _file: Reservation,
    _decoding: Reservation,
}

/// Fetches a version. `None` if there is no memory to decode it: `reserve` reserves that.
pub(super) async fn fetch(
    store: &Store,
    budget: &Arc<MemoryBudget>,
    name: &ModelName,
    version: Version,
    reserve: impl FnOnce(usize) -> Option<Reservation>,
) -> Result<Option<Fetched>, ReadError> {
    let bytes = store.read_bytes(name, version.number).await?;
    let file = budget.reserve(bytes.len());
    let size = match store::decode_metadata(&bytes) {
        MetadataPrefix::Complete(metadata) => load_memory(&metadata),
        _ => bytes.len().saturating_mul(DECODE_RATIO),
    };
    Ok(reserve(size).map(|decoding| Fetched {
        bytes,
        version,
        _file: file,
        _decoding: decoding,
    }))
}

impl Fetched {
    /// Decodes the version, which is too slow for the thread that handles I/O.
    pub(super) fn decode(self) -> Result<Decoded, FormatError> {
        Ok(Decoded {
            record: store::decode(&self.bytes)?,
            fetched: self,
        })
    }
}

/// A decoded version, and the memory that it holds.
pub(super) struct Decoded {
    record: Record,
    fetched: Fetched,
}

impl Decoded {
    /// The record, and what reserves its memory.
    pub(super) fn into_parts(self) -> (Record, Fetched) {
        (self.record, self.fetched)
    }

    /// The model. To be called on the registry's thread: see [`ServedModel::new`].
    pub(super) fn into_model(
        self,
        verdicts: Arc<Verdicts>,
        config: &RegistryConfig,
        budget: &Arc<MemoryBudget>,
    ) -> Arc<ServedModel> {
        let version = Some(self.fetched.version.clone());
        let model = ServedModel::new(self.record, version, verdicts, config, budget);
        Arc::new(model)
    }
}

type LoadResult = Result<Option<Arc<ServedModel>>, LoadError>;
type Load = SharedFuture<BoxFuture<'static, LoadResult>>;

/// The loads that are running, at most one for each model.
#[derive(Debug, Default)]
pub(super) struct Loads(Mutex<HashMap<ModelName, Load>>);

impl Loads {
    fn lock(&self) -> MutexGuard<'_, HashMap<ModelName, Load>> {
        // Each load is inserted and removed in one step, so a poisoned lock holds valid ones.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a load when it has ended, even by a panic.
struct Ending {
    shared: Arc<Shared>,
    name: ModelName,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.loads.lock().remove(&self.name);
    }
}

impl Shared {
    /// The model of this name, loaded if it is not in memory; `None` if there is no such model.
    /// Concurrent callers wait for one load.
    pub(super) async fn get(self: &Arc<Self>, name: &ModelName) -> LoadResult {
        if let Some(model) = self.models.get(name) {
            return Ok(Some(model));
        }
        if !self.models.contains(name) {
            return Ok(None);
        }
        self.join_load(name).await
    }

    fn join_load(self: &Arc<Self>, name: &ModelName) -> Load {
        let mut loads = self.loads.lock();
        if let Some(load) = loads.get(name) {
            return load.clone();
        }
        let ending = Ending {
            shared: Arc::clone(self),
            name: name.clone(),
        };
        let task = self
            .runtime
            .spawn(async move { ending.shared.load(&ending.name).await });
        let load = task
            .map(|result| result.unwrap_or(Err(LoadError::Interrupted)))
            .boxed()
            .shared();
        loads.insert(name.clone(), load.clone());
        load
    }

    /// Loads a model that is not in memory.
    async fn load(&self, name: &ModelName) -> LoadResult {
        // Never closed.
        let _permit = self.load_permits.acquire().await;
        for _ in 0..MAX_LOAD_ATTEMPTS {
            let expected = match self.models.find(name) {
                None => return Ok(None),
                Some(Place::Memory(model)) => return Ok(Some(model)),
                Some(Place::Store(version)) => version,
            };
            let store_failed = |error| LoadError::Store {
                name: name.clone(),
                error,
            };
            let model = match self.read_model(name, expected.clone()).await {
                Ok(model) => model,
                // It was pruned or is damaged, so another version may be there instead.
                Err(_) => {
                    let versions = self.store.versions(name).await.map_err(store_failed)?;
                    let read = |version| self.read_model(name, version);
                    let newest = find_newest(&self.store, name, &versions, read).await;
                    self.note_unsupported(name, &versions, &newest);
                    match (newest.found, newest.read_error) {
                        // A network error is likely to be transient, so no older version is served.
                        (_, Some(error)) if !self.store.is_folder() => {
                            return Err(store_failed(error));
                        }
                        (None, Some(error)) => return Err(store_failed(error)),
                        (None, None) => {
                            tracing::error!(
                                model = %name,
                                "none of the stored versions can be served"
                            );
                            if self.models.remove_unloaded(name, &expected) {
                                self.streams.remove(name);
                                self.metrics.forget(name);
                            }
                            continue;
                        }
                        (Some(model), _) => model,
                    }
                }
            };
            let model = model.ok_or_else(|| LoadError::NoMemory(name.clone()))?;
            // Otherwise the model was changed meanwhile.
            if self.models.install(name, &expected, Arc::clone(&model)) {
                self.unload_excess();
                return Ok(Some(model));
            }
        }
        Err(LoadError::Changing(name.clone()))
    }

    /// Reads a version into memory; `None` if there is no memory for it.
    pub(super) async fn read_model(
        &self,
        name: &ModelName,
        version: Version,
    ) -> Result<Option<Arc<ServedModel>>, ReadError> {
        let decoded = self.decode_version(name, version).await?;
        let verdicts = || self.metrics.verdicts(name);
        Ok(decoded.map(|decoded| decoded.into_model(verdicts(), &self.config, &self.budget)))
    }

    /// Reads and decodes a version; `None` if there is no memory for it.
    pub(super) async fn decode_version(
        &self,
        name: &ModelName,
        version: Version,
    ) -> Result<Option<Decoded>, ReadError> {
        let reserve = |bytes| self.make_room(bytes);
        match fetch(&self.store, &self.budget, name, version, reserve).await? {
            Some(fetched) => self.decoder.run(fetched).await.map(Some),
            None => Ok(None),
        }
    }

    /// Notes the newest version if this program does not support its format, so that a full scan
    /// does not read it again.
    pub(super) fn note_unsupported<T>(
        &self,
        name: &ModelName,
        versions: &[Version],
        newest: &Newest<T>,
    ) {
        let is_unsupported = newest.has_unsupported && newest.read_error.is_none();
        match versions.last().filter(|_| is_unsupported) {
            Some(newest) => self
                .unsupported_versions()
                .insert(name.clone(), newest.clone()),
            None => self.unsupported_versions().remove(name),
        };
    }

    /// Reserves memory, and unloads the models used least recently if it has to; `None` if that does
    /// not free enough.
    pub(super) fn make_room(&self, bytes: usize) -> Option<Reservation> {
        loop {
            if let Some(reservation) = self.budget.try_reserve(bytes) {
                return Some(reservation);
            }
            let missing = self.budget.missing(bytes);
            // Memory of an unloaded model is free only when no request uses the model any more.
            if missing > 0 && !self.models.unload(missing) {
                return None;
            }
        }
    }

    /// Serves a model that was trained, or synced from another server.
    pub(super) fn serve(&self, name: &ModelName, model: &Arc<ServedModel>) {
        self.models.set(name, Arc::clone(model));
        if model.window.is_none() {
            self.streams.remove(name);
        }
        self.unload_excess();
    }

    /// Unloads the models used least recently while the budget is exceeded.
    pub(super) fn unload_excess(&self) {
        let excess = self.budget.missing(0);
        if excess > 0 {
            self.models.unload(excess);
        }
    }

    /// All models, sorted by name. Reads the metadata of those that were not read yet.
    pub(super) async fn list(self: &Arc<Self>) -> Result<Vec<(ModelName, Summary)>, LoadError> {
        let is_unknown = |(_, summary): &(_, Option<Summary>)| summary.is_none();
        let mut all = self.models.summaries();
        if all.iter().any(is_unknown) {
            let shared = Arc::clone(self);
            self.runtime
                .spawn(async move { shared.read_summaries().await })
                .await
                .map_err(|_| LoadError::Interrupted)??;
            all = self.models.summaries();
        }
        let known = all
            .into_iter()
            .filter_map(|(name, summary)| Some((name, summary?)));
        Ok(known.collect())
    }

    async fn read_summaries(self: &Arc<Self>) -> Result<(), LoadError> {
        // One at a time: a second caller then finds all of them read.
        let _turn = self.summaries_turn.lock().await;
        let all = self.models.summaries();
        let unknown = all.into_iter().filter(|(_, summary)| summary.is_none());
        stream::iter(unknown)
            .map(|(name, _)| async move {
                match self.read_summary(&name).await {
                    // A disk error may be permanent, and one bad file must not hide other models.
                    Err(LoadError::Store { .. }) if self.store.is_folder() => Ok(()),
                    result => result,
                }
            })
            .buffer_unordered(LOAD_CONCURRENCY)
            .try_collect()
            .await
    }

    /// Describes a model. Reads its metadata if they were not read yet.
    pub(super) async fn summary(
        self: &Arc<Self>,
        name: &ModelName,
    ) -> Result<Option<Summary>, LoadError> {
        if self.models.contains(name) && self.models.summary(name).is_none() {
            let (shared, name) = (Arc::clone(self), name.clone());
            self.runtime
                .spawn(async move { shared.read_summary(&name).await })
                .await
                .map_err(|_| LoadError::Interrupted)??;
        }
        Ok(self.models.summary(name))
    }

    /// Reads the metadata of a model that is not in memory.
    pub(super) async fn read_summary(self: &Arc<Self>, name: &ModelName) -> Result<(), LoadError> {
        let Some(Place::Store(version)) = self.models.find(name) else {
            return Ok(());
        };
        match self.store.read_metadata(name, version.number).await {
            Ok(metadata) => {
                let summary = Summary::from_metadata(&metadata, &version);
                self.models.set_summary(name, &version, summary);
                Ok(())
            }
            // Loading it finds out which version is served instead.
            Err(_) => self.get(name).await.map(drop),
        }
    }
}
