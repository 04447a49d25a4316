//! Opens a registry: lists what is stored, and loads or makes the default model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::Array2;

use super::audit::{Actor, Audit};
use super::changes::ChangeKind;
use super::config::{DefaultModel, RegistryConfig};
use super::decoder::Decoder;
use super::error::{ChangeError, LoadOneError, SetupError};
use super::load::{Newest, fetch, find_newest};
use super::metrics::{RegistryMetrics, Verdicts};
use super::models::{Models, ServedModel};
use super::save::{encode, store_next};
use super::shared::{Shared, Threads};
use super::training::{TrainingRequest, fit};
use crate::memory::MemoryBudget;
use crate::store::{ModelName, ModelSettings, Poll, Record, Seen, Store, StoreError, Version};

/// A registry that serves.
pub(super) struct Opened {
    pub(super) shared: Arc<Shared>,
    /// How many models are stored.
    pub(super) stored: usize,
    /// How many of them are in memory.
    pub(super) loaded: usize,
    /// The announcements before listing, from which the sync loop polls.
    pub(super) seen: Seen,
}

/// Lists all models, and loads the default one or makes it if it has to.
pub(super) async fn open(
    store: Store,
    config: RegistryConfig,
    default: DefaultModel,
    threads: Threads,
) -> Result<Opened, SetupError> {
    let mut seen = Seen::default();
    if store.is_shared()
        && let Poll::Changed { seen: now, .. } = store.changed_since(&seen).await?
    {
        seen = now;
    }
    let budget = MemoryBudget::new(config.memory_limit.models());
    let metrics = Arc::<RegistryMetrics>::default();
    metrics.synced();
    let mut versions = store.list().await?;
    let count = versions.len();
    let name = ModelName::default_model();
    let Stored {
        model: stored,
        is_unreadable,
    } = match versions.remove(&name) {
        Some(versions) => {
            let verdicts = metrics.verdicts(&name);
            let context = (&store, &config, &budget, &threads.decoder);
            load_newest(context, &name, &versions, verdicts).await?
        }
        None => {
            // Fails if its folder cannot be listed: never replace it with the synthetic one then.
            store.versions(&name).await?;
            Stored::default()
        }
    };
    let loaded = usize::from(stored.is_some());
    let is_retrained = matches!(default, DefaultModel::Retrain(_));
    let default = match (default, stored) {
        (DefaultModel::LoadOrTrain(_), Some(stored)) => {
            tracing::info!(
                version = stored.version_number(),
                trained_at = %humantime::format_rfc3339_seconds(stored.trained_at),
                readings = stored.detector.forest().n_samples(),
                contamination = stored.detector.forest().hyperparams().contamination(),
                "serving the stored model default"
            );
            stored
        }
        // Never replace an unreadable stored model with the synthetic one.
        (DefaultModel::LoadOrTrain(_), None) if is_unreadable => {
            return Err(SetupError::DefaultUnreadable);
        }
        (DefaultModel::LoadOrTrain(readings), None) => {
            let (server, model) = (config.clone(), name.clone());
            let job = move || {
                let settings = ModelSettings::default();
                fit_timed(&model, request(readings(), settings), &server)
            };
            let (record, duration, samples) = threads.worker.run(job).await??;
            metrics.trained(duration, samples);
            let verdicts = metrics.verdicts(&name);
            let model = ServedModel::new(record, None, verdicts, &config, &budget);
            Arc::new(model)
        }
        (DefaultModel::Retrain(samples), stored) => {
            let before = stored.as_ref().and_then(|model| model.version_number());
            let settings = stored.map_or_else(Default::default, |model| model.settings.clone());
            let (server, model) = (config.clone(), name.clone());
            let job = move || fit_timed(&model, request(samples, settings), &server);
            let (record, duration, samples) = threads.worker.run(job).await??;
            let version = store_next(&store, &name, &encode(&record)?).await?;
            metrics.trained(duration, samples);
            Audit::new(Actor::operator(), ChangeKind::Retrain, &name)
                .done(before, Some(version.number));
            let verdicts = metrics.verdicts(&name);
            let model = ServedModel::new(record, Some(version), verdicts, &config, &budget);
            Arc::new(model)
        }
    };
    for warning in default.warnings() {
        tracing::warn!(model = %name, "{warning}");
    }
    let models = Models::new(default, newest(versions));
    let shared = Arc::new(Shared::new(models, store, config, budget, metrics, threads));
    if is_retrained {
        shared.announce_and_prune(&name, ChangeKind::Retrain).await;
    }
    Ok(Opened {
        shared,
        stored: count,
        loaded,
        seen,
    })
}

