//! What is trained, stored and served: scaler, forest and threshold as one value.
//!
//! Every check of shape and finiteness is made here, so that whoever holds a detector can only get
//! a prediction or a clear error from it.
//!
//! * `scaler`: scikit-learn's `StandardScaler`
//! * `ranges`: which readings are normal, and what is said of those beyond the training range

mod ranges;
mod scaler;

use linfa::ParamGuard;
use linfa::dataset::DatasetBase;
use linfa::traits::{Fit, Transformer};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::forest::{FitError, IsolationForest, IsolationForestParams, ScoreError};

pub use ranges::{BlindSides, NormalRange, OutOfRange, TrainingRange};
pub use scaler::StandardScaler;

/// A fitted detector, of any number of features.
///
/// What [`set_out_of_range`](Self::set_out_of_range) chose is not stored with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct Detector {
    scaler: StandardScaler,
    forest: IsolationForest,
    training_ranges: Vec<TrainingRange>,
    /// Beyond these a reading is an anomaly whatever its score.
    #[serde(skip)]
    limits: Option<Vec<TrainingRange>>,
}

/// A detector as it is read, before its parts are found to fit together.
#[derive(Deserialize)]
struct Stored {
    scaler: StandardScaler,
    forest: IsolationForest,
    training_ranges: Vec<TrainingRange>,
}

impl TryFrom<Stored> for Detector {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let features = stored.forest.n_features();
        if stored.scaler.mean().len() != features || stored.training_ranges.len() != features {
            return Err("scaler and forest are of different numbers of features");
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

/// What a detector says of one reading; `S` is a number, or a list of them where a reading is of
/// several features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction<S = f64> {
    /// The reading as the forest sees it.
    pub scaled: S,
    /// PyOD's decision function: greater is more abnormal, near 0 at the border.
    pub anomaly_score: f64,
    /// Whether the score is above the threshold.
    pub is_anomaly: bool,
    /// Whether the reading is beyond the training range, where that makes it an anomaly.
    pub out_of_range: Option<bool>,
}

/// Why a detector could not be fitted, or a reading not be judged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DetectorError {
    /// The forest could not be fitted.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// The readings have another shape than the training data, or are not finite.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// A reading so large that its mean or its distance from the mean is beyond `f64`.
    #[error("{}", describe_overflow(*row, *feature))]
    Overflow {
        /// Index of the reading, or `None` where all readings together are too large.
        row: Option<usize>,
        /// Index of the feature.
        feature: usize,
    },
    /// linfa's scaler refused the data.
    #[error("the readings could not be scaled: {0}")]
    Scaler(String),
}

fn describe_overflow(row: Option<usize>, feature: usize) -> String {
    match row {
        Some(row) => format!(
            "row {row}, feature {feature} is too far from the training readings to be scaled"
        ),
        None => format!("the readings of feature {feature} are too large to be averaged"),
    }
}

