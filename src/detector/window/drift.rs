//! Sensors that wander, such as a temperature that follows the weather. Their readings leave every
//! range that was learnt, so they would alarm for ever.

use ndarray::{ArrayView1, ArrayView2, Axis};

/// Fewest readings, in all runs together, with which drift can be told from chance.
const MIN_READINGS: usize = 400;

/// Readings in a mean, so that noise does not hide the drift.
const MEAN_OF: usize = 10;

/// The lags, in readings, over which means are compared.
const SHORT_LAG: usize = 10;
const LONG_LAG: usize = 100;

/// From which ratio of the two mean squared changes on a sensor drifts. It is 1 for a sensor that
/// stays where it is, and 10 or more for one that wanders as a random walk does.
const MAX_RATIO: f64 = 8.0;

/// Whether each sensor drifts within the runs, whose lengths are `runs`.
pub(in crate::detector) fn drifting_sensors(
    readings: ArrayView2<'_, f64>,
    runs: &[usize],
) -> Vec<bool> {
    let columns = readings.axis_iter(Axis(1));
    if readings.nrows() < MIN_READINGS {
        return vec![false; readings.ncols()];
    }
    columns
        .map(|column| ratio(column, runs).is_some_and(|ratio| ratio > MAX_RATIO))
        .collect()
}

/// The mean squared change over the long lag, divided by that over the short one; `None` if no run is
/// long enough.
fn ratio(column: ArrayView1<'_, f64>, runs: &[usize]) -> Option<f64> {
    let (mut short, mut long) = (Changes::default(), Changes::default());
    let mut start = 0;
    for &run in runs {
        let values = column
            .slice_axis(Axis(0), (start..start + run).into())
            .to_vec();
        let means: Vec<f64> = values
            .windows(MEAN_OF)
            .map(|values| values.iter().map(|value| value / MEAN_OF as f64).sum())
            .collect();
        short.add(&means, SHORT_LAG);
        long.add(&means, LONG_LAG);
        start += run;
    }
    Some(long.mean()? / short.mean()?)
}

/// The squared changes of means over a lag.
#[derive(Default)]
struct Changes {
    sum: f64,
    count: usize,
}

impl Changes {
    fn add(&mut self, means: &[f64], lag: usize) {
        let later = means.iter().skip(lag);
        for (before, after) in means.iter().zip(later) {
            self.sum += (after - before) * (after - before);
            self.count += 1;
        }
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}
