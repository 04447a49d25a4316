//! Hyper-parameters: a builder, [`IsolationForestParams`], and its checked form,
//! [`IsolationForestValidParams`].

use linfa::ParamGuard;
use serde::{Deserialize, Serialize};

use super::convert::to_u32;
use super::error::{FitError, ParamsError};

/// The largest number of trees in a forest.
pub const MAX_ESTIMATORS: usize = 100_000;

/// The number of rows that each tree is grown from: scikit-learn's `max_samples`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxSamples {
    /// The smaller of 256 and the number of rows.
    #[default]
    Auto,
    /// This many rows, or all rows if there are fewer. At least 1.
    Count(usize),
    /// This share of the rows, rounded down; in `(0, 1]`.
    Fraction(f64),
}

impl std::str::FromStr for MaxSamples {
    type Err = String;

    /// Parses `auto`, an integer (a count) or a number with a decimal point (a fraction), the way
    /// Python distinguishes `256` from `1.0`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Ok(count) = text.parse() {
            return Ok(Self::Count(count));
        }
        match text.parse() {
            Ok(fraction) => Ok(Self::Fraction(fraction)),
            Err(_) => Err(
                "expected auto, a whole number of readings such as 256, or a share such as 0.5"
                    .to_owned(),
            ),
        }
    }
}

impl std::fmt::Display for MaxSamples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(count) => write!(f, "{count}"),
            // {:?} keeps the decimal point of 1.0, so the text parses as a fraction again.
            Self::Fraction(fraction) => write!(f, "{fraction:?}"),
        }
    }
}

/// Checked hyper-parameters of an [`IsolationForest`](super::IsolationForest).
///
/// Built by [`IsolationForestParams`]. Deserialising them checks them too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedParams")]
pub struct IsolationForestValidParams {
    n_estimators: usize,
    max_samples: MaxSamples,
    contamination: f64,
    random_state: Option<u32>,
}

/// The serialised form of [`IsolationForestValidParams`].
#[derive(Deserialize)]
struct UncheckedParams {
    n_estimators: usize,
    max_samples: MaxSamples,
    contamination: f64,
    random_state: Option<u32>,
}

impl TryFrom<UncheckedParams> for IsolationForestValidParams {
    type Error = ParamsError;

    fn try_from(unchecked: UncheckedParams) -> Result<Self, ParamsError> {
        IsolationForestParams::default()
            .n_estimators(unchecked.n_estimators)
            .max_samples(unchecked.max_samples)
            .contamination(unchecked.contamination)
            .random_state(unchecked.random_state)
            .check()
    }
}

impl IsolationForestValidParams {
    /// Number of trees.
    pub fn n_estimators(&self) -> usize {
        self.n_estimators
    }

    /// Rows per tree.
    pub fn max_samples(&self) -> MaxSamples {
        self.max_samples
    }

    /// Share of the training rows that are labelled anomalies, in `(0, 0.5]`.
    pub fn contamination(&self) -> f64 {
        self.contamination
    }

    /// Seed of the forest; `None` draws a new seed for each fit.
    pub fn random_state(&self) -> Option<u32> {
        self.random_state
    }

    /// The number of rows that each tree is grown from when there are `n_samples` rows:
    /// scikit-learn's `max_samples_`.
    ///
    /// # Errors
    ///
    /// [`FitError::NoSamples`] if a fraction rounds down to no row.
    pub fn rows_per_tree(&self, n_samples: u32) -> Result<u32, FitError> {
        let rows = n_samples as usize;
        let count = match self.max_samples {
            MaxSamples::Auto => rows.min(256),
            MaxSamples::Count(count) => rows.min(count),
            MaxSamples::Fraction(fraction) => match (fraction * rows as f64) as usize {
                0 => return Err(FitError::NoSamples { fraction, rows }),
                count => count,
            },
        };
        to_u32(count, "max_samples")
    }
}

