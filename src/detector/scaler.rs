//! scikit-learn's `StandardScaler`, built on linfa-preprocessing's `LinearScaler`.
//!
//! linfa does the centring. To give every scaled value scikit-learn's bits, the rest differs from
//! `LinearScaler::standard()` in three ways:
//!
//! * Sums are added in numpy's order.
//! * A feature is constant by scikit-learn's relative rule, not by an absolute one: 1e-20 may be a
//!   large deviation.
//! * Values are divided by the deviation. linfa multiplies by its reciprocal, which changes the
//!   last digit of a quarter of all values.

use std::borrow::Cow;

use linfa::dataset::DatasetBase;
use linfa::traits::{Fit, Transformer};
use linfa_preprocessing::linear_scaling::LinearScaler;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use super::error::DetectorError;
use crate::forest::FitError;

/// Subtracts the mean of each feature and divides by its population standard deviation, or by 1 if
/// the feature is constant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "StoredScaler", try_from = "StoredScaler")]
pub struct StandardScaler {
    centre: LinearScaler<f64>,
    scale: Array1<f64>,
}

/// The serialised form of a scaler.
#[derive(Serialize, Deserialize)]
struct StoredScaler {
    mean: Vec<f64>,
    scale: Vec<f64>,
}

impl From<StandardScaler> for StoredScaler {
    fn from(scaler: StandardScaler) -> Self {
        Self {
            mean: scaler.mean().to_vec(),
            scale: scaler.scale.to_vec(),
        }
    }
}

impl TryFrom<StoredScaler> for StandardScaler {
    type Error = String;

    fn try_from(stored: StoredScaler) -> Result<Self, Self::Error> {
        let sound = stored.mean.len() == stored.scale.len()
            && stored.mean.iter().all(|mean| mean.is_finite())
            && stored
                .scale
                .iter()
                .all(|&scale| scale > 0.0 && scale.is_finite());
        if !sound {
            return Err("the scaler is damaged".to_owned());
        }
        Self::from_mean_and_scale(stored.mean, stored.scale)
    }
}

impl StandardScaler {
    /// Fits mean and deviation of each column. `rows` has the shape (rows, features), and its
    /// values must be finite.
    ///
    /// # Errors
    ///
    /// [`DetectorError::Overflow`] if the sum of a column exceeds the range of `f64`;
    /// [`DetectorError::Fit`] if there are no rows.
    pub fn fit(rows: ArrayView2<'_, f64>) -> Result<Self, DetectorError> {
        if rows.nrows() == 0 {
            return Err(FitError::NoRows.into());
        }
        let single = rows.ncols() == 1;
        let (mean, scale): (Vec<f64>, Vec<f64>) = rows
            .columns()
            .into_iter()
            .map(|column| moments(column, single))
            .unzip();
        if let Some(feature) = mean.iter().position(|mean| !mean.is_finite()) {
            return Err(DetectorError::Overflow { row: None, feature });
        }
        Self::from_mean_and_scale(mean, scale).map_err(DetectorError::Scaler)
    }

    fn from_mean_and_scale(mean: Vec<f64>, scale: Vec<f64>) -> Result<Self, String> {
        // linfa fits offsets to data; the mean of one row is that row, to the bit.
        let mean = Array1::from(mean).insert_axis(Axis(0));
        let centre = LinearScaler::standard_no_std()
            .fit(&DatasetBase::from(mean))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            centre,
            scale: Array1::from(scale),
        })
    }

    /// scikit-learn's `mean_`, one value per feature.
    pub fn mean(&self) -> &Array1<f64> {
        self.centre.offsets()
    }

    /// scikit-learn's `scale_`, one value per feature.
    pub fn scale(&self) -> &Array1<f64> {
        &self.scale
    }

    /// The bytes that it holds on the heap. linfa's scaler keeps offsets and scales of its own.
    pub(super) fn memory_size(&self) -> usize {
        3 * size_of::<f64>() * self.scale.len()
    }

    /// Scales one value of one feature. Infinite if the result exceeds the range of `f64`.
    pub(super) fn scale_value(&self, feature: usize, value: f64) -> f64 {
        (value - self.mean()[feature]) / self.scale[feature]
    }
}

/// Scales rows, which must have as many columns as the scaler was fitted on.
impl Transformer<Array2<f64>, Array2<f64>> for StandardScaler {
    fn transform(&self, rows: Array2<f64>) -> Array2<f64> {
        self.centre.transform(rows) / &self.scale
    }
}

/// The mean of a column and the deviation to divide by, computed as by scikit-learn's
/// `_incremental_mean_and_var` and `_is_constant_feature`: the corrected two-pass algorithm of
/// Chan, Golub and LeVeque (1983).
///
/// numpy adds a single column or a contiguous one pairwise, and interleaved columns row by row.
fn moments(column: ArrayView1<'_, f64>, single: bool) -> (f64, f64) {
    let n = column.len() as f64;
    let contiguous = column
        .as_slice()
        .map(Cow::Borrowed)
        .or_else(|| single.then(|| Cow::Owned(column.to_vec())));
    let sum = |value: &dyn Fn(f64) -> f64| match &contiguous {
        Some(values) => pairwise_sum(values, value),
        None => column.iter().fold(0.0, |sum, &v| sum + value(v)),
    };
    let total = sum(&|v| v);
    let mean = total / n;
    let correction = sum(&|v| v - mean);
    let squares = sum(&|v| (v - mean) * (v - mean));
    let variance = (squares - correction * correction / n) / n;

    let rounding = n * mean * f64::EPSILON;
    let negligible = n * f64::EPSILON * variance + rounding * rounding;
    // As in scikit-learn, an infinite variance counts as constant too.
    let constant = variance <= negligible;
    (mean, if constant { 1.0 } else { variance.sqrt() })
}

/// numpy's sum of a contiguous array: eight running sums within blocks of 128 values; longer arrays
/// are halved.
fn pairwise_sum(values: &[f64], map: &dyn Fn(f64) -> f64) -> f64 {
    const BLOCK: usize = 128;
    if values.len() < 8 {
        return values.iter().fold(0.0, |sum, &v| sum + map(v));
    }
    if values.len() <= BLOCK {
        let mut sums = [0.0; 8];
        let (eights, rest) = values.as_chunks::<8>();
        for eight in eights {
            for (sum, &v) in sums.iter_mut().zip(eight) {
                *sum += map(v);
            }
        }
        let [a, b, c, d, e, f, g, h] = sums;
        let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
        return rest.iter().fold(sum, |sum, &v| sum + map(v));
    }
    let half = values.len() / 2;
    let (first, second) = values.split_at(half - half % 8);
    pairwise_sum(first, map) + pairwise_sum(second, map)
}
