//! How a registry is set up.

use std::time::Duration;

use ndarray::Array2;

use crate::detector::OutOfRange;
use crate::forest::IsolationForestParams;
use crate::memory::MemoryLimit;

/// The server's settings, which apply to every model that has none of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistryConfig {
    /// Parameters of training.
    pub params: IsolationForestParams,
    /// How to predict a reading beyond the training range.
    pub out_of_range: OutOfRange,
    /// Margin around the training range, as a share of its width.
    pub out_of_range_margin: f64,
    /// How many versions of a model to keep; at least one.
    pub keep_versions: usize,
    /// How often to poll the store for changes of other servers; `None` for never.
    pub refresh_interval: Option<Duration>,
    /// How much memory models, trainings and bodies may take; the registry keeps to the share of
    /// models and trainings.
    pub memory_limit: MemoryLimit,
}

impl RegistryConfig {
    /// The given parameters, and the server's defaults for all other settings.
    pub fn new(params: IsolationForestParams) -> Self {
        Self {
            params,
            out_of_range: OutOfRange::Score,
            out_of_range_margin: 0.0,
            keep_versions: 5,
            refresh_interval: Some(Duration::from_secs(2)),
            memory_limit: MemoryLimit::detect(),
        }
    }
}

/// Where the default model comes from at the start.
pub enum DefaultModel {
    /// Train it on these readings, one per row, and store it.
    Retrain(Array2<f64>),
    /// Load it. If none is stored, train it on these readings, but do not store it: they are
    /// synthetic, so nothing was learnt.
    LoadOrTrain(Box<dyn FnOnce() -> Array2<f64> + Send>),
}
