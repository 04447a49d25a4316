//! Fitting a detector with what a plain one does not have: distances, a held-back threshold, a
//! window.

use linfa::ParamGuard;
use ndarray::{Array2, ArrayView2};

use super::algorithm::Detector;
use super::error::DetectorError;
use super::held_back::{
    FOLDS, HeldBack, held_back_scores, is_false_alarm_rate, min_rows, threshold,
};
use super::window::{MAX_WINDOW_VALUES, VIEWS, Window, drifting_sensors};
use crate::forest::{
    FitError, IsolationForestParams, IsolationForestValidParams, TrainingCost, check_finite,
    distance_memory, fit_memory,
};

/// How to fit a detector, beyond the parameters of its forest. By default it is a plain one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FitOptions {
    /// Whether scores grow with the distance from the training readings.
    pub distance: bool,
    /// The share of normal readings that may be called anomalies, which sets the threshold in place
    /// of the contamination.
    pub false_alarm_rate: Option<f64>,
    /// How many readings are judged together.
    pub window: Option<u32>,
    /// Whether sensors that drift stay in.
    pub keep_drifting: bool,
    /// The lengths of the runs that the readings consist of; empty for a single run.
    pub runs: Vec<usize>,
}

impl FitOptions {
    /// The false-alarm rate that sets the threshold; `None` if the contamination does.
    pub fn false_alarm_rate(&self) -> Option<f64> {
        let implied = self.window.map(|_| WINDOW_FALSE_ALARM_RATE);
        self.false_alarm_rate.or(implied)
    }

    /// Returns the problem of options that no readings of this shape can be fitted with.
    fn check(&self, rate: f64, (readings, sensors): (usize, usize)) -> Result<(), DetectorError> {
        let problem = |problem: String| Err(DetectorError::Options(problem));
        if !is_false_alarm_rate(rate) {
            let message =
                format!("a false-alarm rate must be from 0, exclusive, to 0.5, got {rate}");
            return problem(message);
        }
        if let Some(window) = self.window {
            let values = (window as usize).saturating_mul(sensors);
            if window < 2 || values > MAX_WINDOW_VALUES {
                return problem(format!(
                    "a window must have at least 2 readings, and at most {MAX_WINDOW_VALUES} values \
                     of all sensors together, got {window} readings of {sensors}"
                ));
            }
        }
        let sum = self.runs.iter().copied().fold(0, usize::saturating_add);
        if !self.runs.is_empty() && sum != readings {
            return problem(format!(
                "the lengths of the runs must add up to the {readings} readings, got {sum}"
            ));
        }
        Ok(())
    }

    /// The estimated cost of a fit to readings of the given shape; see
    /// [`training_cost`](IsolationForestValidParams::training_cost).
    pub fn cost(
        &self,
        params: &IsolationForestValidParams,
        readings: usize,
        sensors: usize,
    ) -> TrainingCost {
        let features = self.features(sensors);
        let mut cost = if self.distance {
            params.distance_training_cost(readings, features)
        } else {
            params.training_cost(readings, features)
        };
        if self.false_alarm_rate().is_some() {
            // Each fold grows a forest, of a fifth less rows.
            for part in [&mut cost.sampling, &mut cost.growth, &mut cost.table] {
                *part = part.saturating_mul(1 + FOLDS as u64);
            }
            cost.rows = cost.rows.saturating_mul(FOLDS as u64);
        }
        if let Some(window) = self.window {
            let values = readings
                .saturating_mul(sensors)
                .saturating_mul(window as usize);
            let views = (values as u64).saturating_mul(PER_WINDOW_VALUE);
            cost.rows = cost.rows.saturating_add(views);
        }
        cost
    }

    /// The memory of a fit to readings of the given shape, in bytes, the readings excluded.
    pub(crate) fn memory(
        &self,
        params: &IsolationForestValidParams,
        readings: usize,
        sensors: usize,
    ) -> usize {
        let features = self.features(sensors);
        let mut memory = fit_memory(params, readings, features);
        if self.distance {
            memory = memory.saturating_add(distance_memory(params, readings, features));
        }
        if self.false_alarm_rate().is_some() {
            // The features, those that a fold trains on, and scaled readings.
            let rows = readings.saturating_mul(2 * features + sensors);
            memory = memory.saturating_add(rows.saturating_mul(size_of::<f64>()));
        }
        memory
    }

    /// Number of features that the forest is grown on.
    pub fn features(&self, sensors: usize) -> usize {
        match self.window {
            Some(_) => sensors.saturating_mul(VIEWS.len()),
            None => sensors,
        }
    }
}

/// For each value of each window, in nanoseconds: it is scaled, and added to a mean and to a
/// deviation.
const PER_WINDOW_VALUE: u64 = 4;

/// A detector, and how readings become what it scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// The detector: of readings, or of windows.
    pub detector: Detector,
    /// How readings become the features of the detector.
    pub window: Option<Window>,
    /// Where the threshold comes from; `None` for the contamination.
    pub held_back: Option<HeldBack>,
}

