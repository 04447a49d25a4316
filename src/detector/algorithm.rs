//! The detector and its predictions.

use linfa::ParamGuard;
use linfa::dataset::DatasetBase;
use linfa::traits::{Fit, Transformer};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use super::error::DetectorError;
use super::ranges::{BlindSides, NormalRange, OutOfRange, TrainingRange, is_outside};
use super::scaler::StandardScaler;
use crate::forest::{
    FitError, IsolationForest, IsolationForestParams, ScoreError, first_not_finite,
};

/// A fitted detector for any number of features.
///
/// Serialising it omits the policy set by [`set_out_of_range`](Self::set_out_of_range).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredDetector")]
pub struct Detector {
    scaler: StandardScaler,
    forest: IsolationForest,
    training_ranges: Vec<TrainingRange>,
    /// Readings outside these ranges are anomalies, whatever their score.
    #[serde(skip)]
    limits: Option<Vec<TrainingRange>>,
}

/// The serialised form of a detector, before its parts are checked against each other.
#[derive(Deserialize)]
struct StoredDetector {
    scaler: StandardScaler,
    forest: IsolationForest,
    training_ranges: Vec<TrainingRange>,
}

impl TryFrom<StoredDetector> for Detector {
    type Error = &'static str;

    fn try_from(stored: StoredDetector) -> Result<Self, Self::Error> {
        let features = stored.forest.n_features();
        if stored.scaler.mean().len() != features || stored.training_ranges.len() != features {
            return Err("scaler and forest have different numbers of features");
        }
        if !stored.training_ranges.iter().all(TrainingRange::is_sound) {
            return Err("a training range is damaged");
        }
        Ok(Self {
            scaler: stored.scaler,
            forest: stored.forest,
            training_ranges: stored.training_ranges,
            limits: None,
        })
    }
}

/// The prediction for one reading. `S` is `f64` for a single value and `Vec<f64>` for a reading of
/// several features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction<S = f64> {
    /// The scaled reading, which the forest scores.
    pub scaled: S,
    /// PyOD's decision function: greater is more abnormal; the threshold is near 0.
    pub anomaly_score: f64,
    /// Whether the score is above the threshold.
    pub is_anomaly: bool,
    /// Whether the reading is outside the training range by more than the margin; `None` under
    /// [`OutOfRange::Score`].
    pub out_of_range: Option<bool>,
}

impl Detector {
    /// Fits scaler, forest and threshold to `readings`, of shape (readings, features).
    ///
    /// # Errors
    ///
    /// [`DetectorError::Fit`] if a parameter is outside its range, there are no readings, or one is
    /// not finite; [`DetectorError::Overflow`] if a mean or a scaled reading exceeds the range of
    /// `f64`.
    pub fn fit(
        params: &IsolationForestParams,
        readings: Array2<f64>,
    ) -> Result<Self, DetectorError> {
        let params = params.check_ref().map_err(FitError::from)?;
        if let Some((row, feature, value)) = first_not_finite(&readings) {
            let error = FitError::NotFinite {
                row,
                feature,
                value,
            };
            return Err(error.into());
        }
        let scaler = StandardScaler::fit(readings.view())?;
        let training_ranges = readings.axis_iter(Axis(1)).map(TrainingRange::of).collect();
        let scaled = scale(&scaler, readings)?;
        let forest = params.fit(&DatasetBase::from(scaled))?;
        Ok(Self {
            scaler,
            forest,
            training_ranges,
            limits: None,
        })
    }

    /// The scaler.
    pub fn scaler(&self) -> &StandardScaler {
        &self.scaler
    }

    /// The forest, which scores scaled readings.
    pub fn forest(&self) -> &IsolationForest {
        &self.forest
    }

    /// Frees memory that only serialisation needs; see [`IsolationForest::drop_trees`].
    pub fn drop_trees(&mut self) {
        self.forest.drop_trees();
    }

    /// The bytes that the detector holds, on the heap and in itself.
    pub fn memory_size(&self) -> usize {
        let ranges =
            self.training_ranges.capacity() + self.limits.as_ref().map_or(0, Vec::capacity);
        size_of::<Self>() - size_of::<IsolationForest>()
            + self.forest.memory_size()
            + size_of::<TrainingRange>() * ranges
            + self.scaler.memory_size()
    }

    /// The minimum and maximum of the training readings, one range per feature.
    pub fn training_ranges(&self) -> &[TrainingRange] {
        &self.training_ranges
    }

    /// Sets the policy for readings outside the training range by more than `margin`, a share of
    /// the width of that range.
    pub fn set_out_of_range(&mut self, out_of_range: OutOfRange, margin: f64) {
        self.limits = match out_of_range {
            OutOfRange::Score => None,
            OutOfRange::Anomaly => {
                let limits = self.training_ranges.iter();
                Some(limits.map(|range| range.widened(margin)).collect())
            }
        };
    }

    /// Predicts one value. The detector must have one feature.
    ///
    /// # Errors
    ///
    /// [`DetectorError::Score`] if the detector has several features or the value is not finite;
    /// [`DetectorError::Overflow`] if the scaled value exceeds the range of `f64`.
    pub fn predict(&self, value: f64) -> Result<Prediction, DetectorError> {
        self.forest.check_width(1)?;
        let scaled = self.scaler.scale_value(0, value);
        self.predict_scaled(&[value], &[scaled], scaled)
    }

