//! Bounds on what one request may cost.

use std::time::Duration;

use linfa::ParamGuard;

use super::error::{ApiError, ErrorCode};
use crate::detector::{Detector, MAX_WINDOW_VALUES, Window};
use crate::forest::{IsolationForestValidParams, MAX_TABLE_ADDITIONS};
use crate::registry::RegistryConfig;
use crate::store::ModelSettings;

/// Maximum size of the body of a retrain, in bytes: three million readings with all their digits.
pub const MAX_RETRAIN_BODY: usize = 64 * 1024 * 1024;

/// Maximum size of the body of any other request, in bytes. It is parsed on a serving thread,
/// between other requests, so it must be short.
pub const MAX_PREDICT_BODY: usize = 1024 * 1024;

/// Memory for all bodies that arrive or wait, over all connections, in bytes. Four of the largest
/// retrains fit.
pub const BODY_BUDGET: usize = 256 * 1024 * 1024;

/// How fast a body has to arrive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Maximum time in which nothing comes; otherwise a client that vanished holds its buffer.
    pub(super) idle: Duration,
    /// In each such time some bytes have to come, until the body ends; otherwise a client that
    /// sends a byte now and then holds its buffer.
    pub(super) window: Duration,
    /// How many bytes, for each second of it.
    pub(super) rate: usize,
}

/// The slowest mobile links carry several times as much.
pub(super) const BODY_PACE: Pace = Pace {
    idle: Duration::from_secs(30),
    window: Duration::from_secs(30),
    rate: 1024,
};

/// Maximum number of models on a page of the list. A list of no more is made by the thread that serves
/// the request, in less than a millisecond.
pub(super) const MAX_LISTED: usize = 1000;

/// Maximum number of readings in one request. With one feature they take a few milliseconds, unless
/// the model has more trees than a request can ask for.
pub(super) const MAX_VALUES: usize = 10_000;

/// Maximum number of tree walks made on a serving thread, some milliseconds. Larger batches run on
/// the blocking pool.
pub(super) const MAX_INLINE_WALKS: usize = 100_000;

/// Maximum number of contributions in one response. Each takes up to a walk of every tree, and 200
/// bytes.
const MAX_CONTRIBUTIONS: usize = 10_000;

/// Values of a window that take as much time to turn into features as a tree walk.
const WINDOW_VALUES_PER_WALK: usize = 8;

/// Maximum number of features of a reading.
pub(super) const MAX_FEATURES: usize = 1024;

/// Maximum length of a feature name, in bytes.
pub(super) const MAX_FEATURE_NAME: usize = 128;

/// Deepest nesting of `samples`: numpy's arrays have no more dimensions.
pub(super) const MAX_NESTING: usize = 64;

/// Maximum cost of a training that a request may ask for, in nanoseconds of one processor core;
/// others wait for it meanwhile. At default settings no body needs more: the costliest, 11 million
/// readings of two features in [`MAX_RETRAIN_BODY`] bytes, takes 7 seconds.
const MAX_TRAINING_NANOS: u64 = 10_000_000_000;

/// Time to parse a byte of a retrain, in nanoseconds.
pub(super) const PARSE_NANOS_PER_BYTE: u64 = 20;

/// Maximum number of readings that the trees of a model are grown from, all trees together, where a
/// request chooses their number: such a model takes up to 100 MB.
const MAX_TREE_SAMPLES: usize = 1_000_000;

/// Trees over several features are padded to at least this many nodes.
const MIN_PADDED_NODES: usize = 256;

/// The least and the greatest number of readings that are judged together.
pub(super) const MIN_WINDOW: u32 = 2;
pub(super) const MAX_WINDOW: u32 = 10_000;

/// Maximum number of values in the training readings of all trees together, where scores know
/// distances: the boxes of such a model take up to 250 MB. At the default size of trees, 1,024
/// features fit.
const MAX_BOX_VALUES: usize = 32_000_000;

/// Refuses to explain too many readings of a model with so many features.
pub(super) fn check_explained(readings: usize, features: usize) -> Result<(), ApiError> {
    if readings.saturating_mul(features) <= MAX_CONTRIBUTIONS {
        return Ok(());
    }
    let message = format!(
        "with explain, the readings times the features that the model judges must be at most \
         {MAX_CONTRIBUTIONS}, got {readings} times {features}"
    );
    Err(ApiError::unprocessable(ErrorCode::TooMany, message).at("explain"))
}

/// The tree walks that take as much time as to predict readings.
pub(super) fn walks(detector: &Detector, readings: usize, explain: bool) -> usize {
    let forest = detector.forest();
    let per_reading = match explain {
        true => forest
            .walks_per_row()
            .max(1)
            .saturating_mul(1 + forest.n_features()),
        false => forest.walks_per_row(),
    };
    readings.saturating_mul(per_reading)
}