/// The false-alarm rate of a windowed model that is given none: of a reading a second, one in a quarter
/// of an hour.
const WINDOW_FALSE_ALARM_RATE: f64 = 0.001;

impl Fitted {
    /// Fits a detector to `readings`, of shape (readings, sensors).
    ///
    /// # Errors
    ///
    /// As for [`Detector::fit`], [`DetectorError::Options`], and [`DetectorError::TooShort`] if there are too few readings for a
    /// window or a held-back threshold.
    pub fn fit(
        params: &IsolationForestParams,
        options: &FitOptions,
        readings: Array2<f64>,
    ) -> Result<Self, DetectorError> {
        let Some(rate) = options.false_alarm_rate() else {
            let detector = if options.distance {
                Detector::fit_with_distance(params, readings)?
            } else {
                Detector::fit(params, readings)?
            };
            return Ok(Self {
                detector,
                window: None,
                held_back: None,
            });
        };
        options.check(rate, readings.dim())?;
        check_finite(&readings)?;
        let single_run = [readings.nrows()];
        let runs = match options.runs.as_slice() {
            [] => &single_run,
            runs => runs,
        };
        let size = options.window.map_or(1, |window| window as usize);
        let rows_of_runs: Vec<usize> = runs
            .iter()
            .map(|&run| (run + 1).saturating_sub(size))
            .collect();
        let rows: usize = rows_of_runs.iter().sum();
        if rows < min_rows(size) {
            return Err(DetectorError::TooShort {
                window: size,
                got: rows,
                needed: min_rows(size),
            });
        }
        let window = match options.window {
            Some(window) => Some(fit_window(window, readings.view(), runs, options)?),
            None => None,
        };
        let rows = match &window {
            Some(window) => {
                let features = window.training_features(readings.view(), runs);
                // The features take several times as much memory.
                drop(readings);
                features
            }
            None => readings,
        };

        let seed = params
            .clone()
            .check()
            .map_err(FitError::from)?
            .random_state();
        let seed = seed.unwrap_or_else(rand::random);
        let distance = options.distance;
        let mut scores =
            held_back_scores(params, rows.view(), &rows_of_runs, size, distance, seed)?;
        let params = params.clone().random_state(seed);
        let (mut detector, _) = Detector::grow(&params, rows, distance)?;
        detector.set_threshold(threshold(&mut scores, rate));
        Ok(Self {
            detector,
            window,
            held_back: Some(HeldBack {
                false_alarm_rate: rate,
                scores: scores.len() as u64,
            }),
        })
    }
}

fn fit_window(
    size: u32,
    readings: ArrayView2<'_, f64>,
    runs: &[usize],
    options: &FitOptions,
) -> Result<Window, DetectorError> {
    let sensors = 0..readings.ncols() as u32;
    let mut kept: Vec<u32> = sensors.clone().collect();
    if !options.keep_drifting {
        let drifting = drifting_sensors(readings, runs);
        kept.retain(|&sensor| !drifting[sensor as usize]);
        if kept.is_empty() {
            kept = sensors.collect();
        }
    }
    Window::fit(size, readings, kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::{IsolationForest, MaxSamples};

    // Seconds of processor time that `Fitted::fit` took in a release build, with one thread, on an AMD
    // EPYC. The readings were uniform.
    #[test]
    fn estimates_are_within_a_factor_of_two_of_measured_times() {
        for (trees, rows_per_tree, readings, sensors, window, rate, distance, measured) in [
            (100, 256, 1_000, 1, None, None, true, 0.0141),
            (100, 256, 100_000, 1, None, None, true, 0.761),
            (100, 256, 100_000, 8, None, None, true, 1.40),
            (100, 256, 20_000, 64, None, None, true, 1.36),
            (100, 5_000, 20_000, 4, None, None, true, 1.55),
            (1_000, 256, 1_000, 2, None, None, true, 0.482),
            (100, 256, 100_000, 1, None, Some(0.01), false, 0.0546),
            (100, 256, 10_000, 8, None, Some(0.01), true, 0.286),
            (100, 256, 400, 8, Some(30), None, true, 0.0802),
            (100, 256, 20_000, 8, Some(30), None, true, 1.09),
            (100, 256, 20_000, 1, Some(3_000), None, true, 0.560),
            (100, 256, 20_000, 100, Some(100), None, true, 8.86),
        ] {
            let params = IsolationForest::params()
                .n_estimators(trees)
                .max_samples(MaxSamples::Count(rows_per_tree));
            let params = params.check().expect("good parameters");
            let options = FitOptions {
                distance,
                false_alarm_rate: rate,
                window,
                ..FitOptions::default()
            };
            let estimate = options.cost(&params, readings, sensors).total() as f64 / 1e9;
            let ratio = estimate / measured;
            assert!(
                (0.5..=2.0).contains(&ratio),
                "{trees} trees, {rows_per_tree}, {readings} x {sensors}, {options:?}: {estimate:.4} s, \
                 not {measured:.4} s"
            );
        }
    }
}
