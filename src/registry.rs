//! What is served now.
//!
//! The detector hangs on an `RwLock` as a pointer. Readers clone the pointer and let go of the lock
//! before they work; a retrain fits with no lock held and takes the lock only to swap the pointer.
//! So predictions never wait for a retrain, and each is answered by one whole detector.

use std::sync::{Arc, PoisonError, RwLock};

use ndarray::Array2;
use thiserror::Error;
use tokio::sync::Mutex;

use crate::detector::{Detector, DetectorError};
use crate::forest::IsolationForestParams;

/// The detector that is served, and how it is trained anew.
#[derive(Debug)]
pub struct Registry {
    serving: RwLock<Arc<Detector>>,
    params: IsolationForestParams,
    /// Held by the retrain that runs. Those that wait get it in the order in which they asked, so
    /// the one that was asked last is served last, and stays.
    retraining: Arc<Mutex<()>>,
}

/// Why a retrain left the served detector as it was.
#[derive(Debug, Error)]
pub enum RetrainError {
    /// The readings were refused.
    #[error(transparent)]
    Refused(#[from] DetectorError),
    /// The thread that fitted was lost.
    #[error("the training was interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl Registry {
    /// Fits a detector to readings, one per row, and serves it; retrains use the same `params`.
    ///
    /// # Errors
    ///
    /// [`DetectorError`] when the readings or the parameters are refused.
    pub fn train(
        params: IsolationForestParams,
        readings: Array2<f64>,
    ) -> Result<Self, DetectorError> {
        let detector = fit(&params, readings)?;
        Ok(Self {
            serving: RwLock::new(Arc::new(detector)),
            params,
            retraining: Arc::default(),
        })
    }

    /// The detector to judge with. It stays whole and unchanged however long it is held.
    pub fn serving(&self) -> Arc<Detector> {
        // Only a pointer is ever written under the lock, so a poisoned lock holds a whole one.
        let serving = self.serving.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&serving)
    }

    /// Fits a detector to readings, one per row, serves it and returns it.
    ///
    /// One retrain runs at a time, so that the others' memory and processor time stay free for
    /// predictions. Once it has begun it is carried out, even if the caller has gone.
    ///
    /// # Errors
    ///
    /// [`RetrainError`]; the served detector is then unchanged.
    pub async fn retrain(
        self: &Arc<Self>,
        readings: Array2<f64>,
    ) -> Result<Arc<Detector>, RetrainError> {
        let turn = Arc::clone(&self.retraining).lock_owned().await;
        let registry = Arc::clone(self);
        let fitting = tokio::task::spawn_blocking(move || {
            let detector = Arc::new(fit(&registry.params, readings)?);
            let mut serving = registry
                .serving
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *serving = Arc::clone(&detector);
            drop(serving);
            drop(turn);
            Ok::<_, DetectorError>(detector)
        });
        Ok(fitting.await??)
    }
}

/// Fits a detector and tells the log what one needs to make it again, or to beware of it.
fn fit(params: &IsolationForestParams, readings: Array2<f64>) -> Result<Detector, DetectorError> {
    let detector = Detector::fit(params, readings)?;
    let forest = detector.forest();
    tracing::info!(
        readings = forest.n_samples(),
        contamination = forest.hyperparams().contamination(),
        n_estimators = forest.hyperparams().n_estimators(),
        max_samples = %forest.hyperparams().max_samples(),
        random_state = forest.random_state(),
        "trained"
    );
    let blind = detector.is_blind();
    let side = match (blind.below, blind.above) {
        (true, true) => "outside",
        (true, false) => "below",
        (false, true) => "above",
        (false, false) => return Ok(detector),
    };
    tracing::warn!(
        "this model calls every reading {side} the training range normal, because the training \
         readings vary too little there; train it on more, or more varied, readings"
    );
    Ok(detector)
}
