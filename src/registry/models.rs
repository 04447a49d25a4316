//! The models that are served.
//!
//! Each model is an `Arc` behind an `RwLock`. A reader clones the `Arc` and releases the lock before
//! it predicts; a writer holds the lock only to swap the `Arc`. So predictions never wait for a
//! training, and each uses one consistent detector.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::config::RegistryConfig;
use crate::detector::{Detector, OutOfRange};
use crate::store::{ModelName, ModelSettings, Record, Version};

/// The end of the year 9999, in milliseconds since 1970: RFC 3339 cannot express later times.
const MAX_TIMESTAMP: u64 = 253_402_300_799_999;

/// How many features a warning names: a model may have thousands.
const MAX_NAMED_FEATURES: usize = 16;

/// A model that is served.
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
        // The trees take most of the memory, and only encoding needs them.
        detector.drop_trees();
        let out_of_range = settings.out_of_range.unwrap_or(config.out_of_range);
        let out_of_range_margin = settings
            .out_of_range_margin
            .unwrap_or(config.out_of_range_margin);
        detector.set_out_of_range(out_of_range, out_of_range_margin);
        Self {
            detector,
            feature_names,
            settings,
            out_of_range,
            out_of_range_margin,
            trained_at: UNIX_EPOCH + Duration::from_millis(trained_at.min(MAX_TIMESTAMP)),
            version,
            restored_from,
        }
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
                Some(name) => name.clone(),
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

/// All served models.
#[derive(Debug)]
pub(super) struct Models {
    /// The busiest model, so it does not share the lock of the others.
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
        // A write under the locks only swaps an `Arc`, so a poisoned lock holds valid data.
        Arc::clone(&self.default.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn get(&self, name: &ModelName) -> Option<Arc<ServedModel>> {
        if name.is_default() {
            return Some(self.default_model());
        }
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.get(name).cloned()
    }

    /// All models, sorted by name.
    pub(super) fn all(&self) -> Vec<(ModelName, Arc<ServedModel>)> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = others
            .iter()
            .map(|(name, model)| (name.clone(), Arc::clone(model)))
            .collect();
        all.push((ModelName::default_model(), self.default_model()));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    pub(super) fn set(&self, name: &ModelName, model: Arc<ServedModel>) {
        let previous = if name.is_default() {
            let mut default = self.default.write().unwrap_or_else(PoisonError::into_inner);
            Some(std::mem::replace(&mut *default, model))
        } else {
            let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
            others.insert(name.clone(), model)
        };
        // The lock is released: freeing a large model takes time.
        drop(previous);
    }

    /// Removes a model. The default model cannot be removed.
    pub(super) fn remove(&self, name: &ModelName) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        let previous = others.remove(name);
        drop(others);
        drop(previous);
    }
}
