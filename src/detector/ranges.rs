//! Training ranges, normal ranges, and the policy for readings outside the training range.

use ndarray::ArrayView1;
use serde::{Deserialize, Serialize};

use crate::total_order::{f64_from_key, f64_to_key};

/// The policy for readings outside the range of the training readings.
///
/// A forest alone may label such a reading normal: it gives the reading the score of the smallest
/// or greatest training reading, which may be a common one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutOfRange {
    /// The score decides, as in PyOD.
    #[default]
    Score,
    /// The reading is an anomaly. If its score is not above the threshold, the score is replaced by
    /// the greatest one,
    /// [`max_decision`](crate::forest::IsolationForest::max_decision).
    Anomaly,
    /// The score grows with the distance from the training readings: see
    /// [`fit_with_distance`](crate::forest::IsolationForestValidParams::fit_with_distance).
    Distance,
}

/// The range of a feature's training readings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainingRange {
    /// The minimum.
    pub low: f64,
    /// The maximum.
    pub high: f64,
}

impl TrainingRange {
    /// The range of a column, which must not be empty.
    pub(super) fn of(column: ArrayView1<'_, f64>) -> Self {
        Self {
            low: column.iter().copied().fold(f64::INFINITY, f64::min),
            high: column.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// Whether the ends are finite and in order.
    pub(super) fn is_sound(&self) -> bool {
        self.low.is_finite() && self.high.is_finite() && self.low <= self.high
    }

    /// The range extended at both ends by `margin`, a share of its width.
    pub(super) fn widened(&self, margin: f64) -> Self {
        // The width may overflow `f64`; half of it cannot.
        let half = margin * (self.high / 2.0 - self.low / 2.0);
        Self {
            low: self.low - half - half,
            high: self.high + half + half,
        }
    }
}

/// Whether a value of a reading is outside its limits.
pub(super) fn is_outside(limits: &[TrainingRange], row: impl Iterator<Item = f64>) -> bool {
    limits
        .iter()
        .zip(row)
        .any(|(limits, value)| value < limits.low || value > limits.high)
}

/// The sides of the training range on which a detector labels every reading normal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlindSides {
    /// Whether readings far below all training readings are normal.
    pub below: bool,
    /// Whether readings far above all training readings are normal.
    pub above: bool,
}

/// An inclusive range of readings that are labelled normal; `None` is an open end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormalRange {
    /// The smallest reading of the range.
    pub low: Option<f64>,
    /// The greatest reading of the range.
    pub high: Option<f64>,
}

impl NormalRange {
    /// The readings whose scaled values are in `(low, high]`. `None` if no double lies there, since
    /// a step of the forest may lie between two neighbouring doubles.
    pub(super) fn from_scaled(
        (low, high): (f32, f32),
        scaled: impl Fn(f64) -> f32,
    ) -> Option<Self> {
        // Scaling and rounding are monotonic, so a binary search finds each limit.
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

    /// The intersection with `limits`; `None` if it is empty.
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

/// The greatest finite number for which `holds` is true; `None` if it never is. `holds` must be
/// true up to some number and false beyond it.
fn greatest(holds: impl Fn(f64) -> bool) -> Option<f64> {
    let (mut low, mut high) = (f64_to_key(f64::MIN), f64_to_key(f64::MAX));
    if !holds(f64_from_key(low)) {
        return None;
    }
    while low < high {
        // Rounded up; `i128` does not overflow.
        let middle = ((i128::from(low) + i128::from(high) + 1) >> 1) as i64;
        if holds(f64_from_key(middle)) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Some(f64_from_key(low))
}
