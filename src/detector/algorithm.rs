//! The detector and its predictions.

use std::borrow::Cow;

use linfa::ParamGuard;
use linfa::traits::Transformer;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use super::error::DetectorError;
use super::explain::{self, Contribution};
use super::ranges::{BlindSides, NormalRange, OutOfRange, TrainingRange, is_outside};
use super::scaler::StandardScaler;
use super::window::View;
use crate::forest::{
    FitError, IsolationForest, IsolationForestParams, ScoreError, check_finite, first_not_finite,
    percentile,
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
    /// The median of each feature's scaled training readings; empty if they are not known.
    #[serde(skip)]
    medians: Vec<f64>,
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
            medians: Vec::new(),
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
        let (mut detector, scaled) = Self::grow(params, readings, false)?;
        detector.forest.learn_threshold(&scaled);
        Ok(detector)
    }

    /// As [`fit`](Self::fit), with a forest whose scores grow with the distance from the training
    /// readings: see
    /// [`fit_with_distance`](crate::forest::IsolationForestValidParams::fit_with_distance).
    ///
    /// # Errors
    ///
    /// As for [`fit`](Self::fit), and for the fit of such a forest.
    pub fn fit_with_distance(
        params: &IsolationForestParams,
        readings: Array2<f64>,
    ) -> Result<Self, DetectorError> {
        let (mut detector, scaled) = Self::grow(params, readings, true)?;
        detector.forest.learn_threshold(&scaled);
        Ok(detector)
    }

    /// Fits all but the threshold; returns the scaled readings too.
    pub(super) fn grow(
        params: &IsolationForestParams,
        readings: Array2<f64>,
        with_distance: bool,
    ) -> Result<(Self, Array2<f64>), DetectorError> {
        let params = params.check_ref().map_err(FitError::from)?;
        check_finite(&readings)?;
        let scaler = StandardScaler::fit(readings.view())?;
        let training_ranges = readings.axis_iter(Axis(1)).map(TrainingRange::of).collect();
        let scaled = scale(&scaler, readings)?;
        let forest = params.grow(&scaled, with_distance)?;
        let median = |column: ArrayView1<'_, f64>| percentile(&mut column.to_vec(), 50.0);
        let detector = Self {
            scaler,
            forest,
            training_ranges,
            limits: None,
            medians: if with_distance {
                scaled.columns().into_iter().map(median).collect()
            } else {
                Vec::new()
            },
        };
        Ok((detector, scaled))
    }

    /// The parts of a detector that knows distances which serialisation omits; `None` for others.
    pub(crate) fn distance_parts(&self) -> Option<DistanceParts<'_>> {
        Some(DistanceParts {
            medians: Cow::Borrowed(&self.medians),
            boxes: Cow::Borrowed(self.forest.boxes()?),
        })
    }

    /// Gives a deserialised detector the parts that it had.
    ///
    /// # Errors
    ///
    /// A message if these cannot be its parts.
    pub(crate) fn with_distance_parts(
        mut self,
        parts: DistanceParts<'_>,
    ) -> Result<Self, &'static str> {
        let medians = parts.medians.into_owned();
        let is_sound = medians.iter().all(|median| median.is_finite());
        if medians.len() != self.forest.n_features() || !is_sound {
            return Err("the medians of the detector are damaged");
        }
        self.forest = self.forest.with_boxes(parts.boxes.into_owned())?;
        self.medians = medians;
        Ok(self)
    }

    /// The median of a feature's scaled training readings, or their mean where it is not known.
    pub(super) fn median(&self, feature: usize) -> f64 {
        self.medians.get(feature).copied().unwrap_or(0.0)
    }

    /// The share of each feature in what makes a reading abnormal, adding up to 1; empty if none
    /// does. The reading must be finite and of the right width.
    ///
    /// If the reading is farther out than the training readings, the shares are those of the distance:
    /// for a forest that [knows distances](IsolationForest::knows_distance), of the probability that a
    /// random cut parts it from them. Otherwise they are those of the score's drop if the value is
    /// replaced by the median of the training readings, or by their mean if the median was not kept.
    pub fn contributions(&self, reading: &[f64]) -> Vec<Contribution> {
        let shares = self.shares(reading).into_iter().enumerate();
        shares
            .map(|(feature, share)| Contribution {
                feature,
                view: View::Value,
                share,
            })
            .collect()
    }

    /// As [`contributions`](Self::contributions), the shares alone.
    pub(super) fn shares(&self, row: &[f64]) -> Vec<f64> {
        explain::shares(self, row, &self.scale_bounded(row))
    }

    /// Makes an anomaly score the threshold.
    pub(super) fn set_threshold(&mut self, score: f64) {
        self.forest.set_threshold(score);
    }

    /// The anomaly score of each reading, in `(0, 1]`, without regard to the threshold. Values too
    /// far from the training readings to be scaled count as the greatest number.
    ///
    /// # Errors
    ///
    /// [`DetectorError::Score`] if the number of features is wrong or a value is not finite.
    pub(super) fn anomaly_scores(&self, readings: Array2<f64>) -> Result<Vec<f64>, DetectorError> {
        let mut scaled = self.scaler.transform(readings);
        scaled.mapv_inplace(bounded);
        let scores = self.forest.score_samples(&scaled)?;
        Ok(scores.into_iter().map(|score| -score).collect())
    }

    /// The anomaly score of one row of features, relative to the threshold, and whether it is an
    /// anomaly. As [`predict_row`](Self::predict_row), but a value that is too far from the training
    /// readings to be scaled counts as the greatest number. The row must be finite and of the right
    /// width.
    pub(super) fn judge(&self, row: &[f64]) -> (f64, bool) {
        let score = self.forest.decision_function_one(&self.scale_bounded(row));
        // A row that breaks the contract must not pass for normal.
        let score = score.unwrap_or_else(|_| self.forest.max_decision());
        let prediction = self.prediction(row.iter().copied(), score, ());
        (prediction.anomaly_score, prediction.is_anomaly)
    }

    fn scale_bounded(&self, row: &[f64]) -> Vec<f64> {
        let values = row.iter().enumerate();
        values
            .map(|(feature, &value)| bounded(self.scaler.scale_value(feature, value)))
            .collect()
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
            + size_of::<f64>() * self.medians.capacity()
            + self.scaler.memory_size()
    }

    /// The minimum and maximum of the training readings, one range per feature.
    pub fn training_ranges(&self) -> &[TrainingRange] {
        &self.training_ranges
    }

    /// Sets the policy for readings outside the training range by more than `margin`, a share of
    /// the width of that range. Returns the policy that holds: whether the score knows distances is
    /// settled by the fit.
    pub fn set_out_of_range(&mut self, out_of_range: OutOfRange, margin: f64) -> OutOfRange {
        let out_of_range = match out_of_range {
            _ if self.forest.knows_distance() => OutOfRange::Distance,
            OutOfRange::Distance => OutOfRange::Score,
            other => other,
        };
        let ranges = self.training_ranges.iter();
        self.limits = match out_of_range {
            OutOfRange::Score => None,
            OutOfRange::Anomaly => Some(ranges.map(|range| range.widened(margin)).collect()),
            OutOfRange::Distance => Some(ranges.copied().collect()),
        };
        out_of_range
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
        let is_replaced = out_of_range == Some(true)
            && !self.forest.is_anomaly(score)
            && !self.forest.knows_distance();
        let anomaly_score = if is_replaced {
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
        let limits = limits.filter(|_| !self.forest.knows_distance());
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
        let (predictions, scaled) = self.predict_rows_scaled(rows)?;
        let with_scaled =
            |(prediction, scaled): (Prediction<()>, ArrayView1<'_, f64>)| Prediction {
                scaled: scaled.to_vec(),
                anomaly_score: prediction.anomaly_score,
                is_anomaly: prediction.is_anomaly,
                out_of_range: prediction.out_of_range,
            };
        Ok(predictions
            .into_iter()
            .zip(scaled.rows())
            .map(with_scaled)
            .collect())
    }

    /// As [`predict_rows`](Self::predict_rows), with the scaled readings in one array, of the same
    /// shape as `rows` and in row-major order.
    ///
    /// # Errors
    ///
    /// Same as [`predict_rows`](Self::predict_rows).
    pub fn predict_rows_scaled(
        &self,
        rows: ArrayView2<'_, f64>,
    ) -> Result<(Vec<Prediction<()>>, Array2<f64>), DetectorError> {
        self.forest.check_width(rows.ncols())?;
        if let Some((row, feature, value)) = first_not_finite(&rows) {
            let error = ScoreError::NotFinite {
                row,
                feature,
                value,
            };
            return Err(error.into());
        }
        let scaled = scale(&self.scaler, rows.as_standard_layout().into_owned())?;
        let scores = self.forest.decision_function(&scaled)?;
        let predictions = rows
            .rows()
            .into_iter()
            .zip(scores)
            .map(|(row, score)| self.prediction(row.iter().copied(), score, ()));
        Ok((predictions.collect(), scaled))
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
        let (predictions, _) = self.predict_rows_scaled(readings)?;
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

    /// The indices of the features that were constant in training. Under [`OutOfRange::Score`] their
    /// values do not affect predictions; under [`OutOfRange::Distance`] their distances count in the
    /// unit of the readings. Empty under [`OutOfRange::Anomaly`].
    pub fn constant_features(&self) -> impl Iterator<Item = usize> {
        let counts = self.limits.is_none() || self.forest.knows_distance();
        self.training_ranges
            .iter()
            .enumerate()
            .filter(move |(_, range)| counts && range.low == range.high)
            .map(|(feature, _)| feature)
    }
}

/// What a detector that knows distances is stored with, beside its serialised form.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DistanceParts<'a> {
    medians: Cow<'a, [f64]>,
    boxes: Cow<'a, [f32]>,
}

/// A scaled value within the range of `f64`.
fn bounded(scaled: f64) -> f64 {
    scaled.clamp(f64::MIN, f64::MAX)
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
