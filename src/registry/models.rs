//! The models, in memory or only known by name and version.
//!
//! Each model in memory is an `Arc` behind an `RwLock`. A reader clones the `Arc` and releases the
//! lock before it predicts; a writer holds the lock only to swap the `Arc`. So predictions never
//! wait for a training, and each uses one consistent detector.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::config::RegistryConfig;
use super::metrics::Verdicts;
use crate::detector::{Detector, HeldBack, NormalRange, OutOfRange, TrainingRange, Window};
use crate::escape::escape;
use crate::forest::{boxes_memory, decode_memory};
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
    /// How readings become what the detector scores; `None` if it scores readings.
    pub window: Option<Window>,
    /// Where the threshold comes from; `None` for the contamination.
    pub held_back: Option<HeldBack>,
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
    /// Counts the predictions of all versions of the model.
    pub(crate) verdicts: Arc<Verdicts>,
    /// See [`normal_ranges`](Self::normal_ranges).
    normal_ranges: OnceLock<Option<Vec<NormalRange>>>,
    /// The memory of the model, until the last request that uses it is done.
    memory: Reservation,
    /// The memory of what its forest compiled for the first large batch.
    batch_memory: OnceLock<Reservation>,
}

impl ServedModel {
    pub(super) fn new(
        record: Record,
        version: Option<Version>,
        verdicts: Arc<Verdicts>,
        config: &RegistryConfig,
        budget: &Arc<MemoryBudget>,
    ) -> Self {
        let Record {
            detector: mut fitted,
            window,
            held_back,
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
        let margin = settings
            .out_of_range_margin
            .unwrap_or(config.out_of_range_margin);
        let wanted = settings.out_of_range(config.out_of_range);
        let out_of_range = detector.set_out_of_range(wanted, margin);
        let out_of_range_margin = match out_of_range {
            OutOfRange::Distance => 0.0,
            OutOfRange::Score | OutOfRange::Anomaly => margin,
        };
        let names: usize = feature_names.iter().map(String::capacity).sum();
        let of_window = window.as_ref().map_or(0, Window::memory_size);
        let size = ENTRY_SIZE + detector.memory_size() + of_window + names;
        Self {
            detector,
            window,
            held_back,
            feature_names,
            settings,
            out_of_range,
            out_of_range_margin,
            trained_at: time(trained_at),
            version,
            restored_from,
            verdicts,
            normal_ranges: OnceLock::new(),
            memory: budget.reserve(size),
            batch_memory: OnceLock::new(),
        }
    }

    /// Number of values in a reading.
    pub fn features(&self) -> usize {
        match &self.window {
            Some(window) => window.sensors(),
            None => self.detector.forest().n_features(),
        }
    }

    /// The minimum and maximum of the training readings, one range per value of a reading.
    pub fn training_ranges(&self) -> &[TrainingRange] {
        match &self.window {
            Some(window) => window.training_ranges(),
            None => self.detector.training_ranges(),
        }
    }

    /// The ranges of readings that are labelled normal: see [`Detector::normal_ranges`]. They are
    /// computed when first asked for, which takes about a second if
    /// [this](Self::has_slow_ranges) says so.
    pub fn normal_ranges(&self) -> Option<&[NormalRange]> {
        let ranges = || self.detector.normal_ranges();
        self.normal_ranges.get_or_init(ranges).as_deref()
    }

    /// Whether the normal ranges are still to be searched for, since scores know distances.
    pub fn has_slow_ranges(&self) -> bool {
        let forest = self.detector.forest();
        forest.knows_distance() && forest.n_features() == 1 && self.normal_ranges.get().is_none()
    }

    /// The name of a feature, or its number if it has none.
    fn feature_name(&self, feature: usize) -> String {
        match self.feature_names.get(feature) {
            Some(name) => escape(name).into_owned(),
            None => format!("[{feature}]"),
        }
    }

    /// The bytes that it holds.
    pub fn memory_size(&self) -> usize {
        let batch = self.batch_memory.get();
        self.memory.bytes() + batch.map_or(0, Reservation::bytes)
    }

    /// Counts the memory of what its forest compiled for the first large batch. Returns whether it was
    /// not counted yet.
    pub(super) fn count_memory(&self, budget: &Arc<MemoryBudget>) -> bool {
        let size = self.detector.forest().batch_memory_size();
        if size == 0 || self.batch_memory.get().is_some() {
            return false;
        }
        self.batch_memory.set(budget.reserve(size)).is_ok()
    }

    /// The number of the stored version.
    pub fn version_number(&self) -> Option<u64> {
        self.version.as_ref().map(|version| version.number)
    }

    /// Weaknesses that an operator should know before relying on the model.
    pub fn warnings(&self) -> Vec<String> {
        let knows_distance = self.detector.forest().knows_distance();
        // A reading far enough out always alarms if scores know distances. Constant features make a
        // model blind, which says it all.
        let blindness = if knows_distance {
            None
        } else {
            self.blindness()
        };
        [
            blindness.or_else(|| self.constant_features(knows_distance)),
            self.left_out(),
            self.false_alarms(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// That the model calls readings normal whatever their value.
    fn blindness(&self) -> Option<String> {
        let ranges = self.normal_ranges().unwrap_or_default();
        if ranges
            .iter()
            .any(|range| range.low.is_none() && range.high.is_none())
        {
            return Some(format!(
                "this model can never alarm: it calls every reading normal, because {TOO_ALIKE}"
            ));
        }
        let blind = self.detector.blind_sides();
        let side = match (blind.below, blind.above) {
            (true, true) => "outside",
            (true, false) => "below",
            (false, true) => "above",
            (false, false) => return None,
        };
        Some(format!(
            "this model calls every reading {side} the training range normal, because {TOO_ALIKE}"
        ))
    }

    fn constant_features(&self, knows_distance: bool) -> Option<String> {
        // The features of a window are not those of a reading, and a stuck sensor is a constant one.
        let ranges = self.window.as_ref().map(|window| {
            let ranges = window.training_ranges().iter().enumerate();
            ranges
                .filter(|(_, range)| range.low == range.high)
                .map(|(sensor, _)| sensor)
                .collect::<Vec<_>>()
        });
        let constant = ranges.unwrap_or_else(|| self.detector.constant_features().collect());
        let names = self.listed(constant)?;
        Some(if knows_distance {
            format!(
                "the values of {names} were all alike in training, so distances there are measured in \
                 the unit of the readings; train the model on more varied readings"
            )
        } else {
            format!(
                "the values of {names} do not count, because they were all alike in training; train \
                 it on more varied readings, or set out_of_range to \"anomaly\""
            )
        })
    }

    /// That sensors are left out of a window because they drift.
    fn left_out(&self) -> Option<String> {
        let left_out = self.window.as_ref()?.left_out().collect();
        let names = self.listed(left_out)?;
        Some(format!(
            "{names} drifted in training and is left out: changes there are not seen; if that was \
             chance, or the drift matters, set drift to \"keep\""
        ))
    }

    /// That the false-alarm rate is less than the training readings can promise.
    fn false_alarms(&self) -> Option<String> {
        let held_back = self.held_back?;
        let window = self.window.as_ref().map_or(1, Window::size);
        let promised = held_back.promised_rate(window);
        if promised <= held_back.false_alarm_rate {
            return None;
        }
        Some(format!(
            "a false_alarm_rate of {} cannot be promised after so short a training, only one of {}; \
             train the model on at least {} readings",
            held_back.false_alarm_rate,
            two_digits(promised),
            held_back.needed_scores(window),
        ))
    }

    /// The names of features, for a message; `None` for no features.
    fn listed(&self, features: Vec<usize>) -> Option<String> {
        let names: Vec<String> = features
            .into_iter()
            .take(MAX_NAMED_FEATURES)
            .map(|feature| self.feature_name(feature))
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Number of readings that it was trained on.
    pub fn samples(&self) -> usize {
        match &self.window {
            Some(window) => window.readings(),
            None => self.detector.forest().n_samples(),
        }
    }
}

/// A share with two significant digits.
fn two_digits(share: f64) -> String {
    let decimals = (1.0 - share.log10().floor()).clamp(0.0, 20.0) as usize;
    format!("{share:.decimals$}")
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
    /// The share of normal readings that may be called anomalies: the rate of false alarms, or else
    /// the contamination.
    pub(super) expected_anomaly_ratio: f64,
}

impl Summary {
    fn of(model: &ServedModel) -> Self {
        Self {
            features: model.features(),
            samples: model.samples(),
            trained_at: model.trained_at,
            version: model.version_number(),
            expected_anomaly_ratio: match &model.held_back {
                Some(held_back) => held_back.false_alarm_rate,
                None => model.detector.forest().hyperparams().contamination(),
            },
        }
    }

    pub(super) fn from_metadata(metadata: &Metadata, version: &Version) -> Self {
        Self {
            features: metadata.features,
            samples: metadata.samples,
            trained_at: time(metadata.trained_at),
            version: Some(version.number),
            expected_anomaly_ratio: metadata
                .settings
                .fit_options(OutOfRange::Score, Vec::new())
                .false_alarm_rate()
                .unwrap_or(metadata.contamination),
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
    .saturating_add(boxes_memory(metadata.box_values))
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

    /// How many models there are, and how many of them are in memory.
    pub(super) fn counts(&self) -> (usize, usize) {
        let others = self.read();
        let loaded = others.values().filter(|entry| entry.model.is_some());
        (1 + others.len(), 1 + loaded.count())
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

    /// Removes a model of which no version can be loaded. If it has changed meanwhile, nothing is
    /// done.
    pub(super) fn remove_unloaded(&self, name: &ModelName, expected: &Version) -> bool {
        let mut others = self.write();
        let is_expected = others
            .get(name)
            .is_some_and(|entry| entry.model.is_none() && entry.version == *expected);
        if is_expected {
            others.remove(name);
        }
        is_expected
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
