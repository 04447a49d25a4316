//! What is trained and served: scaler, forest and threshold as one value.
//!
//! Every check of shape and finiteness is made here, so that whoever holds a detector can only get
//! a judgement or a clear error from it.

mod scaler;

use linfa::ParamGuard;
use linfa::dataset::DatasetBase;
use linfa::traits::{Fit, Transformer};
use ndarray::{Array1, Array2, ArrayView2};
use thiserror::Error;

use crate::forest::{FitError, IsolationForest, IsolationForestParams, ScoreError};

pub use scaler::StandardScaler;

/// A fitted detector, of any number of features.
#[derive(Debug, Clone, PartialEq)]
pub struct Detector {
    scaler: StandardScaler,
    forest: IsolationForest,
}

/// What a detector says of one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// The value as the forest sees it.
    pub scaled: f64,
    /// PyOD's decision function: greater is more abnormal, near 0 at the border.
    pub anomaly_score: f64,
    /// Whether the score is above the threshold.
    pub is_anomaly: bool,
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
        let scaled = scale(&scaler, readings)?;
        let forest = params.fit(&DatasetBase::from(scaled))?;
        Ok(Self { scaler, forest })
    }

    /// The scaler.
    pub fn scaler(&self) -> &StandardScaler {
        &self.scaler
    }

    /// The forest, which judges scaled readings.
    pub fn forest(&self) -> &IsolationForest {
        &self.forest
    }

    /// Judges one value; for a detector of one feature.
    ///
    /// # Errors
    ///
    /// [`DetectorError::Score`] when the detector has several features or the value is not finite;
    /// [`DetectorError::Overflow`] when it is too far from the training readings.
    pub fn judge(&self, value: f64) -> Result<Judgement, DetectorError> {
        let expected = self.forest.n_features();
        if expected != 1 {
            return Err(ScoreError::Width { expected, got: 1 }.into());
        }
        let scaled = self.scaler.scale_value(0, value);
        if value.is_finite() && !scaled.is_finite() {
            return Err(DetectorError::Overflow {
                row: Some(0),
                feature: 0,
            });
        }
        let anomaly_score = self.forest.decision_function_one(&[scaled])?;
        Ok(Judgement {
            scaled,
            anomaly_score,
            is_anomaly: self.forest.is_anomaly(anomaly_score),
        })
    }

    /// For a detector of one feature, the ranges of readings that it calls normal, exactly and in
    /// ascending order: alarm limits, as an engineer would program them.
    pub fn normal_ranges(&self) -> Option<Vec<NormalRange>> {
        let ranges = self.forest.normal_ranges()?;
        let ranges = ranges.into_iter().filter_map(|(low, high)| {
            // Scaling and rounding never reverse two readings, so a limit can be searched for.
            let scaled = |reading| self.scaler.scale_value(0, reading) as f32;
            let range = NormalRange {
                low: match low {
                    f32::NEG_INFINITY => None,
                    low => Some(greatest(|reading| scaled(reading) <= low)?.next_up()),
                },
                high: match high {
                    f32::INFINITY => None,
                    high => Some(greatest(|reading| scaled(reading) <= high)?),
                },
            };
            // Steps of the forest may lie between two neighbouring doubles.
            let empty = range
                .low
                .zip(range.high)
                .is_some_and(|(low, high)| low > high);
            (!empty).then_some(range)
        });
        Some(ranges.collect())
    }

    /// The anomaly score of each row of readings.
    ///
    /// # Errors
    ///
    /// As [`judge`](Self::judge), naming the row.
    pub fn decision_function(
        &self,
        readings: ArrayView2<'_, f64>,
    ) -> Result<Array1<f64>, DetectorError> {
        let expected = self.forest.n_features();
        let got = readings.ncols();
        if expected != got {
            return Err(ScoreError::Width { expected, got }.into());
        }
        if let Some(((row, feature), &value)) = readings
            .indexed_iter()
            .find(|(_, value)| !value.is_finite())
        {
            let error = ScoreError::NotFinite {
                row,
                feature,
                value,
            };
            return Err(error.into());
        }
        let scaled = scale(&self.scaler, readings.to_owned())?;
        Ok(self.forest.decision_function(&scaled)?)
    }

    /// Whether readings far below, and far above, all training readings are called normal.
    ///
    /// It happens when the training readings are all alike, or when the least or greatest of them
    /// makes up more than the contamination share: its score then is the threshold, and nothing
    /// beyond it can score higher. Such a detector stays silent where an engineer expects an alarm.
    pub fn blind_sides(&self) -> Blind {
        let far = |value: f32| {
            let row = vec![f64::from(value); self.forest.n_features()];
            self.forest
                .decision_function_one(&row)
                .is_ok_and(|decision| !self.forest.is_anomaly(decision))
        };
        Blind {
            below: far(f32::MIN),
            above: far(f32::MAX),
        }
    }
}

/// On which side of the training range a detector calls everything normal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blind {
    /// Far below all training readings.
    pub below: bool,
    /// Far above all training readings.
    pub above: bool,
}

/// The greatest finite number for which `holds`, which holds up to some number and not beyond;
/// `None` where it holds for none.
fn greatest(holds: impl Fn(f64) -> bool) -> Option<f64> {
    // Whole numbers in the order of the doubles they stand for.
    let number = |key: i64| f64::from_bits((key ^ (((key >> 63) as u64) >> 1) as i64) as u64);
    let key = |number: f64| {
        let bits = number.to_bits() as i64;
        bits ^ (((bits >> 63) as u64) >> 1) as i64
    };
    let (mut low, mut high) = (key(f64::MIN), key(f64::MAX));
    if !holds(number(low)) {
        return None;
    }
    while low < high {
        // Rounded up, without overflow.
        let middle = ((i128::from(low) + i128::from(high) + 1) >> 1) as i64;
        if holds(number(middle)) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Some(number(low))
}

/// A range of readings, its ends included; `None` where it has no end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormalRange {
    /// The least reading of the range.
    pub low: Option<f64>,
    /// The greatest reading of the range.
    pub high: Option<f64>,
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
