//! The views of a window: value, level and spread of each sensor.

use ndarray::{Array2, ArrayBase};

use crate::forest::ln;

/// Added to a deviation before its logarithm is taken, in deviations of the training readings: a
/// stuck sensor has none.
const SPREAD_FLOOR: f64 = 0.05;

/// Keeps a scaled value in a range in which no sum of a window overflows. Far beyond it, all values
/// are alike to the forest.
pub(super) fn bounded(scaled: f64) -> f64 {
    const BOUND: f64 = f32::MAX as f64;
    scaled.clamp(-BOUND, BOUND)
}

/// Writes the views of one window of scaled readings, one after the other, to `features`: all
/// values of the last reading, all levels, all spreads.
///
/// Sums are added from the oldest reading to the newest, so that the same readings always give the
/// same bits.
pub(super) fn write_views(scaled: &[f64], sensors: usize, kept: &[u32], features: &mut [f64]) {
    let count = (scaled.len() / sensors) as f64;
    let last = &scaled[scaled.len() - sensors..];
    for (i, &sensor) in kept.iter().enumerate() {
        let sensor = sensor as usize;
        let values = || scaled[sensor..].iter().step_by(sensors);
        let mean = values().sum::<f64>() / count;
        let squares = values().map(|value| (value - mean) * (value - mean));
        let deviation = (squares.sum::<f64>() / count).sqrt();
        features[i] = last[sensor];
        features[kept.len() + i] = mean;
        features[2 * kept.len() + i] = ln(deviation + SPREAD_FLOOR);
    }
}

/// The views of each full window of `size` scaled readings within a run.
pub(in crate::detector) fn views_of_runs(
    scaled: &[f64],
    sensors: usize,
    kept: &[u32],
    size: usize,
    runs: &[usize],
) -> Array2<f64> {
    let windows: usize = runs.iter().map(|&run| (run + 1).saturating_sub(size)).sum();
    let mut features = Array2::zeros((windows, 3 * kept.len()));
    let mut rows = features.rows_mut().into_iter();
    let mut rest = scaled;
    for &run in runs {
        let (readings, later) = rest.split_at(run * sensors);
        for window in readings.windows(size * sensors).step_by(sensors) {
            if let Some(row) = rows.next().and_then(ArrayBase::into_slice) {
                write_views(window, sensors, kept, row);
            }
        }
        rest = later;
    }
    features
}
