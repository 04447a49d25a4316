//! Training of a model.

use std::time::SystemTime;

use linfa::ParamGuard;
use ndarray::Array2;

use super::config::RegistryConfig;
use super::error::ChangeError;
use crate::detector::{DetectorError, Fitted, Window};
use crate::forest::FitError;
use crate::store::{ModelName, ModelSettings, Record};

/// What a training takes, estimated from its body before that is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrainingEstimate {
    /// Its cost in nanoseconds of one core.
    pub nanos: u64,
    /// The most numbers that its body may have.
    pub numbers: usize,
}

/// The readings and settings to train a model on.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingRequest {
    /// The readings, one per row.
    pub samples: Array2<f64>,
    /// The lengths of the runs that they consist of; empty for a single run.
    pub runs: Vec<usize>,
    /// Names of the features, in order; empty if they are unnamed.
    pub feature_names: Vec<String>,
    /// The model's own settings.
    pub settings: ModelSettings,
}

/// The memory of the readings of a body that has at most `numbers` numbers, in bytes.
pub(super) fn parse_memory(numbers: usize) -> usize {
    size_of::<f64>().saturating_mul(numbers)
}

/// The memory of a training, in bytes: its readings, and the fit of its forest.
pub(super) fn training_memory(
    request: &TrainingRequest,
    config: &RegistryConfig,
) -> Result<usize, ChangeError> {
    let params = request.settings.params(&config.params);
    let params = params.check_ref().map_err(FitError::from);
    let (rows, features) = request.samples.dim();
    let options = request
        .settings
        .fit_options(config.out_of_range, Vec::new());
    let fit = options.memory(params.map_err(DetectorError::from)?, rows, features);
    Ok(fit.saturating_add(parse_memory(request.samples.len())))
}

/// Fits a model, and logs the settings that reproduce it.
pub(super) fn fit(
    name: &ModelName,
    request: TrainingRequest,
    config: &RegistryConfig,
) -> Result<Record, ChangeError> {
    let params = request.settings.params(&config.params);
    let options = request
        .settings
        .fit_options(config.out_of_range, request.runs);
    let Fitted {
        detector,
        window,
        held_back,
    } = Fitted::fit(&params, &options, request.samples)?;
    let forest = detector.forest();
    tracing::info!(
        model = %name,
        readings = forest.n_samples(),
        features = forest.n_features(),
        contamination = held_back.is_none().then(|| forest.hyperparams().contamination()),
        false_alarm_rate = held_back.map(|held_back| held_back.false_alarm_rate),
        window = window.as_ref().map(Window::size),
        distance = forest.knows_distance().then_some(true),
        n_estimators = forest.hyperparams().n_estimators(),
        max_samples = %forest.hyperparams().max_samples(),
        random_state = forest.random_state(),
        "trained"
    );
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(Record {
        detector,
        window,
        held_back,
        feature_names: request.feature_names,
        settings: request.settings,
        trained_at: since_epoch.map_or(0, |time| time.as_millis() as u64),
        restored_from: None,
    })
}