/// Builds the hyper-parameters of an [`IsolationForest`](super::IsolationForest), with PyOD's
/// names and defaults.
///
/// | name | default | purpose | range |
/// | --- | --- | --- | --- |
/// | [`n_estimators`](Self::n_estimators) | 100 | number of trees | 1 to [`MAX_ESTIMATORS`] |
/// | [`max_samples`](Self::max_samples) | `Auto` | rows per tree | see [`MaxSamples`] |
/// | [`contamination`](Self::contamination) | 0.1 | share of the training rows that are labelled anomalies; sets the threshold | `(0, 0.5]` |
/// | [`random_state`](Self::random_state) | drawn | seed: the same seed and data give the same forest, equal to scikit-learn's | any `u32` |
///
/// # Errors
///
/// Fitting and [`check`](ParamGuard::check) return a [`ParamsError`] if a value is outside its
/// range.
#[derive(Debug, Clone, PartialEq)]
pub struct IsolationForestParams(IsolationForestValidParams);

impl Default for IsolationForestParams {
    fn default() -> Self {
        Self(IsolationForestValidParams {
            n_estimators: 100,
            max_samples: MaxSamples::Auto,
            contamination: 0.1,
            random_state: None,
        })
    }
}

impl IsolationForestParams {
    /// Sets the number of trees.
    pub fn n_estimators(mut self, n_estimators: usize) -> Self {
        self.0.n_estimators = n_estimators;
        self
    }

    /// Sets the number of rows per tree.
    pub fn max_samples(mut self, max_samples: MaxSamples) -> Self {
        self.0.max_samples = max_samples;
        self
    }

    /// Sets the share of the training rows that are labelled anomalies.
    pub fn contamination(mut self, contamination: f64) -> Self {
        self.0.contamination = contamination;
        self
    }

    /// Sets the seed, as in `IForest(random_state=…)`; `None` draws a new seed for each fit.
    pub fn random_state(mut self, random_state: impl Into<Option<u32>>) -> Self {
        self.0.random_state = random_state.into();
        self
    }
}

impl ParamGuard for IsolationForestParams {
    type Checked = IsolationForestValidParams;
    type Error = ParamsError;

    fn check_ref(&self) -> Result<&Self::Checked, Self::Error> {
        let params = &self.0;
        if !(1..=MAX_ESTIMATORS).contains(&params.n_estimators) {
            return Err(ParamsError::NEstimators(params.n_estimators));
        }
        match params.max_samples {
            MaxSamples::Count(0) => return Err(ParamsError::MaxSamplesCount),
            // The negated condition rejects NaN too.
            MaxSamples::Fraction(share) if !(share > 0.0 && share <= 1.0) => {
                return Err(ParamsError::MaxSamplesFraction(share));
            }
            _ => {}
        }
        if !(params.contamination > 0.0 && params.contamination <= 0.5) {
            return Err(ParamsError::Contamination(params.contamination));
        }
        Ok(params)
    }

    fn check(self) -> Result<Self::Checked, Self::Error> {
        self.check_ref()?;
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Tests every bound from both sides, and NaN, which `share <= 0.0 || share > 1.0` would accept.
    #[test]
    fn values_outside_their_range_are_rejected() {
        let params = IsolationForestParams::default;
        let share = |share| params().max_samples(MaxSamples::Fraction(share));
        for good in [
            params(),
            params().n_estimators(1),
            params().contamination(0.5),
            params().contamination(f64::MIN_POSITIVE),
            params().max_samples(MaxSamples::Count(1)),
            share(1.0),
            share(1e-9),
        ] {
            assert!(good.check_ref().is_ok(), "{good:?}");
        }
        for bad in [
            params().n_estimators(0),
            params().n_estimators(usize::MAX),
            params().contamination(0.0),
            params().contamination(-0.1),
            params().contamination(0.5000001),
            params().contamination(f64::NAN),
            params().max_samples(MaxSamples::Count(0)),
            share(0.0),
            share(1.0000001),
            share(f64::NAN),
        ] {
            assert!(bad.check_ref().is_err(), "{bad:?}");
        }
    }

    // The command line prints the default with Display and parses it with FromStr.
    #[test]
    fn max_samples_round_trips_as_text() {
        for max_samples in [
            MaxSamples::Auto,
            MaxSamples::Count(1),
            MaxSamples::Fraction(1.0),
            MaxSamples::Fraction(0.25),
        ] {
            assert_eq!(max_samples.to_string().parse(), Ok(max_samples));
        }
        assert!("many".parse::<MaxSamples>().is_err());
    }
}