/// Loads one model to predict with, as a server on this store does, without a registry. Changes
/// nothing if the store was [opened to be read](Store::open_to_read).
pub(super) async fn load_one(
    store: &Store,
    config: &RegistryConfig,
    decoder: &Decoder,
    name: &ModelName,
) -> Result<Arc<ServedModel>, LoadOneError> {
    let versions = store.versions(name).await?;
    if versions.is_empty() {
        return Err(LoadOneError::NoModel {
            name: name.clone(),
            location: store.to_string(),
            names: store.list().await?.into_keys().collect(),
        });
    }
    let budget = MemoryBudget::new(config.memory_limit.models());
    let context = (store, config, &budget, decoder);
    let stored = load_newest(context, name, &versions, Arc::default()).await?;
    stored
        .model
        .ok_or_else(|| LoadOneError::Unreadable(name.clone()))
}

/// The newest version of each model.
fn newest(
    versions: BTreeMap<ModelName, Vec<Version>>,
) -> impl Iterator<Item = (ModelName, Version)> {
    versions
        .into_iter()
        .filter_map(|(name, mut versions)| Some((name, versions.pop()?)))
}

/// A model as it is stored.
#[derive(Default)]
struct Stored {
    model: Option<Arc<ServedModel>>,
    /// Whether it is stored, but cannot be read.
    is_unreadable: bool,
}

/// Loads the newest readable version of a model, whatever memory it takes.
async fn load_newest(
    (store, config, budget, decoder): (&Store, &RegistryConfig, &Arc<MemoryBudget>, &Decoder),
    name: &ModelName,
    versions: &[Version],
    verdicts: Arc<Verdicts>,
) -> Result<Stored, StoreError> {
    let read = async |version| {
        let reserve = |bytes| Some(budget.reserve(bytes));
        match fetch(store, budget, name, version, reserve).await? {
            Some(fetched) => {
                let decoded = decoder.run(fetched).await?;
                Ok(Some(decoded.into_model(
                    Arc::clone(&verdicts),
                    config,
                    budget,
                )))
            }
            None => Ok(None),
        }
    };
    let mut newest = find_newest(store, name, versions, read).await;
    if newest.is_missing() {
        // Another server stored newer versions since the listing, and removed these.
        let versions = store.versions(name).await?;
        newest = find_newest(store, name, &versions, read).await;
    }
    let Newest {
        found,
        read_error,
        has_unsupported,
        has_damaged,
    } = newest;
    match (found.flatten(), read_error) {
        // A network error is likely to be transient: a later start reads it. A disk error may be
        // permanent.
        (_, Some(error)) if !store.is_folder() => Err(error),
        (Some(model), _) => Ok(Stored {
            model: Some(model),
            is_unreadable: false,
        }),
        (None, read_error) => {
            if read_error.is_none() && !has_unsupported {
                tracing::error!(model = %name, "none of the stored versions can be served");
            }
            Ok(Stored {
                model: None,
                is_unreadable: read_error.is_some() || has_unsupported || has_damaged,
            })
        }
    }
}

/// Fits a model. Also returns the time that takes, and the number of readings.
fn fit_timed(
    name: &ModelName,
    request: TrainingRequest,
    config: &RegistryConfig,
) -> Result<(Record, Duration, usize), ChangeError> {
    let start = Instant::now();
    let samples = request.samples.nrows();
    let record = fit(name, request, config)?;
    Ok((record, start.elapsed(), samples))
}

/// A request to train on readings without names.
fn request(samples: Array2<f64>, settings: ModelSettings) -> TrainingRequest {
    TrainingRequest {
        samples,
        runs: Vec::new(),
        feature_names: Vec::new(),
        settings,
    }
}
