//! Bounds on what one request may cost.

use std::time::Duration;

use linfa::ParamGuard;

use super::error::{ApiError, ErrorCode};
use crate::forest::IsolationForestParams;
use crate::store::ModelSettings;

/// Largest body of a retrain, in bytes: three million readings with all their digits.
pub const MAX_RETRAIN_BODY: usize = 64 * 1024 * 1024;

/// Largest body of any other request, in bytes. It is parsed on a serving thread, between other
/// requests, so it must be short.
pub const MAX_PREDICT_BODY: usize = 1024 * 1024;

/// Bodies above this size, in bytes, count towards [`LARGE_BODIES_KIB`]. No prediction is that
/// large, so slow uploads never keep one out.
pub(super) const LARGE_BODY: usize = MAX_PREDICT_BODY;

/// Memory for large bodies that are being received, over all connections, in KiB.
pub(super) const LARGE_BODIES_KIB: usize = 256 * 1024;

/// Idle timeout between the frames of a body; otherwise a client that vanished pins its buffer.
pub(super) const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Idle timeout while draining a rejected body.
pub(super) const DRAIN_IDLE_TIMEOUT: Duration = Duration::from_millis(500);

/// Longest time spent on draining a rejected body.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes drained from a rejected body.
pub(super) const MAX_DRAINED: usize = 64 * 1024 * 1024;

/// Most readings in one request. With one feature they take a few milliseconds.
pub(super) const MAX_VALUES: usize = 10_000;

/// Most tree walks made on a serving thread, some milliseconds. Larger batches run on the blocking
/// pool.
pub(super) const MAX_INLINE_WALKS: usize = 100_000;

/// Most features of a reading.
pub(super) const MAX_FEATURES: usize = 1024;

/// Longest name of a feature, in bytes.
pub(super) const MAX_FEATURE_NAME: usize = 128;

/// Deepest nesting of `samples`: numpy's arrays have no more dimensions.
pub(super) const MAX_NESTING: usize = 64;

/// Most readings that the trees of a model are grown from, all trees together, where a request
/// chooses their number: such a model takes up to 100 MB.
const MAX_TREE_SAMPLES: usize = 1_000_000;

/// Most tree walks for the threshold of a model of several features, one for each reading and tree,
/// where a request chooses the number of trees. They take some seconds, and the retrains of all
/// other models wait for them.
const MAX_THRESHOLD_WALKS: usize = 2_000_000_000;

/// Trees over several features are padded to at least this many nodes.
const MIN_PADDED_NODES: usize = 256;

/// Refuses a forest whose size a request may not choose. The operator's own settings are not
/// bounded.
pub(super) fn check_forest_size(
    settings: &ModelSettings,
    server: &IsolationForestParams,
    (samples, features): (usize, usize),
) -> Result<(), ApiError> {
    if settings.n_estimators.is_none() && settings.max_samples.is_none() {
        return Ok(());
    }
    let params = settings.params(server);
    let params = params.check_ref().map_err(ApiError::from)?;
    // A fraction that draws no row is refused by the fit.
    let rows_per_tree = u32::try_from(samples)
        .ok()
        .and_then(|samples| params.rows_per_tree(samples).ok())
        .unwrap_or(0) as usize;
    let rows_per_tree = match features {
        1 => rows_per_tree,
        _ => rows_per_tree.max(MIN_PADDED_NODES),
    };
    let trees = params.n_estimators();
    let too_many = |message| Err(ApiError::unprocessable(ErrorCode::TooMany, message));
    if trees.saturating_mul(rows_per_tree) > MAX_TREE_SAMPLES {
        return too_many(format!(
            "n_estimators times the readings per tree, which max_samples sets, must be at most \
             {MAX_TREE_SAMPLES}, got {trees} times {rows_per_tree}"
        ));
    }
    if features > 1 && trees.saturating_mul(samples) > MAX_THRESHOLD_WALKS {
        return too_many(format!(
            "n_estimators times samples must be at most {MAX_THRESHOLD_WALKS}, got {trees} times \
             {samples}"
        ));
    }
    Ok(())
}
