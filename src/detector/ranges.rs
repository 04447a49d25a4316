//! Ranges of readings: those trained on, those called normal, and what is beyond them.

use ndarray::ArrayView1;
use serde::{Deserialize, Serialize};

use crate::total_order::{f64_from_key, f64_to_key};

/// What is said of a reading beyond the range of the training readings.
///
/// A forest alone may well call it normal: to it, such a reading is as unusual as the least or
/// greatest reading that it was trained on, and that may not be unusual at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutOfRange {
    /// What its score says, as in PyOD.
    #[default]
    Score,
    /// It is an anomaly: where its score is not above the threshold, it gets the greatest score
    /// that there is.
    Anomaly,
}

/// The least and the greatest training reading of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainingRange {
    /// The least.
    pub low: f64,
    /// The greatest.
    pub high: f64,
}

impl TrainingRange {
    /// Of a column, which has a value.
    pub(super) fn of(column: ArrayView1<'_, f64>) -> Self {
        Self {
            low: column.iter().copied().fold(f64::INFINITY, f64::min),
            high: column.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    pub(super) fn is_sound(&self) -> bool {
        self.low.is_finite() && self.high.is_finite() && self.low <= self.high
    }

    /// Wider at both ends by a share of its width.
    pub(super) fn widened(&self, margin: f64) -> Self {
        // The width of a range may be beyond the range of a double, whereas half of it is not.
        let half = margin * (self.high / 2.0 - self.low / 2.0);
        Self {
            low: self.low - half - half,
            high: self.high + half + half,
        }
    }
}

/// Whether one of the values of a reading is beyond its limits.
pub(super) fn is_outside(limits: &[TrainingRange], row: impl Iterator<Item = f64>) -> bool {
    let mut values = limits.iter().zip(row);
    values.any(|(limits, value)| value < limits.low || value > limits.high)
}

/// On which side of the training range a detector calls everything normal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlindSides {
    /// Far below all training readings.
    pub below: bool,
    /// Far above all training readings.
    pub above: bool,
}

/// A range of readings, its ends included; `None` where it has no end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormalRange {
    /// The least reading of the range.
    pub low: Option<f64>,
    /// The greatest reading of the range.
    pub high: Option<f64>,
}

impl NormalRange {
    /// The readings whose scaled values are above the first and up to the second of a pair; `None`
    /// where there are none, since steps of the forest may lie between two neighbouring doubles.
    pub(super) fn from_scaled(
        (low, high): (f32, f32),
        scaled: impl Fn(f64) -> f32,
    ) -> Option<Self> {
        // Scaling and rounding never reverse two readings, so a limit can be searched for.
        let range = Self {
            low: match low {
                f32::NEG_INFINITY => None,
                low => Some(greatest(|reading| scaled(reading) <= low)?.next_up()),
            },
            high: match high {
                f32::INFINITY => None,
                high => Some(greatest(|reading| scaled(reading) <= high)?),
            },
        };
        range.if_not_empty()
    }

    /// What of it lies within limits, if there are any.
    pub(super) fn within(self, limits: Option<TrainingRange>) -> Option<Self> {
        let Some(limits) = limits else {
            return Some(self);
        };
        let finite = |limit: f64| limit.is_finite().then_some(limit);
        let high = match (self.high, finite(limits.high)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let low = match (self.low, finite(limits.low)) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        Self { low, high }.if_not_empty()
    }

    fn if_not_empty(self) -> Option<Self> {
        let empty = self
            .low
            .zip(self.high)
            .is_some_and(|(low, high)| low > high);
        (!empty).then_some(self)
    }
}

/// The greatest finite number for which `holds`, which holds up to some number and not beyond;
/// `None` where it holds for none.
fn greatest(holds: impl Fn(f64) -> bool) -> Option<f64> {
    let (mut low, mut high) = (f64_to_key(f64::MIN), f64_to_key(f64::MAX));
    if !holds(f64_from_key(low)) {
        return None;
    }
    while low < high {
        // Rounded up, without overflow.
        let middle = ((i128::from(low) + i128::from(high) + 1) >> 1) as i64;
        if holds(f64_from_key(middle)) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Some(f64_from_key(low))
}