/// As [`walks`], of a windowed model.
pub(super) fn windowed_walks(
    window: &Window,
    detector: &Detector,
    readings: usize,
    explain: bool,
) -> usize {
    let values = window.size().saturating_mul(window.sensors());
    let judging = readings.saturating_mul(values.div_ceil(WINDOW_VALUES_PER_WALK));
    judging.saturating_add(walks(detector, readings, explain))
}

/// Returns the estimated cost of a training in nanoseconds of one processor core, or refuses it.
///
/// The operator may choose any settings, and a request with the operator's own settings may be as
/// costly as they make it. So a training is refused if it is beyond the bounds, and also beyond
/// what a model of one feature would cost with the operator's settings and as many readings: that is
/// `/retrain`, which is never refused unless a request changed the settings of `default`. A request
/// that asks for more trees, more readings per tree or more features than that cannot multiply the
/// operator's choice beyond the bounds.
pub(super) fn check_cost(
    settings: &ModelSettings,
    config: &RegistryConfig,
    (samples, sensors): (usize, usize),
) -> Result<u64, ApiError> {
    let params = settings.params(&config.params);
    let params = params.check_ref().map_err(ApiError::from)?;
    let server = config.params.check_ref().map_err(ApiError::from)?;

    if let Some(window) = settings.window {
        let values = sensors.saturating_mul(window as usize);
        if values > MAX_WINDOW_VALUES {
            let message = format!(
                "window times the number of features must be at most {MAX_WINDOW_VALUES}, got \
                 {window} times {sensors}"
            );
            return Err(ApiError::unprocessable(ErrorCode::TooMany, message).at("window"));
        }
    }
    let options = settings.fit_options(config.out_of_range, Vec::new());
    let features = options.features(sensors);
    let trees = params.n_estimators();
    let rows_per_tree = padded_rows_per_tree(params, samples, features);
    let server_rows_per_tree = padded_rows_per_tree(server, samples, features);
    let max_tree_samples = server
        .n_estimators()
        .saturating_mul(server_rows_per_tree)
        .max(MAX_TREE_SAMPLES);
    if trees.saturating_mul(rows_per_tree) > max_tree_samples {
        let message = format!(
            "n_estimators times the readings per tree, which max_samples sets, must be at most \
             {max_tree_samples}, got {trees} times {rows_per_tree}"
        );
        return Err(ApiError::unprocessable(ErrorCode::TooMany, message));
    }
    let box_values = trees.saturating_mul(rows_per_tree).saturating_mul(features);
    if options.distance && box_values > MAX_BOX_VALUES {
        let message = format!(
            "with distances, n_estimators times the readings per tree, which max_samples sets, times \
             the features must be at most {MAX_BOX_VALUES}, got {trees} times {rows_per_tree} times \
             {features}"
        );
        return Err(ApiError::unprocessable(ErrorCode::TooMany, message));
    }

    let cost = options.cost(params, samples, sensors);
    let server_options = ModelSettings::default().fit_options(config.out_of_range, Vec::new());
    let server_cost = server_options.cost(server, samples, 1);
    if cost.table_additions > server_cost.table_additions.max(MAX_TABLE_ADDITIONS) {
        let message = format!(
            "n_estimators squared times the readings per tree, which max_samples sets, must be at \
             most {MAX_TABLE_ADDITIONS}, got {trees} squared times {rows_per_tree}"
        );
        return Err(ApiError::unprocessable(ErrorCode::TooCostly, message));
    }
    let total = cost.total();
    let max_total = server_cost.total().max(MAX_TRAINING_NANOS);
    if total > max_total {
        let message = format!(
            "this training may take {} seconds of a processor core, and would take {}; it would \
             take less with fewer trees (n_estimators, {trees}), fewer readings per tree \
             (max_samples, {rows_per_tree}) or fewer samples ({samples})",
            max_total / 1_000_000_000,
            total / 1_000_000_000,
        );
        return Err(ApiError::unprocessable(ErrorCode::TooCostly, message));
    }
    Ok(total)
}

/// The readings that each tree is grown from, or the nodes that it is padded to if they are more.
fn padded_rows_per_tree(
    params: &IsolationForestValidParams,
    samples: usize,
    features: usize,
) -> usize {
    // A fraction that draws no row is refused by the fit.
    let rows_per_tree = u32::try_from(samples)
        .ok()
        .and_then(|samples| params.rows_per_tree(samples).ok())
        .unwrap_or(0) as usize;
    match features {
        1 => rows_per_tree,
        _ => rows_per_tree.max(MIN_PADDED_NODES),
    }
}
