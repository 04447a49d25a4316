//! Hyper-parameters: set freely on [`IsolationForestParams`], checked into
//! [`IsolationForestValidParams`].

use linfa::ParamGuard;
use serde::{Deserialize, Serialize};

use super::error::ParamsError;

/// The most trees of a forest.
pub const MAX_ESTIMATORS: usize = 100_000;

/// How many rows each tree is grown from.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxSamples {
    /// The smaller of 256 and the number of rows.
    #[default]
    Auto,
    /// This many rows, or all where there are fewer. At least 1.
    Count(usize),
    /// This share of the rows, rounded down; in `(0, 1]`.
    Fraction(f64),
}

impl std::str::FromStr for MaxSamples {
    type Err = String;

    /// Reads `auto`, a whole number (a count) or a number with a decimal point (a share), which
    /// is how Python tells `256` from `1.0`.
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
            // {:?} keeps the decimal point of 1.0, so that the text reads back as a share.
            Self::Fraction(fraction) => write!(f, "{fraction:?}"),
        }
    }
}

/// Checked hyper-parameters; made by [`IsolationForestParams`], or read and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct IsolationForestValidParams {
    n_estimators: usize,
    max_samples: MaxSamples,
    contamination: f64,
    random_state: Option<u32>,
}

/// The same, as it is read.
#[derive(Deserialize)]
struct Unchecked {
    n_estimators: usize,
    max_samples: MaxSamples,
    contamination: f64,
    random_state: Option<u32>,
}

impl TryFrom<Unchecked> for IsolationForestValidParams {
    type Error = ParamsError;

    fn try_from(read: Unchecked) -> Result<Self, ParamsError> {
        IsolationForestParams::default()
            .n_estimators(read.n_estimators)
            .max_samples(read.max_samples)
            .contamination(read.contamination)
            .random_state(read.random_state)
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

    /// Share of the training rows taken to be anomalies.
    pub fn contamination(&self) -> f64 {
        self.contamination
    }

    /// Seed of the forest, or `None` to draw one at each fit.
    pub fn random_state(&self) -> Option<u32> {
        self.random_state
    }
}

/// Hyper-parameters of an [`IsolationForest`](super::IsolationForest), with PyOD's names and
/// defaults.
///
/// | name | default | purpose | range |
/// | --- | --- | --- | --- |
/// | [`n_estimators`](Self::n_estimators) | 100 | number of trees | 1 to [`MAX_ESTIMATORS`] |
/// | [`max_samples`](Self::max_samples) | `Auto` | rows per tree | see [`MaxSamples`] |
/// | [`contamination`](Self::contamination) | 0.1 | share of the training rows taken to be anomalies; sets the threshold | `(0, 0.5]` |
/// | [`random_state`](Self::random_state) | drawn | seed: the same seed and data give the same forest, and scikit-learn's | any `u32` |
///
/// # Errors
///
/// Fitting, and [`check`](ParamGuard::check), return a [`ParamsError`] for a value outside its
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
    /// The number of trees.
    pub fn n_estimators(mut self, n_estimators: usize) -> Self {
        self.0.n_estimators = n_estimators;
        self
    }

    /// The number of rows per tree.
    pub fn max_samples(mut self, max_samples: MaxSamples) -> Self {
        self.0.max_samples = max_samples;
        self
    }

    /// The share of the training rows taken to be anomalies.
    pub fn contamination(mut self, contamination: f64) -> Self {
        self.0.contamination = contamination;
        self
    }

    /// The seed, as in `IForest(random_state=…)`; `None` draws one at each fit.
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
            // WriteOutcome positively, so that NaN is refused too.
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

    // Every bound from both sides, and NaN, which slips through a check written negatively.
    #[test]
    fn values_outside_their_range_are_refused() {
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

    // The command line shows the default by Display and reads it by FromStr.
    #[test]
    fn max_samples_reads_back_what_it_writes() {
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
