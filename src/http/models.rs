//! Models by name: `/models` and what is below it.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::response::Response;

use super::body::{Json, JsonBody, MaybeJsonBody};
use super::error::ApiError;
use super::wire::{
    self, ModelChanged, ModelDeleted, ModelInfo, ModelList, ModelSummary, ModelVersions,
};
use super::{MAX_PREDICT_BODY, MAX_RETRAIN_BODY, judge};
use crate::registry::{ChangeError, Registry, Served};
use crate::store::ModelName;

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

fn find(registry: &Registry, name: &ModelName) -> Result<Arc<Served>, ApiError> {
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
    answer(&*find(&registry, &name)?, &body)
}

/// The answer of a model of any number of features.
pub(super) fn answer(served: &Served, body: &[u8]) -> Result<Response, ApiError> {
    let detector = &served.detector;
    let features = detector.forest().n_features();
    let question = wire::rows(body, features, &served.feature_names)?;
    if features == 1 {
        judge(question.map(|row| row[0]), |&value| detector.judge(value))
    } else {
        judge(question, |row| detector.judge_row(row))
    }
}

pub(super) async fn retrain(
    State(registry): State<Arc<Registry>>,
    Name(name): Name,
    JsonBody(body): JsonBody<MAX_RETRAIN_BODY>,
) -> Result<Json<ModelChanged>, ApiError> {
    let params = registry.options().params.clone();
    let size = body.len();
    let read = move |model: Option<&Served>| wire::training(&body, model, &params);
    let served = registry.retrain(&name, size, read).await?;
    let message = "Model retrained successfully";
    Ok(Json(ModelChanged::new(message, &name, &served)))
}

pub(super) async fn rollback(
    State(registry): State<Arc<Registry>>,
    Name(name): Name,
    MaybeJsonBody(body): MaybeJsonBody<MAX_PREDICT_BODY>,
) -> Result<Json<ModelChanged>, ApiError> {
    let version = wire::version(&body)?;
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
