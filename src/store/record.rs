//! The data stored of a model.

use linfa::ParamGuard;
use serde::{Deserialize, Serialize};

use crate::detector::{Detector, OutOfRange};
use crate::forest::{IsolationForestParams, MaxSamples};

/// One version of a model, complete.
///
/// Format 1 is this struct in postcard's encoding, so its fields never change; what later versions
/// of this program add goes into sections of format 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Scaler, forest and threshold.
    pub detector: Detector,
    /// Names of the features, in order; empty if they are unnamed.
    pub feature_names: Vec<String>,
    /// Settings given in this model's retrains.
    pub settings: ModelSettings,
    /// Time of training, in milliseconds since 1970.
    pub trained_at: u64,
    /// The version that this one is a copy of.
    pub restored_from: Option<u64>,
}

impl Record {
    /// The metadata, which format 2 also stores apart from the detector.
    pub fn metadata(&self) -> Metadata {
        let forest = self.detector.forest();
        Metadata {
            features: forest.n_features(),
            samples: forest.n_samples(),
            contamination: forest.hyperparams().contamination(),
            n_estimators: forest.hyperparams().n_estimators(),
            max_samples: forest.max_samples(),
            random_state: forest.random_state(),
            threshold: forest.threshold(),
            trained_at: self.trained_at,
            restored_from: self.restored_from,
            settings: self.settings.clone(),
            feature_names: self.feature_names.clone(),
        }
    }

    /// Returns the problem of a record that this program never writes.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let names = self.feature_names.len();
        if names != 0 && names != self.detector.forest().n_features() {
            return Err("it has another number of feature names than of features");
        }
        let margin = self.settings.out_of_range_margin.unwrap_or(0.0);
        let params = self.settings.params(&IsolationForestParams::default());
        if params.check_ref().is_err() || !(margin.is_finite() && margin >= 0.0) {
            return Err("one of its settings is outside its range");
        }
        Ok(())
    }
}

/// Describes one version of a model, without its trees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Number of features.
    pub features: usize,
    /// Number of readings that the model was trained on.
    pub samples: usize,
    /// Share of the training readings taken to be anomalies.
    pub contamination: f64,
    /// Number of trees.
    pub n_estimators: usize,
    /// Readings per tree.
    pub max_samples: usize,
    /// Seed of the training.
    pub random_state: u32,
    /// See [`IsolationForest::threshold`](crate::forest::IsolationForest::threshold).
    pub threshold: f64,
    /// See [`Record::trained_at`].
    pub trained_at: u64,
    /// See [`Record::restored_from`].
    pub restored_from: Option<u64>,
    /// See [`Record::settings`].
    pub settings: ModelSettings,
    /// See [`Record::feature_names`].
    pub feature_names: Vec<String>,
}

/// A model's own settings. A field that is `None` follows the server's setting: at each retrain,
/// and, for those that affect predictions, at each start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ModelSettings {
    /// See [`IsolationForestParams::contamination`].
    pub contamination: Option<f64>,
    /// See [`IsolationForestParams::n_estimators`].
    pub n_estimators: Option<usize>,
    /// See [`IsolationForestParams::max_samples`].
    pub max_samples: Option<MaxSamples>,
    /// See [`IsolationForestParams::random_state`].
    pub random_state: Option<u32>,
    /// See [`Detector::set_out_of_range`].
    pub out_of_range: Option<OutOfRange>,
    /// See [`Detector::set_out_of_range`].
    pub out_of_range_margin: Option<f64>,
}

impl ModelSettings {
    /// The parameters of a fit: the server's, overridden by these.
    pub fn params(&self, server: &IsolationForestParams) -> IsolationForestParams {
        let mut params = server.clone();
        if let Some(contamination) = self.contamination {
            params = params.contamination(contamination);
        }
        if let Some(n_estimators) = self.n_estimators {
            params = params.n_estimators(n_estimators);
        }
        if let Some(max_samples) = self.max_samples {
            params = params.max_samples(max_samples);
        }
        if let Some(random_state) = self.random_state {
            params = params.random_state(random_state);
        }
        params
    }
}
