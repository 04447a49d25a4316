//! What is served now.
//!
//! Every model hangs on an `RwLock` as a pointer. Readers clone the pointer and let go of the lock
//! before they work; a writer holds it only to put another pointer there. So predictions never
//! wait for a training, and each is answered by one whole detector.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::RegistryConfig;
use crate::detector::{Detector, OutOfRange};
use crate::store::{ModelName, ModelSettings, Record, Version};

/// The end of the year 9999, in milliseconds since 1970: later times have no text.
const LATEST: u64 = 253_402_300_799_999;

/// A model as it is served.
#[derive(Debug)]
pub struct ServedModel {
    /// The detector, without its trees.
    pub detector: Detector,
    /// What the features are called, in order; none where they have no names.
    pub feature_names: Vec<String>,
    /// What the model has of its own, which holds for its retrains too.
    pub settings: ModelSettings,
    /// What is said of a reading beyond the training range: the model's own, or the server's.
    pub out_of_range: OutOfRange,
    /// How far beyond, as a share of that range.
    pub out_of_range_margin: f64,
    /// When it was trained.
    pub trained_at: SystemTime,
    /// The version that it is stored as; `None` for the synthetic model of a first start.
    pub version: Option<Version>,
    /// The version that it is a copy of, after a rollback.
    pub restored_from: Option<u64>,
}

impl ServedModel {
    pub(super) fn new(record: Record, version: Option<Version>, config: &RegistryConfig) -> Self {
        let Record {
            mut detector,
            feature_names,
            settings,
            trained_at,
            restored_from,
        } = record;
        // What takes most of the memory is needed for storing alone.
        detector.drop_trees();
        let out_of_range = settings.out_of_range.unwrap_or(config.out_of_range);
        let margin = settings.out_of_range_margin;
        let margin = margin.unwrap_or(config.out_of_range_margin);
        detector.set_out_of_range(out_of_range, margin);
        Self {
            detector,
            feature_names,
            settings,
            out_of_range,
            out_of_range_margin: margin,
            trained_at: UNIX_EPOCH + Duration::from_millis(trained_at.min(LATEST)),
            version,
            restored_from,
        }
    }

    /// The number of the version that it is stored as.
    pub fn version_number(&self) -> Option<u64> {
        self.version.as_ref().map(|version| version.number)
    }

    /// What an operator should know before trusting it.
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
        let idle = self.detector.constant_features();
        let idle: Vec<String> = idle
            .take(MOST_NAMED)
            .map(|feature| match self.feature_names.get(feature) {
                Some(name) => name.clone(),
                None => format!("[{feature}]"),
            })
            .collect();
        if idle.is_empty() {
            return Vec::new();
        }
        vec![format!(
            "the values of {} do not count, because they were all alike in training; train it on \
             more varied readings, or set out_of_range to \"anomaly\"",
            idle.join(", ")
        )]
    }
}

/// A warning need not name a thousand features.
const MOST_NAMED: usize = 16;

const TOO_ALIKE: &str = "the training readings are too few or too much alike there; train it on \
                         more, or more varied, readings, or set out_of_range to \"anomaly\"";

/// All models that are served.
#[derive(Debug)]
pub(super) struct Models {
    /// The one that is asked most, apart from the others.
    default: RwLock<Arc<ServedModel>>,
    others: RwLock<HashMap<ModelName, Arc<ServedModel>>>,
}

impl Models {
    pub(super) fn new(
        default: Arc<ServedModel>,
        others: HashMap<ModelName, Arc<ServedModel>>,
    ) -> Self {
        Self {
            default: RwLock::new(default),
            others: RwLock::new(others),
        }
    }

    pub(super) fn default_model(&self) -> Arc<ServedModel> {
        // Only pointers are ever written under the locks, so a poisoned one holds whole ones.
        Arc::clone(&self.default.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn get(&self, name: &ModelName) -> Option<Arc<ServedModel>> {
        if name.is_default() {
            return Some(self.default_model());
        }
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.get(name).cloned()
    }

    /// All, in the order of their names.
    pub(super) fn all(&self) -> Vec<(ModelName, Arc<ServedModel>)> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        let others = others
            .iter()
            .map(|(name, model)| (name.clone(), Arc::clone(model)));
        let mut all: Vec<_> = others.collect();
        all.push((ModelName::default_model(), self.default_model()));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    pub(super) fn set(&self, name: &ModelName, model: Arc<ServedModel>) {
        let before = if name.is_default() {
            let mut default = self.default.write().unwrap_or_else(PoisonError::into_inner);
            Some(std::mem::replace(&mut *default, model))
        } else {
            let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
            others.insert(name.clone(), model)
        };
        // With the lock let go: to free a large model takes its time.
        drop(before);
    }

    /// Takes a model away; the default one stays.
    pub(super) fn remove(&self, name: &ModelName) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        let before = others.remove(name);
        drop(others);
        drop(before);
    }
}
