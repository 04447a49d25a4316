//! Windows: models that judge the last `W` readings together, so that they see changes over time.
//!
//! A window of readings becomes one row of features, the *views* of each sensor: its value, its level
//! (the mean of the window) and its spread (the logarithm of the window's deviation). A
//! [`Detector`](super::Detector) scores that row.
//!
//! * `views`: from readings to views
//! * `drift`: sensors that wander
//! * `stream`: the readings that a model has seen, in order

mod drift;
mod stream;
mod views;

use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use super::algorithm::Detector;
use super::error::DetectorError;
use super::explain::Contribution;
use super::ranges::{TrainingRange, is_outside};
use super::scaler::StandardScaler;

pub(super) use drift::drifting_sensors;
pub use stream::{Judgement, Stream, StreamAnswer};
pub(super) use views::views_of_runs;

/// The views of each sensor.
pub(super) const VIEWS: [View; 3] = [View::Value, View::Level, View::Spread];

/// Maximum number of values in a window, all sensors together. They are added up for every reading,
/// which takes some tens of microseconds, and are kept for each model.
pub const MAX_WINDOW_VALUES: usize = 10_000;

/// What a feature of a model says of a sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// The reading itself.
    Value,
    /// The mean of the window.
    Level,
    /// The logarithm of the window's deviation.
    Spread,
}

/// How readings become the features of a windowed detector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredWindow")]
pub struct Window {
    size: u32,
    /// Number of training readings.
    readings: u64,
    scaler: StandardScaler,
    training_ranges: Vec<TrainingRange>,
    kept: Vec<u32>,
}

/// The serialised form of a window, before its parts are checked against each other.
#[derive(Deserialize)]
struct StoredWindow {
    size: u32,
    readings: u64,
    scaler: StandardScaler,
    training_ranges: Vec<TrainingRange>,
    kept: Vec<u32>,
}

impl TryFrom<StoredWindow> for Window {
    type Error = &'static str;

    fn try_from(stored: StoredWindow) -> Result<Self, Self::Error> {
        let features = stored.scaler.mean().len();
        let values = features.saturating_mul(stored.size as usize);
        let is_sound = stored.size >= 2
            && values <= MAX_WINDOW_VALUES
            && stored.training_ranges.len() == features
            && stored.training_ranges.iter().all(TrainingRange::is_sound)
            && !stored.kept.is_empty()
            && stored.kept.is_sorted_by(|a, b| a < b)
            && stored.kept.iter().all(|&kept| (kept as usize) < features);
        if !is_sound {
            return Err("the window is damaged");
        }
        Ok(Self {
            size: stored.size,
            readings: stored.readings,
            scaler: stored.scaler,
            training_ranges: stored.training_ranges,
            kept: stored.kept,
        })
    }
}

impl Window {
    /// Fits the scaling of readings, of shape (readings, sensors), which must be finite. The sensors
    /// in `kept` become features, in ascending order.
    pub(super) fn fit(
        size: u32,
        readings: ArrayView2<'_, f64>,
        kept: Vec<u32>,
    ) -> Result<Self, DetectorError> {
        Ok(Self {
            size,
            readings: readings.nrows() as u64,
            scaler: StandardScaler::fit(readings)?,
            training_ranges: readings.axis_iter(Axis(1)).map(TrainingRange::of).collect(),
            kept,
        })
    }

    /// Readings in a window.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// Number of readings that it was trained on.
    pub fn readings(&self) -> usize {
        self.readings as usize
    }

    /// Sensors in a reading.
    pub fn sensors(&self) -> usize {
        self.training_ranges.len()
    }

    /// Features of a window: three views of each sensor that is not left out.
    pub fn features(&self) -> usize {
        VIEWS.len() * self.kept.len()
    }

    /// The sensors that were left out because they drifted, ascending.
    pub fn left_out(&self) -> impl Iterator<Item = usize> {
        (0..self.sensors()).filter(|&sensor| !self.kept.contains(&(sensor as u32)))
    }

    /// The sensor and the view of a feature.
    pub fn view(&self, feature: usize) -> (usize, View) {
        let kept = self.kept.len();
        (self.kept[feature % kept] as usize, VIEWS[feature / kept])
    }

    /// The minimum and maximum of each sensor's training readings.
    pub fn training_ranges(&self) -> &[TrainingRange] {
        &self.training_ranges
    }

    /// Whether a reading is outside the training range.
    pub fn is_outside(&self, reading: &[f64]) -> bool {
        is_outside(&self.training_ranges, reading.iter().copied())
    }

    /// The bytes that it holds on the heap.
    pub fn memory_size(&self) -> usize {
        self.scaler.memory_size()
            + size_of::<TrainingRange>() * self.training_ranges.capacity()
            + size_of::<u32>() * self.kept.capacity()
    }

    /// Scales one reading, which must be finite and have a value per sensor.
    ///
    /// # Errors
    ///
    /// [`DetectorError::Overflow`] if a scaled value exceeds the range of `f64`.
    pub fn scale(&self, reading: &[f64]) -> Result<Vec<f64>, DetectorError> {
        let scaled: Vec<f64> = self.scaled(reading).collect();
        match scaled.iter().position(|scaled| !scaled.is_finite()) {
            Some(feature) => Err(DetectorError::Overflow {
                row: Some(0),
                feature,
            }),
            None => Ok(scaled),
        }
    }

    fn scaled(&self, reading: &[f64]) -> impl Iterator<Item = f64> {
        let values = reading.iter().enumerate();
        values.map(|(sensor, &value)| self.scaler.scale_value(sensor, value))
    }

    /// The features of a window: [`size`](Self::size) readings one after the other, the oldest
    /// first.
    pub fn features_of(&self, readings: &[f64]) -> Vec<f64> {
        let mut scaled = Vec::with_capacity(readings.len());
        for reading in readings.chunks_exact(self.sensors()) {
            scaled.extend(self.scaled(reading).map(views::bounded));
        }
        let mut features = vec![0.0; self.features()];
        views::write_views(&scaled, self.sensors(), &self.kept, &mut features);
        features
    }

    /// Judges the last reading of a full window, of [`size`](Self::size) readings one after the
    /// other, the oldest first, each of which can be [scaled](Self::scale).
    pub fn judge(&self, detector: &Detector, readings: &[f64], explain: bool) -> Judgement {
        let features = self.features_of(readings);
        let (anomaly_score, is_anomaly) = detector.judge(&features);
        let contributions = explain.then(|| {
            let shares = detector.shares(&features).into_iter().enumerate();
            shares
                .map(|(feature, share)| {
                    let (feature, view) = self.view(feature);
                    Contribution {
                        feature,
                        view,
                        share,
                    }
                })
                .collect()
        });
        Judgement {
            anomaly_score,
            is_anomaly,
            contributions,
        }
    }

    /// The features of each full window of `runs`, which are the lengths of the runs in `readings`:
    /// windows do not cross from one run to the next.
    pub(super) fn training_features(
        &self,
        readings: ArrayView2<'_, f64>,
        runs: &[usize],
    ) -> Array2<f64> {
        let mut scaled = Vec::with_capacity(readings.len());
        for reading in readings.rows() {
            let values = reading.iter().enumerate();
            scaled
                .extend(values.map(|(sensor, &value)| {
                    views::bounded(self.scaler.scale_value(sensor, value))
                }));
        }
        views_of_runs(&scaled, self.sensors(), &self.kept, self.size(), runs)
    }
}