impl Detector {
    /// Fits scaler, forest and threshold to readings, one per row.
    ///
    /// # Errors
    ///
    /// [`DetectorError::Fit`] for parameters outside their range, no readings, or one that is not
    /// finite; [`DetectorError::Overflow`] for readings whose mean is not finite.
    pub fn fit(
        params: &IsolationForestParams,
        readings: Array2<f64>,
    ) -> Result<Self, DetectorError> {
        let params = params.check_ref().map_err(FitError::from)?;
        if let Some(((row, feature), &value)) = readings
            .indexed_iter()
            .find(|(_, value)| !value.is_finite())
        {
            let error = FitError::NotFinite {
                row,
                feature,
                value,
            };
            return Err(error.into());
        }
        let scaler = StandardScaler::fit(readings.view())?;
        let columns = readings.axis_iter(Axis(1));
        let training_ranges = columns.map(TrainingRange::of).collect();
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

    /// The forest, which judges scaled readings.
    pub fn forest(&self) -> &IsolationForest {
        &self.forest
    }

    /// Gives back memory that only storing needs; see [`IsolationForest::drop_trees`].
    pub fn drop_trees(&mut self) {
        self.forest.drop_trees();
    }

    /// The least and the greatest training reading of each feature.
    pub fn training_ranges(&self) -> &[TrainingRange] {
        &self.training_ranges
    }

    /// Chooses what is said of a reading beyond the training range by more than `margin`, a share
    /// of the width of that range.
    pub fn set_out_of_range(&mut self, out_of_range: OutOfRange, margin: f64) {
        self.limits = match out_of_range {
            OutOfRange::Score => None,
            OutOfRange::Anomaly => {
                let ranges = self.training_ranges.iter();
                Some(ranges.map(|range| range.widened(margin)).collect())
            }
        };
    }

    /// Judges one value; for a detector of one feature.
    ///
    /// # Errors
    ///
    /// [`DetectorError::Score`] when the detector has several features or the value is not finite;
    /// [`DetectorError::Overflow`] when it is too far from the training readings.
    pub fn predict(&self, value: f64) -> Result<Prediction, DetectorError> {
        self.check_width(1)?;
        let scaled = self.scaler.scale_value(0, value);
        self.predict_scaled(&[value], &[scaled], scaled)
    }

    /// Judges one reading, which has a value for each feature.
    ///
    /// # Errors
    ///
    /// [`DetectorError::Score`] when there are more or fewer values than features, or one is not
    /// finite; [`DetectorError::Overflow`] when one is too far from the training readings.
    pub fn predict_row(&self, row: &[f64]) -> Result<Prediction<Vec<f64>>, DetectorError> {
        self.check_width(row.len())?;
        let values = row.iter().enumerate();
        let scaled: Vec<f64> = values
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
        let mut values = row.iter().zip(scaled_row);
        let overflow = values.position(|(value, scaled)| value.is_finite() && !scaled.is_finite());
        if let Some(feature) = overflow {
            return Err(DetectorError::Overflow {
                row: Some(0),
                feature,
            });
        }
        let score = self.forest.decision_function_one(scaled_row)?;
        Ok(self.prediction(row.iter().copied(), score, scaled))
    }

    /// What a score says of a reading. One out of range that the forest calls normal counts as one
    /// that every tree sets apart at once.
    fn prediction<S>(
        &self,
        row: impl Iterator<Item = f64>,
        score: f64,
        scaled: S,
    ) -> Prediction<S> {
        let limits = self.limits.as_deref();
        let out_of_range = limits.map(|limits| ranges::is_outside(limits, row));
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

    fn check_width(&self, got: usize) -> Result<(), DetectorError> {
        let expected = self.forest.n_features();
        if got == expected {
            Ok(())
        } else {
            Err(ScoreError::Width { expected, got }.into())
        }
    }

    /// For a detector of one feature, the ranges of readings that it calls normal, exactly and in
    /// ascending order: alarm limits, as an engineer would program them.
    pub fn normal_ranges(&self) -> Option<Vec<NormalRange>> {
        let ranges = self.forest.normal_ranges()?;
        let scaled = |reading| self.scaler.scale_value(0, reading) as f32;
        let limits = self.limits.as_ref().map(|limits| limits[0]);
        let ranges = ranges.into_iter();
        Some(
            ranges
                .filter_map(|range| NormalRange::from_scaled(range, scaled)?.within(limits))
                .collect(),
        )
    }

    /// Judges many readings, one per row, faster than one by one.
    ///
    /// # Errors
    ///
    /// As [`predict_row`](Self::predict_row), naming the row.
    pub fn predict_rows(
        &self,
        rows: ArrayView2<'_, f64>,
    ) -> Result<Vec<Prediction<Vec<f64>>>, DetectorError> {
        self.check_width(rows.ncols())?;
        if let Some(((row, feature), &value)) =
            rows.indexed_iter().find(|(_, value)| !value.is_finite())
        {
            let error = ScoreError::NotFinite {
                row,
                feature,
                value,
            };
            return Err(error.into());
        }
        let scaled = scale(&self.scaler, rows.to_owned())?;
        let scores = self.forest.decision_function(&scaled)?;
        let rows = rows.rows().into_iter().zip(scaled.rows()).zip(scores);
        let judged = rows.map(|((row, scaled), score)| {
            self.prediction(row.iter().copied(), score, scaled.to_vec())
        });
        Ok(judged.collect())
    }

    /// The anomaly score of each row of readings.
    ///
    /// # Errors
    ///
    /// As [`predict_rows`](Self::predict_rows).
    pub fn decision_function(
        &self,
        readings: ArrayView2<'_, f64>,
    ) -> Result<Array1<f64>, DetectorError> {
        let judged = self.predict_rows(readings)?;
        Ok(judged
            .into_iter()
            .map(|judged| judged.anomaly_score)
            .collect())
    }

    /// Whether readings far below, and far above, all training readings are called normal.
    ///
    /// It happens when the training readings are all alike, or when the least or greatest of them
    /// makes up more than the contamination share: its score then is the threshold, and nothing
    /// beyond it can score higher. Such a detector stays silent where an engineer expects an alarm.
    pub fn blind_sides(&self) -> BlindSides {
        let far = |value: f32| {
            let row = vec![f64::from(value); self.forest.n_features()];
            let decision = self.forest.decision_function_one(&row);
            self.limits.is_none() && decision.is_ok_and(|score| !self.forest.is_anomaly(score))
        };
        BlindSides {
            below: far(f32::MIN),
            above: far(f32::MAX),
        }
    }

    /// The features that were constant in training: whatever their values, they do not count.
    pub fn constant_features(&self) -> impl Iterator<Item = usize> {
        let ranges = self.training_ranges.iter().enumerate();
        let idle = ranges.filter(|(_, range)| self.limits.is_none() && range.low == range.high);
        idle.map(|(feature, _)| feature)
    }
}

fn scale(scaler: &StandardScaler, readings: Array2<f64>) -> Result<Array2<f64>, DetectorError> {
    let scaled = scaler.transform(readings);
    let overflow = scaled.indexed_iter().find(|(_, value)| !value.is_finite());
    match overflow {
        Some(((row, feature), _)) => Err(DetectorError::Overflow {
            row: Some(row),
            feature,
        }),
        None => Ok(scaled),
    }
}
