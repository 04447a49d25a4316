//! The models: which are served, how they are trained, stored, rolled back and deleted, and how
//! changes of other servers on the same store are synced.
//!
//! A start reads the names of the stored models and loads `default`. All others are loaded in the
//! background, or when a request first asks for one. Models and trainings share a budget of memory;
//! beyond it, the models used least recently are unloaded, and loaded again when a request asks.
//!
//! * `config`: the settings
//! * `error`: the errors
//! * `audit`: who changes models, and the audit log
//! * `limits`: limits on concurrent work
//! * `metrics`: counters and gauges
//! * `models`: the models in memory, behind `RwLock`s, and the versions of the others
//! * `model_queue`: a queue of changes for each model
//! * `backlog`: the work of the trainings that wait, and its bounds
//! * `training_worker`: the thread that fits
//! * `runtime_thread`: the thread that runs changes and the sync loop
//! * `training`: fitting a model
//! * `save`: storing a new version
//! * `load`: loading stored models, and making room for them
//! * `warm_up`: loading in the background after a start
//! * `decoder`: the threads that decode
//! * `shared`: the state shared by all of these
//! * `streams`: the last readings of windowed models
//! * `sync`: following other servers on the same store
//! * `changes`: retrain, rollback and deletion
//! * `open`: listing the models and loading `default` at the start
//!
//! Changes run on a thread of their own: a change completes even if its caller is gone, and while a
//! store is slow, predictions and changes of other models go on.

mod audit;
mod backlog;
mod changes;
mod config;
mod decoder;
mod error;
mod limits;
mod load;
mod metrics;
mod model_queue;
mod models;
mod open;
mod runtime_thread;
mod save;
mod shared;
mod streams;
mod sync;
mod training;
mod training_worker;
mod warm_up;

use std::fmt;
use std::future::ready;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::Array2;
use tokio::sync::oneshot;

use self::audit::Audit;
use self::changes::ChangeKind;
use self::decoder::Decoder;
use self::limits::MAX_WAITING_CHANGES;
use self::open::Opened;
use self::runtime_thread::RuntimeThread;
use self::shared::{Shared, Threads};
use self::training_worker::TrainingWorker;
use crate::forest::IsolationForestParams;
use crate::metrics::Exposition;
use crate::store::{ModelName, Store};

pub use audit::Actor;
pub use config::{DefaultModel, RegistryConfig};
pub use error::{ChangeError, LoadError, LoadOneError, SetupError};
pub use models::{ServedModel, Summary};
pub use streams::StreamGuard;
pub use training::{TrainingEstimate, TrainingRequest};

/// The models, and the thread that changes them.
#[derive(Debug)]
pub struct Registry {
    shared: Arc<Shared>,
    runtime: RuntimeThread,
}

impl Registry {
    /// Lists the models of a store, loads or trains the default one, and serves them. The others are
    /// loaded in the background.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the store does not answer, none of the stored versions of the default model
    /// can be read, or its readings or parameters are rejected. Another damaged model is not an error:
    /// it is quarantined and logged.
    pub fn open(
        store: Store,
        config: RegistryConfig,
        default: DefaultModel,
    ) -> Result<Self, SetupError> {
        let start = Instant::now();
        let runtime = RuntimeThread::start()?;
        let threads = Threads {
            runtime: runtime.handle(),
            worker: TrainingWorker::start()?,
            decoder: Decoder::start("load", false)?,
        };
        let interval = config.refresh_interval.filter(|_| store.is_shared());
        let opened = runtime
            .run(open::open(store, config, default, threads))
            .ok_or(ChangeError::Interrupted)??;
        let Opened {
            shared,
            stored,
            loaded,
            seen,
        } = opened;
        runtime.spawn(Arc::clone(&shared).warm_up(stored, loaded, start));
        if let Some(interval) = interval {
            runtime.spawn(Arc::clone(&shared).sync_loop(interval, seen));
        }
        Ok(Self { shared, runtime })
    }

    /// Trains a default model on readings, one per row, and serves it with an in-memory store.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the readings or the parameters are rejected.
    pub fn train(params: IsolationForestParams, readings: Array2<f64>) -> Result<Self, SetupError> {
        let default = DefaultModel::LoadOrTrain(Box::new(|| readings));
        Self::open(Store::in_memory(), RegistryConfig::new(params), default)
    }

