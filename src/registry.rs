//! What is served now.
//!
//! The detector hangs on an `RwLock` as a pointer. Readers clone the pointer and let go of the lock
//! before they work; a retrain fits with no lock held and takes the lock only to swap the pointer.
//! So predictions never wait for a retrain, and each is answered by one whole detector.
//!
//! Retrains are carried out by a thread of their own, one at a time and in the order in which they
//! were asked: the one asked last stays, and the others' memory and processor time are left to
//! predictions.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use ndarray::Array2;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::detector::{Detector, DetectorError};
use crate::forest::IsolationForestParams;

/// How many retrains may wait for their turn.
const MAX_WAITING: usize = 16;

/// The detector that is served, and how it is trained anew.
#[derive(Debug)]
pub struct Registry {
    model: Arc<Model>,
    queue: SyncSender<Job>,
}

type Job = Box<dyn FnOnce(&Model) + Send>;

/// A detector as it is served.
#[derive(Debug)]
pub struct Served {
    /// The detector.
    pub detector: Detector,
    /// When it was trained.
    pub trained_at: SystemTime,
}

#[derive(Debug)]
struct Model {
    serving: RwLock<Arc<Served>>,
    params: IsolationForestParams,
}

/// Why a registry could not be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The first readings, or the parameters, were refused.
    #[error(transparent)]
    Refused(#[from] DetectorError),
    /// The system gives no thread for retrains.
    #[error("the thread for retrains could not be started: {0}")]
    Thread(#[from] io::Error),
}

/// Why a retrain left the served detector as it was.
#[derive(Debug, Error)]
pub enum RetrainError {
    /// The readings were refused.
    #[error(transparent)]
    Refused(#[from] DetectorError),
    /// Too many retrains wait.
    #[error("too many retrains wait already")]
    Busy,
    /// The training panicked.
    #[error("the training was interrupted")]
    Interrupted,
}

impl Registry {
    /// Fits a detector to readings, one per row, and serves it; retrains use the same `params`.
    ///
    /// # Errors
    ///
    /// [`SetupError`] when the readings or the parameters are refused.
    pub fn train(params: IsolationForestParams, readings: Array2<f64>) -> Result<Self, SetupError> {
        let trained = fit(&params, readings)?;
        let model = Arc::new(Model {
            serving: RwLock::new(Arc::new(trained)),
            params,
        });
        let (queue, jobs) = sync_channel::<Job>(MAX_WAITING);
        let trained = Arc::clone(&model);
        std::thread::Builder::new()
            .name("retrain".to_owned())
            .spawn(move || {
                for job in jobs {
                    // Whoever asked is told when the job drops its sender; the next one goes on.
                    if catch_unwind(AssertUnwindSafe(|| job(&trained))).is_err() {
                        tracing::error!("a training panicked; the model is unchanged");
                    }
                }
            })?;
        Ok(Self { model, queue })
    }

    /// The detector to judge with. It stays whole and unchanged however long it is held.
    pub fn serving(&self) -> Arc<Served> {
        self.model.serving()
    }

    /// Fits a detector to readings, one per row, serves it and returns it.
    ///
    /// `readings` is called when its turn has come, on the thread that fits. The retrain is carried
    /// out even if the caller has gone by then.
    ///
    /// # Errors
    ///
    /// What `readings` returns, or a [`RetrainError`]; the served detector is then unchanged.
    pub async fn retrain<E: From<RetrainError> + Send + 'static>(
        &self,
        readings: impl FnOnce() -> Result<Array2<f64>, E> + Send + 'static,
    ) -> Result<Arc<Served>, E> {
        let (tell, told) = oneshot::channel();
        let job = Box::new(move |model: &Model| {
            let retrained = readings().and_then(|readings| Ok(model.retrain(readings)?));
            if retrained.is_err() {
                tracing::warn!("a retrain was refused; the model is unchanged");
            }
            // Nobody to tell: the caller has gone.
            let _ = tell.send(retrained);
        });
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => RetrainError::Busy,
            TrySendError::Disconnected(_) => RetrainError::Interrupted,
        })?;
        told.await.map_err(|_| RetrainError::Interrupted)?
    }
}

impl Model {
    fn serving(&self) -> Arc<Served> {
        // Only a pointer is ever written under the lock, so a poisoned lock holds a whole one.
        Arc::clone(&self.serving.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn retrain(&self, readings: Array2<f64>) -> Result<Arc<Served>, RetrainError> {
        let trained = Arc::new(fit(&self.params, readings)?);
        let mut serving = self.serving.write().unwrap_or_else(PoisonError::into_inner);
        *serving = Arc::clone(&trained);
        Ok(trained)
    }
}

/// Fits a detector and tells the log what one needs to make it again, or to beware of it.
fn fit(params: &IsolationForestParams, readings: Array2<f64>) -> Result<Served, DetectorError> {
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
    let blind = detector.blind_sides();
    let side = match (blind.below, blind.above) {
        (true, true) => Some("outside"),
        (true, false) => Some("below"),
        (false, true) => Some("above"),
        (false, false) => None,
    };
    if let Some(side) = side {
        tracing::warn!(
            "this model calls every reading {side} the training range normal, because the \
             training readings are too few or too much alike there; train it on more, or more \
             varied, readings"
        );
    }
    Ok(Served {
        detector,
        trained_at: SystemTime::now(),
    })
}
