//! The data stored of a model.

use linfa::ParamGuard;
use serde::{Deserialize, Serialize};

use crate::detector::{Detector, FitOptions, HeldBack, OutOfRange, Window, is_false_alarm_rate};
use crate::forest::{IsolationForestParams, MaxSamples};

/// One version of a model, complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Scaler, forest and threshold.
    pub detector: Detector,
    /// How readings become what the detector scores; `None` if it scores readings.
    pub window: Option<Window>,
    /// Where the threshold comes from; `None` for the contamination.
    pub held_back: Option<HeldBack>,
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
            features: self.features(),
            samples: match &self.window {
                Some(window) => window.readings(),
                None => forest.n_samples(),
            },
            contamination: forest.hyperparams().contamination(),
            n_estimators: forest.hyperparams().n_estimators(),
            max_samples: forest.max_samples(),
            random_state: forest.random_state(),
            threshold: forest.threshold(),
            trained_at: self.trained_at,
            restored_from: self.restored_from,
            settings: self.settings.clone(),
            feature_names: self.feature_names.clone(),
            box_values: forest.boxes().map_or(0, <[f32]>::len),
        }
    }

    /// Number of values in a reading.
    fn features(&self) -> usize {
        match &self.window {
            Some(window) => window.sensors(),
            None => self.detector.forest().n_features(),
        }
    }

    /// Returns the problem of a record that this program never writes.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let names = self.feature_names.len();
        if names != 0 && names != self.features() {
            return Err("it has another number of feature names than of features");
        }
        let margin = self.settings.out_of_range_margin.unwrap_or(0.0);
        let params = self.settings.params(&IsolationForestParams::default());
        if params.check_ref().is_err() || !(margin.is_finite() && margin >= 0.0) {
            return Err("one of its settings is outside its range");
        }
        if let Some(window) = &self.window
            && window.features() != self.detector.forest().n_features()
        {
            return Err("window and forest have different numbers of features");
        }
        if let Some(held_back) = &self.held_back
            && !is_false_alarm_rate(held_back.false_alarm_rate)
        {
            return Err("its false-alarm rate is outside its range");
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
    /// How many numbers the boxes of the forest's nodes have; none if scores do not know distances.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub box_values: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A model's own settings. A field that is `None` follows the server's setting: at each retrain,
/// and, for those that affect predictions, at each start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "StoredSettings", into = "StoredSettings")]
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
    /// See [`FitOptions::false_alarm_rate`].
    pub false_alarm_rate: Option<f64>,
    /// See [`FitOptions::window`].
    pub window: Option<u32>,
    /// What becomes of sensors that drift; `None` leaves them out.
    pub drift: Option<Drift>,
}

/// What becomes of the sensors of a windowed model that drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drift {
    /// They stay in.
    Keep,
}

/// The JSON of [`ModelSettings`]. Earlier releases read it to describe models that they cannot serve,
/// so what they do not know stands in fields that they ignore.
#[derive(Serialize, Deserialize)]
struct StoredSettings {
    contamination: Option<f64>,
    n_estimators: Option<usize>,
    max_samples: Option<MaxSamples>,
    random_state: Option<u32>,
    /// Never [`OutOfRange::Distance`].
    out_of_range: Option<OutOfRange>,
    out_of_range_margin: Option<f64>,
    #[serde(default, skip_serializing_if = "is_false")]
    distance: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    false_alarm_rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drift: Option<Drift>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl From<ModelSettings> for StoredSettings {
    fn from(settings: ModelSettings) -> Self {
        let distance = settings.out_of_range == Some(OutOfRange::Distance);
        Self {
            contamination: settings.contamination,
            n_estimators: settings.n_estimators,
            max_samples: settings.max_samples,
            random_state: settings.random_state,
            out_of_range: settings.out_of_range.filter(|_| !distance),
            out_of_range_margin: settings.out_of_range_margin,
            distance,
            false_alarm_rate: settings.false_alarm_rate,
            window: settings.window,
            drift: settings.drift,
        }
    }
}

impl From<StoredSettings> for ModelSettings {
    fn from(stored: StoredSettings) -> Self {
        Self {
            contamination: stored.contamination,
            n_estimators: stored.n_estimators,
            max_samples: stored.max_samples,
            random_state: stored.random_state,
            out_of_range: if stored.distance {
                Some(OutOfRange::Distance)
            } else {
                stored.out_of_range
            },
            out_of_range_margin: stored.out_of_range_margin,
            false_alarm_rate: stored.false_alarm_rate,
            window: stored.window,
            drift: stored.drift,
        }
    }
}

impl ModelSettings {
    /// The policy for readings out of range: the model's, or else the server's. A window implies
    /// distances.
    pub fn out_of_range(&self, server: OutOfRange) -> OutOfRange {
        let implied = self.window.map(|_| OutOfRange::Distance);
        self.out_of_range.or(implied).unwrap_or(server)
    }

    /// How to fit a detector to readings of several runs; `runs` is empty for a single one.
    pub fn fit_options(&self, server: OutOfRange, runs: Vec<usize>) -> FitOptions {
        FitOptions {
            distance: self.out_of_range(server) == OutOfRange::Distance,
            false_alarm_rate: self.false_alarm_rate,
            window: self.window,
            keep_drifting: self.drift == Some(Drift::Keep),
            runs,
        }
    }

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
