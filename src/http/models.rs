//! Models by name: `/models` and what is below it.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use ndarray::ArrayView2;

use super::body::{JSON, Json, JsonBody, MaybeJsonBody};
use super::error::ApiError;
use super::wire::{
    self, ModelChanged, ModelDeleted, ModelInfo, ModelList, ModelSummary, ModelVersions,
    PredictRequest,
};
use super::{MAX_PREDICT_BODY, MAX_RETRAIN_BODY, judge, prediction_error};
use crate::detector::{Detector, DetectorError};
use crate::registry::{ChangeError, Registry, ServedModel};
use crate::store::ModelName;

/// So many walks down a tree may other requests wait for: some milliseconds. More are made beside
/// them.
const MAX_INLINE_WALKS: usize = 100_000;

/// The name of a model in a path.
pub(super) struct Name(ModelName);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        let Path(name) = name.map_err(|error| ApiError::malformed(error.body_text()))?;
        let name = name.parse::<ModelName>();
        let name = name.map_err(|error| ApiError::unprocessable(error.to_string()))?;
        Ok(Self(name))
    }
}

fn find(registry: &Registry, name: &ModelName) -> Result<Arc<ServedModel>, ApiError> {
    let served = registry.get(name);
    served.ok_or_else(|| ChangeError::NoModel(name.clone()).into())
}

pub(super) async fn list(State(registry): State<Arc<Registry>>) -> Json<ModelList> {
    let models = registry.all();
    let models = models.iter();
    Json(ModelList {
        models: models
            .map(|(name, served)| ModelSummary::new(name, served))
            .collect(),
    })
}

pub(super) async fn info(
    State(registry): State<Arc<Registry>>,
    Name(name): Name,
) -> Result<Json<ModelInfo>, ApiError> {
    let served = find(&registry, &name)?;
    Ok(Json(ModelInfo::new(&name, &served)))
}

pub(super) async fn versions(
    State(registry): State<Arc<Registry>>,
    Name(name): Name,
) -> Result<Json<ModelVersions>, ApiError> {
    let served = find(&registry, &name)?;
    let versions = registry.versions(&name).await?;
    Ok(Json(ModelVersions {
        name: name.to_string(),
        served: served.version_number(),
        versions,
    }))
}

pub(super) async fn predict(
    State(registry): State<Arc<Registry>>,
    Name(name): Name,
    JsonBody(body): JsonBody<MAX_PREDICT_BODY>,
) -> Result<Response, ApiError> {
    answer(find(&registry, &name)?, &body).await
}

/// The answer of a model of any number of features.
pub(super) async fn answer(served: Arc<ServedModel>, body: &[u8]) -> Result<Response, ApiError> {
    let detector = &served.detector;
    let features = detector.forest().n_features();
    match wire::parse_rows(body, features, &served.feature_names)? {
        question if features == 1 => {
            judge(question.map(|row| row[0]), |&value| detector.predict(value))
        }
        question @ PredictRequest::One(_) => judge(question, |row| detector.predict_row(row)),
        PredictRequest::Many(rows) => {
            let walks = rows.len() * detector.forest().hyperparams().n_estimators();
            if walks <= MAX_INLINE_WALKS {
                return predict_rows(&served.detector, &rows);
            }
            let predictions =
                tokio::task::spawn_blocking(move || predict_rows(&served.detector, &rows)).await;
            predictions.map_err(|error| ApiError::internal(&error.to_string()))?
        }
    }
}

fn predict_rows(detector: &Detector, rows: &[Vec<f64>]) -> Result<Response, ApiError> {
    let features = detector.forest().n_features();
    let values = rows.concat();
    let view = ArrayView2::from_shape((rows.len(), features), &values);
    let view = view.map_err(|error| ApiError::internal(&error.to_string()))?;
    let predictions = detector.predict_rows(view).map_err(|error| {
        let row = match error {
            DetectorError::Overflow { row, .. } => row.unwrap_or(0),
            _ => 0,
        };
        let place = |row: usize| format!("values[{row}]");
        prediction_error(place, &rows[row], &error)
    })?;
    Ok(([JSON], wire::predictions(rows, &predictions)).into_response())
}

pub(super) async fn retrain(
    State(registry): State<Arc<Registry>>,
    Name(name): Name,
    JsonBody(body): JsonBody<MAX_RETRAIN_BODY>,
) -> Result<Json<ModelChanged>, ApiError> {
    let params = registry.config().params.clone();
    let size = body.len();
    let read = move |model: Option<&ServedModel>| wire::parse_retrain(&body, model, &params);
    let served = registry.retrain(&name, size, read).await?;
    let message = "Model retrained successfully";
    Ok(Json(ModelChanged::new(message, &name, &served)))
}

pub(super) async fn rollback(
    State(registry): State<Arc<Registry>>,
    Name(name): Name,
    MaybeJsonBody(body): MaybeJsonBody<MAX_PREDICT_BODY>,
) -> Result<Json<ModelChanged>, ApiError> {
    let version = wire::parse_rollback(&body)?;
    let served = registry.rollback(&name, version).await?;
    let message = "Model rolled back successfully";
    Ok(Json(ModelChanged::new(message, &name, &served)))
}

pub(super) async fn delete(
    State(registry): State<Arc<Registry>>,
    Name(name): Name,
) -> Result<Json<ModelDeleted>, ApiError> {
    registry.delete(&name).await?;
    Ok(Json(ModelDeleted {
        message: "Model deleted successfully",
        name: name.to_string(),
    }))
}
