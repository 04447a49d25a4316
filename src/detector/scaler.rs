//! scikit-learn's `StandardScaler` on linfa-preprocessing's `LinearScaler`.
//!
//! The centring is linfa's. What is fitted and how the deviation is applied differ from
//! `LinearScaler::standard()` in three ways, so that every scaled value has scikit-learn's bits:
//! sums are added in numpy's order, a feature is constant by scikit-learn's relative rule and not
//! by an absolute one (1e-20 may be a large deviation), and the deviation divides, where linfa
//! multiplies by its reciprocal and so differs in the last digit for a quarter of all values.

use std::borrow::Cow;

use linfa::dataset::DatasetBase;
use linfa::traits::{Fit, Transformer};
use linfa_preprocessing::linear_scaling::LinearScaler;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use super::DetectorError;

/// Subtracts the mean of each feature and divides by its population standard deviation (by 1 where
/// the feature is constant).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
pub struct StandardScaler {
    centre: LinearScaler<f64>,
    scale: Array1<f64>,
}

/// A scaler as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    mean: Vec<f64>,
    scale: Vec<f64>,
}

impl From<StandardScaler> for Stored {
    fn from(scaler: StandardScaler) -> Self {
        Self {
            mean: scaler.mean().to_vec(),
            scale: scaler.scale.to_vec(),
        }
    }
}

impl TryFrom<Stored> for StandardScaler {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let sound = stored.mean.len() == stored.scale.len()
            && stored.mean.iter().all(|mean| mean.is_finite())
            && stored.scale.iter().all(|&scale| scale > 0.0);
        if !sound {
            return Err("the scaler is damaged".to_owned());
        }
        Self::from_moments(stored.mean, stored.scale)
    }
}

impl StandardScaler {
    /// Learns mean and deviation of each column.
    ///
    /// # Errors
    ///
    /// [`DetectorError::Overflow`] when a column's sum is beyond the range of `f64`;
    /// [`DetectorError::Fit`] when there are no rows. Values are taken to be finite.
    pub fn fit(rows: ArrayView2<'_, f64>) -> Result<Self, DetectorError> {
        if rows.nrows() == 0 {
            return Err(DetectorError::Fit(crate::forest::FitError::NoRows));
        }
        let lone = rows.ncols() == 1;
        let columns = rows.columns().into_iter();
        let (mean, scale): (Vec<f64>, Vec<f64>) =
            columns.map(|column| moments(column, lone)).unzip();
        if let Some(feature) = mean.iter().position(|mean| !mean.is_finite()) {
            return Err(DetectorError::Overflow { row: None, feature });
        }
        Self::from_moments(mean, scale).map_err(DetectorError::Scaler)
    }

    fn from_moments(mean: Vec<f64>, scale: Vec<f64>) -> Result<Self, String> {
        // The mean of one row is that row, to the bit.
        let mean = Array1::from(mean).insert_axis(Axis(0));
        let centre = LinearScaler::standard_no_std()
            .fit(&DatasetBase::from(mean))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            centre,
            scale: Array1::from(scale),
        })
    }

    /// scikit-learn's `mean_`.
    pub fn mean(&self) -> &Array1<f64> {
        self.centre.offsets()
    }

    /// scikit-learn's `scale_`.
    pub fn scale(&self) -> &Array1<f64> {
        &self.scale
    }

    /// One value of one feature, scaled. Infinite where the result is beyond the range of `f64`.
    pub(super) fn scale_value(&self, feature: usize, value: f64) -> f64 {
        (value - self.mean()[feature]) / self.scale[feature]
    }
}

/// Rows must have as many columns as the scaler was fitted on.
impl Transformer<Array2<f64>, Array2<f64>> for StandardScaler {
    fn transform(&self, rows: Array2<f64>) -> Array2<f64> {
        self.centre.transform(rows) / &self.scale
    }
}

/// Mean, and deviation to divide by, as scikit-learn's `_incremental_mean_and_var` and
/// `_is_constant_feature`: the corrected two-pass algorithm of Chan, Golub and LeVeque (1983).
///
/// numpy adds a lone column, and one that is contiguous, pairwise; columns side by side row by row.
fn moments(column: ArrayView1<'_, f64>, lone: bool) -> (f64, f64) {
    let n = column.len() as f64;
    let contiguous = column.as_slice().map(Cow::Borrowed);
    let contiguous = contiguous.or_else(|| lone.then(|| Cow::Owned(column.to_vec())));
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
    // WriteOutcome as scikit-learn's comparison: an infinite variance is "constant" too.
    let constant = variance <= negligible;
    (mean, if constant { 1.0 } else { variance.sqrt() })
}

/// numpy's summation of a contiguous array: eight running sums within blocks of 128, blocks in
/// halves.
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
