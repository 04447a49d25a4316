//! The models, in memory or only known by name and version.
//!
//! Each model in memory is an `Arc` behind an `RwLock`. A reader clones the `Arc` and releases the
//! lock before it predicts; a writer holds the lock only to swap the `Arc`. So predictions never
//! wait for a training, and each uses one consistent detector.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::config::RegistryConfig;
use crate::detector::{Detector, OutOfRange};
use crate::escape::escape;
use crate::forest::decode_memory;
use crate::memory::{MemoryBudget, Reservation};
use crate::store::{Metadata, ModelName, ModelSettings, Record, Version};

/// The end of the year 9999, in milliseconds since 1970: RFC 3339 cannot express later times.
const MAX_TIMESTAMP: u64 = 253_402_300_799_999;

/// How many features a warning names: a model may have thousands.
const MAX_NAMED_FEATURES: usize = 16;

/// Memory of a model's entry in the map, of its names and of its settings, in bytes.
const ENTRY_SIZE: usize = 1024;

/// A model in memory.
#[derive(Debug)]
pub struct ServedModel {
    /// The detector, without its trees.
    pub detector: Detector,
    /// Names of the features, in order; empty if they are unnamed.
    pub feature_names: Vec<String>,
    /// The model's own settings, which its retrains keep.
    pub settings: ModelSettings,
    /// How to predict a reading beyond the training range: the model's setting, or else the server's.
    pub out_of_range: OutOfRange,
    /// Margin around the training range, as a share of its width.
    pub out_of_range_margin: f64,
    /// Time of training.
    pub trained_at: SystemTime,
    /// The stored version; `None` for the synthetic model of a first start.
    pub version: Option<Version>,
    /// The version it is a copy of, after a rollback.
    pub restored_from: Option<u64>,
    /// The memory of the model, until the last request that uses it is done.
    memory: Reservation,
}

impl ServedModel {
    pub(super) fn new(
        record: Record,
        version: Option<Version>,
        config: &RegistryConfig,
        budget: &Arc<MemoryBudget>,
    ) -> Self {
        let Record {
            detector: mut fitted,
            feature_names,
            settings,
            trained_at,
            restored_from,
        } = record;
        // The trees take most of the memory, and only encoding needs them.
        fitted.drop_trees();
        // A copy takes no more than its content, and all copies are made on the registry's thread.
        // glibc gives each thread memory of its own, and can give back none below what is still
        // held: models among what the decoding and training threads free would double the memory.
        let mut detector = fitted.clone();
        drop(fitted);
        let out_of_range = settings.out_of_range.unwrap_or(config.out_of_range);
        let out_of_range_margin = settings
            .out_of_range_margin
            .unwrap_or(config.out_of_range_margin);
        detector.set_out_of_range(out_of_range, out_of_range_margin);
        let names: usize = feature_names.iter().map(String::capacity).sum();
        let size = ENTRY_SIZE + detector.memory_size() + names;
        Self {
            detector,
            feature_names,
            settings,
            out_of_range,
            out_of_range_margin,
            trained_at: time(trained_at),
            version,
            restored_from,
            memory: budget.reserve(size),
        }
    }

    /// The bytes that it holds.
    pub fn memory_size(&self) -> usize {
        self.memory.bytes()
    }

    /// The number of the stored version.
    pub fn version_number(&self) -> Option<u64> {
        self.version.as_ref().map(|version| version.number)
    }

    /// Weaknesses that an operator should know before relying on the model.
    pub fn warnings(&self) -> Vec<String> {
        let ranges = self.detector.normal_ranges().unwrap_or_default();
        if ranges
            .iter()
            .any(|range| range.low.is_none() && range.high.is_none())
        {
            return vec![format!(
                "this model can never alarm: it calls every reading normal, because {TOO_ALIKE}"
            )];
        }
        let blind = self.detector.blind_sides();
        let side = match (blind.below, blind.above) {
            (true, true) => Some("outside"),
            (true, false) => Some("below"),
            (false, true) => Some("above"),
            (false, false) => None,
        };
        if let Some(side) = side {
            return vec![format!(
                "this model calls every reading {side} the training range normal, because \
                 {TOO_ALIKE}"
            )];
        }
        let constant: Vec<String> = self
            .detector
            .constant_features()
            .take(MAX_NAMED_FEATURES)
            .map(|feature| match self.feature_names.get(feature) {
                Some(name) => escape(name).into_owned(),
                None => format!("[{feature}]"),
            })
            .collect();
        if constant.is_empty() {
            return Vec::new();
        }
        vec![format!(
            "the values of {} do not count, because they were all alike in training; train it on \
             more varied readings, or set out_of_range to \"anomaly\"",
            constant.join(", ")
        )]
    }
}

const TOO_ALIKE: &str = "the training readings are too few or too much alike there; train it on \
                         more, or more varied, readings, or set out_of_range to \"anomaly\"";