    /// Predicts one reading; `row` has one value per feature.
    ///
    /// # Errors
    ///
    /// [`DetectorError::Score`] if the number of values is wrong or one is not finite;
    /// [`DetectorError::Overflow`] if a scaled value exceeds the range of `f64`.
    pub fn predict_row(&self, row: &[f64]) -> Result<Prediction<Vec<f64>>, DetectorError> {
        self.forest.check_width(row.len())?;
        let scaled: Vec<f64> = row
            .iter()
            .enumerate()
            .map(|(feature, &value)| self.scaler.scale_value(feature, value))
            .collect();
        let Prediction {
            anomaly_score,
            is_anomaly,
            out_of_range,
            ..
        } = self.predict_scaled(row, &scaled, ())?;
        Ok(Prediction {
            scaled,
            anomaly_score,
            is_anomaly,
            out_of_range,
        })
    }

    fn predict_scaled<S>(
        &self,
        row: &[f64],
        scaled_row: &[f64],
        scaled: S,
    ) -> Result<Prediction<S>, DetectorError> {
        let overflow = row
            .iter()
            .zip(scaled_row)
            .position(|(value, scaled)| value.is_finite() && !scaled.is_finite());
        if let Some(feature) = overflow {
            return Err(DetectorError::Overflow {
                row: Some(0),
                feature,
            });
        }
        let score = self.forest.decision_function_one(scaled_row)?;
        Ok(self.prediction(row.iter().copied(), score, scaled))
    }

    /// Makes the prediction for a reading and its score. A reading out of range that the forest
    /// labels normal gets the greatest score, as if every tree isolated it at its root.
    fn prediction<S>(
        &self,
        row: impl Iterator<Item = f64>,
        score: f64,
        scaled: S,
    ) -> Prediction<S> {
        let limits = self.limits.as_deref();
        let out_of_range = limits.map(|limits| is_outside(limits, row));
        let anomaly_score = if out_of_range == Some(true) && !self.forest.is_anomaly(score) {
            self.forest.max_decision()
        } else {
            score
        };
        Prediction {
            scaled,
            anomaly_score,
            is_anomaly: self.forest.is_anomaly(anomaly_score),
            out_of_range,
        }
    }

    /// The exact ranges of readings that are labelled normal, in ascending order; `None` unless the
    /// detector has one feature. An engineer can use them as alarm limits.
    pub fn normal_ranges(&self) -> Option<Vec<NormalRange>> {
        let scaled_ranges = self.forest.normal_ranges()?;
        let scaled = |reading| self.scaler.scale_value(0, reading) as f32;
        let limits = self.limits.as_ref().map(|limits| limits[0]);
        Some(
            scaled_ranges
                .into_iter()
                .filter_map(|range| NormalRange::from_scaled(range, scaled)?.within(limits))
                .collect(),
        )
    }

    /// Predicts many readings, of shape (readings, features); faster than one by one.
    ///
    /// # Errors
    ///
    /// Same as [`predict_row`](Self::predict_row), with the index of the row.
    pub fn predict_rows(
        &self,
        rows: ArrayView2<'_, f64>,
    ) -> Result<Vec<Prediction<Vec<f64>>>, DetectorError> {
        self.forest.check_width(rows.ncols())?;
        if let Some((row, feature, value)) = first_not_finite(&rows) {
            let error = ScoreError::NotFinite {
                row,
                feature,
                value,
            };
            return Err(error.into());
        }
        let scaled = scale(&self.scaler, rows.to_owned())?;
        let scores = self.forest.decision_function(&scaled)?;
        let predictions =
            rows.rows()
                .into_iter()
                .zip(scaled.rows())
                .zip(scores)
                .map(|((row, scaled), score)| {
                    self.prediction(row.iter().copied(), score, scaled.to_vec())
                });
        Ok(predictions.collect())
    }

    /// The anomaly score of each reading; `readings` has the shape (readings, features).
    ///
    /// # Errors
    ///
    /// Same as [`predict_rows`](Self::predict_rows).
    pub fn decision_function(
        &self,
        readings: ArrayView2<'_, f64>,
    ) -> Result<Array1<f64>, DetectorError> {
        let predictions = self.predict_rows(readings)?;
        Ok(predictions
            .into_iter()
            .map(|prediction| prediction.anomaly_score)
            .collect())
    }

    /// Whether readings far below, and far above, all training readings are labelled normal.
    ///
    /// This happens if all training readings are equal, or if the smallest or greatest reading
    /// makes up more than the contamination share: its score is then the threshold, and no reading
    /// beyond it scores higher. Such a detector stays silent where an engineer expects an alarm.
    pub fn blind_sides(&self) -> BlindSides {
        let is_normal = |value: f32| {
            let row = vec![f64::from(value); self.forest.n_features()];
            let decision = self.forest.decision_function_one(&row);
            self.limits.is_none() && decision.is_ok_and(|score| !self.forest.is_anomaly(score))
        };
        BlindSides {
            below: is_normal(f32::MIN),
            above: is_normal(f32::MAX),
        }
    }

    /// The indices of the features that were constant in training. Their values do not affect
    /// predictions. Empty under [`OutOfRange::Anomaly`].
    pub fn constant_features(&self) -> impl Iterator<Item = usize> {
        self.training_ranges
            .iter()
            .enumerate()
            .filter(|(_, range)| self.limits.is_none() && range.low == range.high)
            .map(|(feature, _)| feature)
    }
}

/// Scales finite readings, and checks that the results are finite.
fn scale(scaler: &StandardScaler, readings: Array2<f64>) -> Result<Array2<f64>, DetectorError> {
    let scaled = scaler.transform(readings);
    match first_not_finite(&scaled) {
        Some((row, feature, _)) => Err(DetectorError::Overflow {
            row: Some(row),
            feature,
        }),
        None => Ok(scaled),
    }
}
