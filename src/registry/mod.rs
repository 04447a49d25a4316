//! The models: which are served, how they are trained, stored, rolled back and deleted, and how
//! the changes of other servers on the same store come in.
//!
//! * `models`: what is served now, behind `RwLock`s
//! * `model_queue`: one change of a model at a time
//! * `training_worker`: the thread that fits
//! * `changes`: training, storing, rolling back, deleting
//! * `follow`: loading at the start, and following other servers
//!
//! Changes run on a thread of their own: a change is carried out even if whoever asked has gone,
//! and while a store is slow, predictions and other models' changes go on.

mod changes;
mod follow;
mod model_queue;
mod models;
mod training_worker;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fmt, io};

use ndarray::Array2;
use thiserror::Error;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot};

use self::model_queue::ModelQueues;
use self::models::Models;
use self::training_worker::TrainingWorker;
use crate::detector::{DetectorError, OutOfRange};
use crate::forest::IsolationForestParams;
use crate::store::{ModelName, ModelSettings, Store, StoreError, Version};

pub use models::ServedModel;

/// How many changes of one model may wait for their turn.
const MAX_WAITING: usize = 16;

/// How many KiB of readings may wait for their training.
const MAX_WAITING_KIB: usize = 256 * 1024;

/// Threads that read, write and compile what was read. Each takes memory of its own, and more would
/// not make a disk faster.
const BLOCKING_THREADS: usize = 3;

/// The models, and the thread that changes them.
#[derive(Debug)]
pub struct Registry {
    shared: Arc<Shared>,
    background: Background,
}

/// What holds for all models that have no settings of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistryConfig {
    /// The parameters of trainings.
    pub params: IsolationForestParams,
    /// What is said of a reading beyond the training range.
    pub out_of_range: OutOfRange,
    /// How far beyond, as a share of the training range.
    pub out_of_range_margin: f64,
    /// How many versions of a model are kept; at least one.
    pub keep_versions: usize,
    /// How often to ask the store for what other servers changed; `None` for never.
    pub refresh_interval: Option<Duration>,
}

impl RegistryConfig {
    /// Those of a server that is told nothing else.
    pub fn new(params: IsolationForestParams) -> Self {
        Self {
            params,
            out_of_range: OutOfRange::Score,
            out_of_range_margin: 0.0,
            keep_versions: 5,
            refresh_interval: Some(Duration::from_secs(2)),
        }
    }
}

/// What the default model is at the start.
pub enum DefaultModel {
    /// Trained on these readings, one per row, and stored.
    Retrain(Array2<f64>),
    /// What is stored. Where nothing is, it is trained on these readings, and not stored: it was
    /// not learnt from anything.
    LoadOrTrain(Box<dyn FnOnce() -> Array2<f64> + Send>),
}

/// What a model is to be trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingRequest {
    /// The readings, one per row.
    pub samples: Array2<f64>,
    /// What the features are called, in order, or no names.
    pub feature_names: Vec<String>,
    /// What the model has of its own.
    pub settings: ModelSettings,
}

#[derive(Debug)]
struct Shared {
    models: Models,
    store: Store,
    config: RegistryConfig,
    queues: Arc<ModelQueues>,
    worker: TrainingWorker,
    waiting_kib: Arc<Semaphore>,
    /// The newest versions of models, where they are of a format that this program does not know
    /// yet: they need not be read again after every change.
    unsupported_versions: Mutex<HashMap<ModelName, Version>>,
    /// Whether other servers are still to be told of a change.
    needs_announcement: AtomicBool,
}

