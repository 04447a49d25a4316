//! Which features make a reading abnormal.

use serde::Serialize;

use super::algorithm::Detector;
use super::ranges::TrainingRange;
use super::window::View;

/// The share of a feature in what makes a reading abnormal.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Contribution {
    /// The position of the sensor in a reading.
    pub feature: usize,
    /// What of that sensor it is.
    pub view: View,
    /// From 0 to 1. The shares of a reading add up to 1.
    pub share: f64,
}

/// The share of each feature in what makes a scaled row abnormal; the shares add up to 1. Empty if
/// no feature does.
///
/// * A forest that knows distances, if the row is outside a box on its way: the share of the distance,
///   which is the probability that a random cut of this feature parts the row from the training rows.
/// * Any other forest, if the reading is outside the training range: the share of the scaled distance
///   from it.
/// * Else the share of the drop of the score when the value is replaced by its training median.
pub(super) fn shares(detector: &Detector, reading: &[f64], scaled: &[f64]) -> Vec<f64> {
    let forest = detector.forest();
    let shares = forest
        .distance_shares(scaled)
        .or_else(|| distances_from_range(detector, reading))
        .unwrap_or_else(|| drops(detector, scaled));
    let total: f64 = shares.iter().sum();
    if total > 0.0 {
        shares.into_iter().map(|share| share / total).collect()
    } else {
        Vec::new()
    }
}

/// The scaled distance of each value from its training range; `None` if all are inside.
fn distances_from_range(detector: &Detector, reading: &[f64]) -> Option<Vec<f64>> {
    let ranges = detector.training_ranges().iter().zip(reading);
    let distance = |range: &TrainingRange, value: f64| {
        // Half of it cannot overflow.
        let below = range.low / 2.0 - value / 2.0;
        let above = value / 2.0 - range.high / 2.0;
        below.max(above).max(0.0)
    };
    let scales = detector.scaler().scale();
    let distances: Vec<f64> = ranges
        .zip(scales)
        .map(|((range, &value), scale)| (distance(range, value) / scale).min(f64::MAX / 2048.0))
        .collect();
    distances
        .iter()
        .any(|&distance| distance > 0.0)
        .then_some(distances)
}

/// By how much the score drops if a value is replaced by its training median.
fn drops(detector: &Detector, scaled: &[f64]) -> Vec<f64> {
    let score = |row: &[f64]| detector.forest().decision_function_one(row).unwrap_or(0.0);
    let whole = score(scaled);
    let mut row = scaled.to_vec();
    (0..scaled.len())
        .map(|feature| {
            let value = std::mem::replace(&mut row[feature], detector.median(feature));
            let drop = (whole - score(&row)).max(0.0);
            row[feature] = value;
            drop
        })
        .collect()
}
