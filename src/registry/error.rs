//! The errors of a registry.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::detector::DetectorError;
use crate::store::{ModelName, StoreError};

/// Why a registry cannot be opened.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The store cannot be listed or read.
    #[error("the store cannot be used: {0}")]
    Store(#[from] StoreError),
    /// The default model is stored, but none of its versions can be read.
    #[error(
        "the stored model default cannot be read (see the log lines above); make its file \
         readable, restore it, delete it, or retrain the model with --train FILE"
    )]
    DefaultUnreadable,
    /// The default model cannot be trained or stored.
    #[error("cannot create the default model: {0}")]
    First(#[from] ChangeError),
    /// The system cannot start a thread.
    #[error("cannot start the threads that change models: {0}")]
    Thread(#[from] io::Error),
}

/// Why a model could not be loaded from a store that is not served.
#[derive(Debug, Error)]
pub enum LoadOneError {
    /// The store cannot be listed or read.
    #[error("the store cannot be used: {0}")]
    Store(#[from] StoreError),
    /// The model does not exist.
    #[error("there is no model {name} in {location}; {}", list_names(names))]
    NoModel {
        /// The model.
        name: ModelName,
        /// The store.
        location: String,
        /// All models in the store.
        names: Vec<ModelName>,
    },
    /// No version of the model can be read.
    #[error("the stored model {0} cannot be read (see the log lines above)")]
    Unreadable(ModelName),
    /// The system cannot start a thread, or it panicked.
    #[error("cannot load the model: {0}")]
    Thread(#[from] io::Error),
}

/// Why a model could not be loaded.
#[derive(Debug, Clone, Error)]
pub enum LoadError {
    /// The store failed.
    #[error("model {name} is not in memory, and the store failed: {error}")]
    Store {
        /// The model.
        name: ModelName,
        /// Why it failed.
        error: StoreError,
    },
    /// Trainings and other models take all memory, and none can be unloaded.
    #[error("there is no memory to load model {0}; try again later, or raise --memory-limit")]
    NoMemory(ModelName),
    /// The model changed again and again while it was loaded.
    #[error("model {0} is being changed; try again later")]
    Changing(ModelName),
    /// The load panicked, or the server is shutting down.
    #[error("the load was interrupted")]
    Interrupted,
}

/// Why a change failed. The model is unchanged.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// The detector rejected the readings.
    #[error(transparent)]
    Refused(#[from] DetectorError),
    /// Too many changes are waiting.
    #[error("too many changes are waiting already")]
    Busy {
        /// The time that the trainings that now wait take.
        retry_after: Duration,
    },
    /// The current model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The training takes more memory than all models and trainings may.
    #[error(
        "this training takes about {} MB, but --memory-limit leaves {} MB for it; send fewer \
         samples, or lower n_estimators or max_samples",
        megabytes(*needed),
        megabytes(*available)
    )]
    TooLarge {
        /// Bytes that the training takes.
        needed: usize,
        /// Bytes that there are if all models but `default` are unloaded.
        available: usize,
    },
    /// There is no memory for the training now.
    #[error("there is no memory for the training now; try again later")]
    NoMemory,
    /// The change panicked, or the server is shutting down.
    #[error("the change was interrupted")]
    Interrupted,
    /// The store is full or does not answer.
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
    /// The model does not exist.
    #[error("there is no model {0}")]
    NoModel(ModelName),
    /// The version to roll back to does not exist.
    #[error(
        "there is no version {requested} of model {name}; available: {}",
        list(available)
    )]
    NoVersion {
        /// The model.
        name: ModelName,
        /// The requested version.
        requested: u64,
        /// All stored versions.
        available: Vec<u64>,
    },
    /// No version is older than the served one.
    #[error(
        "model {name} has no older version: it serves {}; available: {}",
        describe_served(*served, *restored_from),
        list(available)
    )]
    NoOlderVersion {
        /// The model.
        name: ModelName,
        /// The version that is served, if it is stored.
        served: Option<u64>,
        /// The version that the served one is a copy of.
        restored_from: Option<u64>,
        /// All stored versions.
        available: Vec<u64>,
    },
    /// The requested version is damaged or of a newer format.
    #[error("version {requested} of model {name} cannot be served: {problem}")]
    Unreadable {
        /// The model.
        name: ModelName,
        /// The requested version.
        requested: u64,
        /// Why it cannot be read.
        problem: String,
    },
    /// The default model always exists.
    #[error(
        "the model default cannot be deleted because /predict uses it; retrain it or roll it back"
    )]
    DefaultStays,
}

/// A number of bytes in megabytes, rounded up.
fn megabytes(bytes: usize) -> usize {
    bytes.div_ceil(1_000_000)
}

fn describe_served(served: Option<u64>, restored_from: Option<u64>) -> String {
    match (served, restored_from) {
        (Some(served), Some(original)) => format!("version {served}, a copy of {original}"),
        (Some(served), None) => format!("version {served}"),
        (None, _) => "a model that is not stored".to_owned(),
    }
}

fn list_names(names: &[ModelName]) -> String {
    // A store may hold thousands.
    const MAX_LISTED: usize = 20;
    if names.is_empty() {
        return "it holds no models: is this the --store of the server?".to_owned();
    }
    let listed: Vec<&str> = names
        .iter()
        .take(MAX_LISTED)
        .map(ModelName::as_str)
        .collect();
    let more = match names.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("there are {}{more}", listed.join(", "))
}

fn list(versions: &[u64]) -> String {
    if versions.is_empty() {
        return "none".to_owned();
    }
    let numbers: Vec<String> = versions.iter().map(u64::to_string).collect();
    numbers.join(", ")
}