/// Why a registry could not be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    /// What is stored could not be read.
    #[error("the store cannot be used: {0}")]
    Store(#[from] StoreError),
    /// The default model is stored, but not to be read.
    #[error(
        "the stored model default cannot be read, as said above; make its file readable, or delete \
         it, or train it anew with --train FILE"
    )]
    DefaultUnreadable,
    /// The first model was refused, or could not be stored.
    #[error("the model default could not be made: {0}")]
    First(#[from] ChangeError),
    /// The system gives no thread.
    #[error("the thread for changes of models could not be started: {0}")]
    Thread(#[from] io::Error),
}

/// Why a model is as it was.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// The readings were refused.
    #[error(transparent)]
    Refused(#[from] DetectorError),
    /// Too many changes wait.
    #[error("too many retrains wait already")]
    Busy,
    /// The change panicked, or the server is about to end.
    #[error("the training was interrupted")]
    Interrupted,
    /// The store is full or cannot be reached.
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
    /// There is no model of this name.
    #[error("there is no model {0}")]
    NoModel(ModelName),
    /// There is no such version to roll back to.
    #[error(
        "there is no version {wanted} of model {name}; kept are {}",
        list(kept)
    )]
    NoVersion {
        /// The model.
        name: ModelName,
        /// The version asked for.
        wanted: u64,
        /// Those there are.
        kept: Vec<u64>,
    },
    /// There is no version to roll back to.
    #[error(
        "no version is kept that is older than what model {name} serves, {}; kept are {}",
        served_as(*served, *restored_from),
        list(kept)
    )]
    NoOlderVersion {
        /// The model.
        name: ModelName,
        /// The version that is served, if it is stored.
        served: Option<u64>,
        /// The version that it is a copy of.
        restored_from: Option<u64>,
        /// Those there are.
        kept: Vec<u64>,
    },
    /// The version asked for is no whole model.
    #[error("version {wanted} of model {name} cannot be served: {problem}")]
    Unreadable {
        /// The model.
        name: ModelName,
        /// The version asked for.
        wanted: u64,
        /// What is the matter with it.
        problem: String,
    },
    /// The default model is always there.
    #[error(
        "the model default cannot be deleted, since /predict asks it; retrain it or roll it back"
    )]
    DefaultStays,
}

fn served_as(served: Option<u64>, restored_from: Option<u64>) -> String {
    match (served, restored_from) {
        (Some(served), Some(original)) => format!("version {served}, a copy of {original}"),
        (Some(served), None) => format!("version {served}"),
        (None, _) => "which is not stored".to_owned(),
    }
}

fn list(versions: &[u64]) -> String {
    let versions: Vec<String> = versions.iter().map(u64::to_string).collect();
    if versions.is_empty() {
        "none".to_owned()
    } else {
        versions.join(", ")
    }
}

impl Registry {
    /// Loads what a store holds, and serves it.
    ///
    /// # Errors
    ///
    /// [`SetupError`] when the store does not answer, or the first readings or the parameters are
    /// refused. A stored model that is damaged is no error: it is set aside, and logged.
    pub fn open(
        store: Store,
        config: RegistryConfig,
        first: DefaultModel,
    ) -> Result<Self, SetupError> {
        let background = Background::start()?;
        let interval = config.refresh_interval.filter(|_| store.is_shared());
        let opened =
            background.wait_for(follow::open(store, config, first, TrainingWorker::start()?));
        let (shared, seen) = opened.ok_or(ChangeError::Interrupted)??;
        let shared = Arc::new(shared);
        if let Some(interval) = interval {
            background
                .handle
                .spawn(Arc::clone(&shared).sync_loop(interval, seen));
        }
        Ok(Self { shared, background })
    }

    /// Serves a default model fitted to readings, one per row, and stores nothing beyond the life
    /// of the process.
    ///
    /// # Errors
    ///
    /// [`SetupError`] when the readings or the parameters are refused.
    pub fn train(params: IsolationForestParams, readings: Array2<f64>) -> Result<Self, SetupError> {
        let first = DefaultModel::LoadOrTrain(Box::new(|| readings));
        Self::open(Store::in_memory(), RegistryConfig::new(params), first)
    }

    /// The default model. It stays whole and unchanged however long it is held.
    pub fn default_model(&self) -> Arc<ServedModel> {
        self.shared.models.default_model()
    }

    /// A model.
    pub fn get(&self, name: &ModelName) -> Option<Arc<ServedModel>> {
        self.shared.models.get(name)
    }

    /// All models, in the order of their names.
    pub fn all(&self) -> Vec<(ModelName, Arc<ServedModel>)> {
        self.shared.models.all()
    }

    /// The settings of models that have none of their own.
    pub fn config(&self) -> &RegistryConfig {
        &self.shared.config
    }

