//! Opens a registry: loads what is stored, and makes the default model if it has to.

use std::sync::Arc;

use ndarray::Array2;

use super::changes::ChangeKind;
use super::config::{DefaultModel, RegistryConfig};
use super::error::SetupError;
use super::load::{StoredModels, load_all};
use super::models::{Models, ServedModel};
use super::save::{encode, store_next};
use super::shared::Shared;
use super::training::{TrainingRequest, fit};
use super::training_worker::TrainingWorker;
use crate::store::{ModelName, ModelSettings, Poll, Store};

/// Loads all models and makes the default one if it has to. Also returns the ETag of the last
/// announcement before loading, from which the sync loop polls.
pub(super) async fn open(
    store: Store,
    config: RegistryConfig,
    default: DefaultModel,
    worker: TrainingWorker,
) -> Result<(Shared, Option<String>), SetupError> {
    let seen = if store.is_shared() {
        match store.changed_since(None).await? {
            Poll::Changed(e_tag) => e_tag,
            Poll::Unchanged => None,
        }
    } else {
        None
    };
    let StoredModels {
        mut models,
        default_unreadable,
    } = load_all(&store, &config).await?;
    let name = ModelName::default_model();
    let stored = models.remove(&name);
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
        (DefaultModel::LoadOrTrain(_), None) if default_unreadable => {
            return Err(SetupError::DefaultUnreadable);
        }
        (DefaultModel::LoadOrTrain(readings), None) => {
            let (server, model) = (config.clone(), name.clone());
            let job = move || {
                fit(
                    &model,
                    request(readings(), ModelSettings::default()),
                    &server,
                )
            };
            let record = worker.run(job).await??;
            Arc::new(ServedModel::new(record, None, &config))
        }
        (DefaultModel::Retrain(samples), stored) => {
            let settings = stored.map_or_else(Default::default, |model| model.settings.clone());
            let (server, model) = (config.clone(), name.clone());
            let job = move || fit(&model, request(samples, settings), &server);
            let record = worker.run(job).await??;
            let version = store_next(&store, &name, &encode(&record)?).await?;
            Arc::new(ServedModel::new(record, Some(version), &config))
        }
    };
    for warning in default.warnings() {
        tracing::warn!(model = %name, "{warning}");
    }
    let shared = Shared::new(Models::new(default, models), store, config, worker);
    if is_retrained {
        shared.announce_and_prune(&name, ChangeKind::Retrain).await;
    }
    Ok((shared, seen))
}

/// A request to train on readings without names.
fn request(samples: Array2<f64>, settings: ModelSettings) -> TrainingRequest {
    TrainingRequest {
        samples,
        feature_names: Vec::new(),
        settings,
    }
}
