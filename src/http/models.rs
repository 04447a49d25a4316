//! `/models`, and all below it but predictions and retrains.

use std::sync::Arc;

use axum::extract::{Extension, FromRequestParts, Path, State};
use axum::http::request::Parts;

use super::body::{Json, OptionalJsonBody};
use super::error::{ApiError, ErrorCode};
use super::limits::MAX_PREDICT_BODY;
use super::paths;
use super::predict::run_blocking;
use super::state::AppState;
use super::wire::{
    self, ModelChanged, ModelDeleted, ModelInfo, ModelList, ModelSummary, ModelVersions,
};
use crate::registry::{Actor, ChangeError, Registry, ServedModel};
use crate::store::ModelName;

/// The model name in a path.
pub(super) struct Name(pub(super) ModelName);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if paths::is_ambiguous(parts.uri.path()) {
            return Err(ApiError::bad_path());
        }
        let Path(name) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::malformed(ErrorCode::BadName, error.body_text()))?;
        name.parse()
            .map(Self)
            .map_err(|error: crate::store::NameError| {
                ApiError::unprocessable(ErrorCode::BadName, error.to_string())
            })
    }
}

pub(super) async fn find(
    registry: &Registry,
    name: &ModelName,
) -> Result<Arc<ServedModel>, ApiError> {
    registry
        .get(name)
        .await?
        .ok_or_else(|| ChangeError::NoModel(name.clone()).into())
}

pub(super) async fn list(State(app): State<Arc<AppState>>) -> Result<Json<ModelList>, ApiError> {
    let models = app.registry.list().await?;
    Ok(Json(ModelList {
        models: models
            .iter()
            .map(|(name, model)| ModelSummary::new(name, model))
            .collect(),
    }))
}

pub(super) async fn info(
    State(app): State<Arc<AppState>>,
    Name(name): Name,
) -> Result<Json<ModelInfo>, ApiError> {
    let model = find(&app.registry, &name).await?;
    if model.has_slow_ranges() {
        // Boxed, so that the usual request does not carry the state of this one.
        let described = run_blocking(move || Ok(ModelInfo::new(&name, &model)));
        return Ok(Json(Box::pin(described).await?));
    }
    Ok(Json(ModelInfo::new(&name, &model)))
}

pub(super) async fn versions(
    State(app): State<Arc<AppState>>,
    Name(name): Name,
) -> Result<Json<ModelVersions>, ApiError> {
    let summary = app.registry.summary(&name).await?;
    let served = summary
        .ok_or_else(|| ChangeError::NoModel(name.clone()))?
        .version;
    let versions = app.registry.versions(&name).await?;
    Ok(Json(ModelVersions {
        name: name.to_string(),
        served,
        versions,
    }))
}

pub(super) async fn rollback(
    State(app): State<Arc<AppState>>,
    Extension(actor): Extension<Actor>,
    Name(name): Name,
    OptionalJsonBody(body): OptionalJsonBody<MAX_PREDICT_BODY>,
) -> Result<Json<ModelChanged>, ApiError> {
    let version = wire::parse_rollback(&body)?;
    let model = app.registry.rollback(&name, version, actor).await?;
    let message = "Model rolled back successfully";
    Ok(Json(ModelChanged::new(message, &name, &model)))
}

pub(super) async fn delete(
    State(app): State<Arc<AppState>>,
    Extension(actor): Extension<Actor>,
    Name(name): Name,
) -> Result<Json<ModelDeleted>, ApiError> {
    app.registry.delete(&name, actor).await?;
    Ok(Json(ModelDeleted {
        message: "Model deleted successfully",
        name: name.to_string(),
    }))
}