    /// Loads one model of a store, as [`open`](Self::open) would serve it, without serving. Writes
    /// nothing if the store was [opened to be read](Store::open_to_read).
    ///
    /// # Errors
    ///
    /// [`LoadOneError`] if there is no such model, or none of its versions can be read.
    pub fn load_one(
        store: Store,
        config: RegistryConfig,
        name: ModelName,
    ) -> Result<Arc<ServedModel>, LoadOneError> {
        let runtime = RuntimeThread::start()?;
        let decoder = Decoder::start("load", false)?;
        let loaded = async move { open::load_one(&store, &config, &decoder, &name).await };
        let interrupted = || io::Error::other("the thread was interrupted");
        runtime.run(loaded).ok_or_else(interrupted)?
    }

    /// The default model as of now. Later changes do not affect the returned model.
    pub fn default_model(&self) -> Arc<ServedModel> {
        self.shared.models.default_model()
    }

    /// The model of this name as of now, loaded if it is not in memory; `None` if there is no such
    /// model.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the model is not in memory, and the store fails or there is no memory for it.
    pub async fn get(&self, name: &ModelName) -> Result<Option<Arc<ServedModel>>, LoadError> {
        self.shared.get(name).await
    }

    /// A windowed model as of now, and its stream, in which each request waits for those before it;
    /// `None` if there is no such model.
    ///
    /// # Errors
    ///
    /// Same as [`get`](Self::get).
    pub async fn stream(
        &self,
        name: &ModelName,
    ) -> Result<Option<(Arc<ServedModel>, StreamGuard)>, LoadError> {
        self.shared.stream(name).await
    }

    /// All models, sorted by name, also those that are not in memory. Does not load them.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the metadata of a model were not read yet, and the store fails.
    pub async fn list(&self) -> Result<Vec<(ModelName, Summary)>, LoadError> {
        let shared = Arc::clone(&self.shared);
        // Not on the thread that serves the request: there may be very many.
        self.runtime
            .spawn(async move { shared.list().await })
            .await
            .map_err(|_| LoadError::Interrupted)?
    }

    /// Describes a model without loading it; `None` if there is no such model.
    ///
    /// # Errors
    ///
    /// Same as [`list`](Self::list).
    pub async fn summary(&self, name: &ModelName) -> Result<Option<Summary>, LoadError> {
        self.shared.summary(name).await
    }

    /// The server's settings, which apply to models that have none of their own.
    pub fn config(&self) -> &RegistryConfig {
        &self.shared.config
    }

