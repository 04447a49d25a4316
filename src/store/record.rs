//! The data stored of a model.

use serde::{Deserialize, Serialize};

use crate::detector::{Detector, OutOfRange};
use crate::forest::{IsolationForestParams, MaxSamples};

/// The format in which [`Record`] is written. Any change to its fields takes a new number, and the
/// program must still read all earlier formats.
pub(super) const FORMAT: u32 = 1;

/// One version of a model, complete.
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