/// A time in milliseconds since 1970.
fn time(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds.min(MAX_TIMESTAMP))
}

/// Describes a model, in memory or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Number of features.
    pub features: usize,
    /// Number of readings that it was trained on.
    pub samples: usize,
    /// Time of training.
    pub trained_at: SystemTime,
    /// The number of the stored version.
    pub version: Option<u64>,
}

impl Summary {
    fn of(model: &ServedModel) -> Self {
        let forest = model.detector.forest();
        Self {
            features: forest.n_features(),
            samples: forest.n_samples(),
            trained_at: model.trained_at,
            version: model.version_number(),
        }
    }

    pub(super) fn from_metadata(metadata: &Metadata, version: &Version) -> Self {
        Self {
            features: metadata.features,
            samples: metadata.samples,
            trained_at: time(metadata.trained_at),
            version: Some(version.number),
        }
    }
}

/// The memory to decode a version, in bytes.
pub(super) fn load_memory(metadata: &Metadata) -> usize {
    decode_memory(
        metadata.n_estimators,
        metadata.max_samples,
        metadata.features,
    )
}

/// All models.
#[derive(Debug)]
pub(super) struct Models {
    /// The busiest model, so it does not share the lock of the others. Always in memory.
    default: RwLock<Arc<ServedModel>>,
    others: RwLock<HashMap<ModelName, Entry>>,
    /// Counts the loads. A model that is used notes the count, so that of two models the one used
    /// less recently has the smaller number, unless nothing was loaded in between. Unlike a clock,
    /// reading it costs nothing.
    loads: AtomicU64,
}

/// A model other than `default`. It is stored.
#[derive(Debug)]
struct Entry {
    /// The version that is served: that of the model in memory, or the one to load.
    version: Version,
    /// Known once the model or its metadata were read.
    summary: Option<Summary>,
    model: Option<Arc<ServedModel>>,
    /// [`Models::loads`] at the last use.
    used: AtomicU64,
}

impl Entry {
    fn unloaded(version: Version) -> Self {
        Self {
            version,
            summary: None,
            model: None,
            used: AtomicU64::new(0),
        }
    }
}

/// Where a model is.
pub(super) enum Place {
    Memory(Arc<ServedModel>),
    /// Only in the store, under this version.
    Store(Version),
}

impl Models {
    /// The default model, and the newest versions of the others.
    pub(super) fn new(
        default: Arc<ServedModel>,
        others: impl IntoIterator<Item = (ModelName, Version)>,
    ) -> Self {
        let others = others
            .into_iter()
            .map(|(name, version)| (name, Entry::unloaded(version)));
        Self {
            default: RwLock::new(default),
            others: RwLock::new(others.collect()),
            loads: AtomicU64::new(1),
        }
    }

    // A write under the locks only swaps whole values, so a poisoned lock holds valid data.