    /// Trains a model, stores it, serves it and returns it. Creates the model if it does not exist.
    ///
    /// `estimate` runs at once, with the model as of now. `read` runs in the model's turn, on the thread that fits, with the
    /// model as of then; until then it holds about `size` bytes. The retrain completes even if the
    /// caller is gone by then.
    ///
    /// # Errors
    ///
    /// The error of `estimate` or `read`, or a [`ChangeError`]. The model is then unchanged.
    pub async fn retrain<E: From<ChangeError> + fmt::Display + Send + 'static>(
        &self,
        name: &ModelName,
        size: usize,
        actor: Actor,
        estimate: impl FnOnce(Option<&ServedModel>) -> Result<TrainingEstimate, E> + Send + 'static,
        read: impl FnOnce(Option<&ServedModel>) -> Result<TrainingRequest, E> + Send + 'static,
    ) -> Result<Arc<ServedModel>, E> {
        let audit = Audit::new(actor, ChangeKind::Retrain, name);
        let admission = {
            let (shared, name) = (Arc::clone(&self.shared), name.clone());
            async move { shared.admit(&name, size, estimate).await }
        };
        self.change(
            name,
            audit,
            admission,
            move |shared, name, admitted| async move {
                shared.retrain(&name, admitted, read).await
            },
        )
        .await
    }

    /// Stores a copy of an older version of a model and serves it: the given version, or the newest
    /// readable one that is older than the served one.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]. The model is then unchanged.
    pub async fn rollback(
        &self,
        name: &ModelName,
        version: Option<u64>,
        actor: Actor,
    ) -> Result<Arc<ServedModel>, ChangeError> {
        let audit = Audit::new(actor, ChangeKind::Rollback, name);
        self.change(
            name,
            audit,
            ready(Ok(())),
            move |shared, name, ()| async move { shared.rollback(&name, version).await },
        )
        .await
    }

    /// Deletes a model and all its versions.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]. The model is then still served.
    pub async fn delete(&self, name: &ModelName, actor: Actor) -> Result<(), ChangeError> {
        let audit = Audit::new(actor, ChangeKind::Deletion, name);
        self.change(name, audit, ready(Ok(())), |shared, name, ()| async move {
            shared.delete(&name).await
        })
        .await
    }

    /// The numbers of a model's stored versions, in ascending order.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Store`] if the store does not answer.
    pub async fn versions(&self, name: &ModelName) -> Result<Vec<u64>, ChangeError> {
        let (shared, name) = (Arc::clone(&self.shared), name.clone());
        let versions = self
            .runtime
            .spawn(async move { shared.store.versions(&name).await })
            .await
            .map_err(|_| ChangeError::Interrupted)??;
        Ok(versions.iter().map(|version| version.number).collect())
    }

    /// Writes the metrics of models, trainings and the store.
    pub(crate) fn write_metrics(&self, text: &mut Exposition) {
        self.shared.write_metrics(text);
    }

    /// Counts the memory that a model has taken for its first large batch, and unloads others if it has
    /// to.
    pub(crate) fn count_memory(&self, model: &ServedModel) {
        if model.count_memory(&self.shared.budget) {
            self.shared.unload_excess();
        }
    }

    /// How many bytes of memory models and trainings take.
    pub(crate) fn memory_used(&self) -> usize {
        self.shared.budget.reserved()
    }

    /// Blocks until all changes have completed and are announced to other servers, or the timeout
    /// has passed.
    pub fn finish(&self, timeout: Duration) {
        self.shared.queues.wait_until_empty(timeout);
    }

    /// Queues a change, and runs it on the runtime's thread in the model's turn, with the result of
    /// `admission`. The admission runs at once, beside the wait for the turn: it may end that wait,
    /// and does not change the order of the turns.
    async fn change<A, T, E, F>(
        &self,
        name: &ModelName,
        audit: Audit,
        admission: impl Future<Output = Result<A, E>> + Send + 'static,
        change: impl FnOnce(Arc<Shared>, ModelName, A) -> F + Send + 'static,
    ) -> Result<T, E>
    where
        A: Send + 'static,
        T: Changed + Send + 'static,
        E: From<ChangeError> + fmt::Display + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let Some(ticket) = self.shared.queues.enter(name, MAX_WAITING_CHANGES) else {
            let error = self.shared.busy();
            audit.refused(self.shared.served_version(name), &error);
            return Err(error.into());
        };
        let (sender, receiver) = oneshot::channel();
        let (shared, name) = (Arc::clone(&self.shared), name.clone());
        self.runtime.spawn(async move {
            let turn = async { Ok(ticket.acquire().await) };
            // The turn is polled first, which joins the queue.
            let admitted = tokio::try_join!(biased; turn, admission);
            let (_turn, before, result) = match admitted {
                Ok((turn, admitted)) => {
                    let refreshed = shared.refresh_before(audit.kind, &name).await;
                    let before = shared.served_version(&name);
                    let result = match refreshed {
                        Ok(()) => change(Arc::clone(&shared), name.clone(), admitted).await,
                        Err(error) => Err(error.into()),
                    };
                    (Some(turn), before, result)
                }
                Err(error) => (None, shared.served_version(&name), Err(error)),
            };
            let is_changed = result.is_ok();
            match &result {
                Ok(changed) => audit.done(before, changed.version()),
                Err(error) => audit.refused(before, error),
            }
            // Fails only if the caller is gone.
            let _ = sender.send(result);
            if is_changed {
                shared.announce_and_prune(&name, audit.kind).await;
            }
        });
        receiver.await.map_err(|_| ChangeError::Interrupted)?
    }
}

/// The result of a change.
trait Changed {
    /// The version that is served after it.
    fn version(&self) -> Option<u64>;
}

impl Changed for Arc<ServedModel> {
    fn version(&self) -> Option<u64> {
        self.version_number()
    }
}

impl Changed for () {
    fn version(&self) -> Option<u64> {
        None
    }
}