    /// Fits a model to readings, stores it, serves it and returns it; makes it if there is none.
    ///
    /// `read` is called when its turn has come, on the thread that fits, with the model as it is;
    /// until then it holds about `size` bytes. The retrain is carried out even if the caller has
    /// gone by then.
    ///
    /// # Errors
    ///
    /// What `read` returns, or a [`ChangeError`]; the model is then as it was.
    pub async fn retrain<E: From<ChangeError> + fmt::Display + Send + 'static>(
        &self,
        name: &ModelName,
        size: usize,
        read: impl FnOnce(Option<&ServedModel>) -> Result<TrainingRequest, E> + Send + 'static,
    ) -> Result<Arc<ServedModel>, E> {
        let kib = size.div_ceil(1024).min(MAX_WAITING_KIB) as u32;
        let waiting = Arc::clone(&self.shared.waiting_kib);
        let waiting = waiting.try_acquire_many_owned(kib);
        let waiting = waiting.map_err(|_| ChangeError::Busy)?;
        self.change(name, Change::Retrain, |shared, name| async move {
            let retrained = shared.retrain(&name, read).await;
            drop(waiting);
            retrained
        })
        .await
    }

    /// Stores an older version of a model anew, and serves it: the one of that number, or else
    /// the one before what is served.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]; the model is then as it was.
    pub async fn rollback(
        &self,
        name: &ModelName,
        version: Option<u64>,
    ) -> Result<Arc<ServedModel>, ChangeError> {
        self.change(name, Change::Rollback, move |shared, name| async move {
            shared.rollback(&name, version).await
        })
        .await
    }

    /// Deletes a model with all its versions.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]; the model is then served as before.
    pub async fn delete(&self, name: &ModelName) -> Result<(), ChangeError> {
        self.change(name, Change::Deletion, |shared, name| async move {
            shared.delete(&name).await
        })
        .await
    }

    /// The versions of a model that are stored.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Store`] where the store does not answer.
    pub async fn versions(&self, name: &ModelName) -> Result<Vec<u64>, ChangeError> {
        let (shared, name) = (Arc::clone(&self.shared), name.clone());
        let versions = self
            .background
            .handle
            .spawn(async move { shared.store.versions(&name).await });
        let versions = versions.await.map_err(|_| ChangeError::Interrupted)??;
        Ok(versions.iter().map(|version| version.number).collect())
    }

    /// Waits until nothing is being changed any more, and other servers are told of all that was.
    pub fn finish(&self, patience: Duration) {
        let start = Instant::now();
        while !self.shared.queues.is_empty() && start.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes a change on the background thread once it is its turn.
    async fn change<T, E, F>(
        &self,
        name: &ModelName,
        kind: Change,
        change: impl FnOnce(Arc<Shared>, ModelName) -> F,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<ChangeError> + fmt::Display + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let place = self.shared.queues.enter(name, MAX_WAITING);
        let place = place.ok_or(ChangeError::Busy)?;
        let (tell, told) = oneshot::channel();
        let (shared, name) = (Arc::clone(&self.shared), name.clone());
        let change = change(Arc::clone(&shared), name.clone());
        self.background.handle.spawn(async move {
            let _turn = place.acquire().await;
            let changed = change.await;
            let is_changed = changed.is_ok();
            if let Err(error) = &changed {
                // As a field, so that what a client sent begins no line.
                let reason = error.to_string();
                tracing::warn!(model = %name, reason, "{kind} refused; the model is as it was");
            }
            // Nobody to tell: the caller has gone.
            let _ = tell.send(changed);
            if is_changed {
                shared.announce_and_prune(&name, kind).await;
            }
        });
        told.await.map_err(|_| ChangeError::Interrupted)?
    }
}

/// What is done to a model.
#[derive(Debug, Clone, Copy)]
enum Change {
    Retrain,
    Rollback,
    Deletion,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retrain => "a retrain was",
            Self::Rollback => "a rollback was",
            Self::Deletion => "a deletion was",
        })
    }
}

/// A thread with a runtime on which changes run. It ends when this is dropped.
#[derive(Debug)]
struct Background {
    handle: Handle,
    _end: oneshot::Sender<()>,
}

impl Background {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("models".to_owned())
            .spawn(move || {
                // An error: what it comes from was dropped, and so it is the end.
                let _ = runtime.block_on(ended);
                runtime.shutdown_background();
            })?;
        Ok(Self { handle, _end: end })
    }

    /// Runs a future there and waits for it on this thread; `None` where it panics.
    fn wait_for<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = std::sync::mpsc::channel();
        self.handle.spawn(async move {
            // Whoever waits is there.
            let _ = tell.send(future.await);
        });
        told.recv().ok()
    }
}