    fn read(&self) -> RwLockReadGuard<'_, HashMap<ModelName, Entry>> {
        self.others.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<ModelName, Entry>> {
        self.others.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn default_model(&self) -> Arc<ServedModel> {
        Arc::clone(&self.default.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The model, if it is in memory.
    pub(super) fn get(&self, name: &ModelName) -> Option<Arc<ServedModel>> {
        if name.is_default() {
            return Some(self.default_model());
        }
        let others = self.read();
        let entry = others.get(name)?;
        let model = entry.model.as_ref()?;
        entry
            .used
            .store(self.loads.load(Ordering::Relaxed), Ordering::Relaxed);
        Some(Arc::clone(model))
    }

    /// Where the model is; `None` if there is no such model.
    pub(super) fn find(&self, name: &ModelName) -> Option<Place> {
        if let Some(model) = self.get(name) {
            return Some(Place::Memory(model));
        }
        let version = self.read().get(name)?.version.clone();
        Some(Place::Store(version))
    }

    /// The version that is served; `None` if there is no such model or it is not stored.
    pub(super) fn version(&self, name: &ModelName) -> Option<Version> {
        if name.is_default() {
            return self.default_model().version.clone();
        }
        Some(self.read().get(name)?.version.clone())
    }

    pub(super) fn is_loaded(&self, name: &ModelName) -> bool {
        let others = self.read();
        name.is_default() || others.get(name).is_some_and(|entry| entry.model.is_some())
    }

    pub(super) fn contains(&self, name: &ModelName) -> bool {
        name.is_default() || self.read().contains_key(name)
    }

    /// All models with the versions that are served.
    pub(super) fn versions(&self) -> Vec<(ModelName, Option<Version>)> {
        let mut all = vec![(
            ModelName::default_model(),
            self.default_model().version.clone(),
        )];
        let others = self.read();
        all.extend(
            others
                .iter()
                .map(|(name, entry)| (name.clone(), Some(entry.version.clone()))),
        );
        all
    }

    /// The summary of a model, where known.
    pub(super) fn summary(&self, name: &ModelName) -> Option<Summary> {
        if name.is_default() {
            return Some(Summary::of(&self.default_model()));
        }
        self.read().get(name)?.summary.clone()
    }

    /// All models with their summaries where known, sorted by name.
    pub(super) fn summaries(&self) -> Vec<(ModelName, Option<Summary>)> {
        let default = Summary::of(&self.default_model());
        let mut all = vec![(ModelName::default_model(), Some(default))];
        let others = self.read();
        all.extend(
            others
                .iter()
                .map(|(name, entry)| (name.clone(), entry.summary.clone())),
        );
        drop(others);
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// The names of the models that are not in memory, sorted.
    pub(super) fn unloaded(&self) -> Vec<ModelName> {
        let others = self.read();
        let unloaded = others.iter().filter(|(_, entry)| entry.model.is_none());
        let mut names: Vec<_> = unloaded.map(|(name, _)| name.clone()).collect();
        drop(others);
        names.sort();
        names
    }

    /// Serves a model that was trained, or synced from another server.
    pub(super) fn set(&self, name: &ModelName, model: Arc<ServedModel>) {
        if name.is_default() {
            let mut default = self.default.write().unwrap_or_else(PoisonError::into_inner);
            let previous = std::mem::replace(&mut *default, model);
            // Free it without the lock: a large model takes time.
            drop(default);
            drop(previous);
            return;
        }
        let Some(entry) = self.entry(model) else {
            return;
        };
        let previous = self.write().insert(name.clone(), entry);
        drop(previous);
    }

    /// Serves a model that was loaded in place of version `expected`, which was to be loaded. If
    /// that has changed meanwhile, nothing is done.
    pub(super) fn install(
        &self,
        name: &ModelName,
        expected: &Version,
        model: Arc<ServedModel>,
    ) -> bool {
        let Some(loaded) = self.entry(model) else {
            return false;
        };
        let mut others = self.write();
        match others.get_mut(name) {
            Some(entry) if entry.model.is_none() && entry.version == *expected => {
                *entry = loaded;
                true
            }
            _ => false,
        }
    }

    /// An entry for a stored model that is used now.
    fn entry(&self, model: Arc<ServedModel>) -> Option<Entry> {
        Some(Entry {
            version: model.version.clone()?,
            summary: Some(Summary::of(&model)),
            model: Some(model),
            used: AtomicU64::new(self.loads.fetch_add(1, Ordering::Relaxed) + 1),
        })
    }

    /// Notes the version of a model that another server stored, without loading it.
    pub(super) fn note(&self, name: &ModelName, version: Version, summary: Option<Summary>) {
        let entry = Entry {
            summary,
            ..Entry::unloaded(version)
        };
        let previous = self.write().insert(name.clone(), entry);
        drop(previous);
    }

    /// Notes the summary of a version that is not in memory.
    pub(super) fn set_summary(&self, name: &ModelName, version: &Version, summary: Summary) {
        if let Some(entry) = self.write().get_mut(name)
            && entry.version == *version
        {
            entry.summary.get_or_insert(summary);
        }
    }

    /// Removes a model. The default model cannot be removed.
    pub(super) fn remove(&self, name: &ModelName) {
        let previous = self.write().remove(name);
        drop(previous);
    }

    /// Removes a model of which no version can be loaded, unless it has changed meanwhile.
    pub(super) fn remove_unloaded(&self, name: &ModelName, expected: &Version) {
        let mut others = self.write();
        if others
            .get(name)
            .is_some_and(|entry| entry.model.is_none() && entry.version == *expected)
        {
            others.remove(name);
        }
    }

    /// Unloads the models used least recently, until they hold `bytes` together. Unloads none, and
    /// returns `false`, if all of them hold less.
    pub(super) fn unload(&self, bytes: usize) -> bool {
        let mut loaded: Vec<(u64, usize, ModelName)> = self
            .read()
            .iter()
            .filter_map(|(name, entry)| {
                let size = entry.model.as_ref()?.memory_size();
                Some((entry.used.load(Ordering::Relaxed), size, name.clone()))
            })
            .collect();
        let total: usize = loaded.iter().map(|(_, size, _)| size).sum();
        if total == 0 || total < bytes {
            return false;
        }
        loaded.sort_unstable();
        let mut unloaded = Vec::new();
        let mut freed = 0;
        let mut others = self.write();
        for (_, size, name) in loaded {
            if freed >= bytes {
                break;
            }
            unloaded.extend(others.get_mut(&name).and_then(|entry| entry.model.take()));
            freed += size;
        }
        drop(others);
        tracing::debug!("unloaded {} models, {freed} bytes", unloaded.len());
        drop(unloaded);
        true
    }
}
