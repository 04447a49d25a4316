//! `/models`, and all below it but predictions and retrains.

use std::sync::Arc;

use axum::extract::{Extension, FromRequestParts, Path, State};
use axum::http::Uri;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};

use super::body::{Json, OptionalJsonBody};
use super::error::{ApiError, ErrorCode};
use super::limits::{MAX_LISTED, MAX_PREDICT_BODY};
use super::paths;
use super::predict::run_blocking;
use super::state::AppState;
use super::wire::{
    self, ModelChanged, ModelDeleted, ModelInfo, ModelList, ModelSummary, ModelVersions,
};
use crate::excerpt::excerpt;
use crate::registry::{Actor, ChangeError, Registry, ServedModel, Summary};
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

pub(super) async fn list(State(app): State<Arc<AppState>>, uri: Uri) -> Result<Response, ApiError> {
    let page = Page::parse(uri.query().unwrap_or_default())?;
    let models = app.registry.list().await?;
    let is_large = models.len() > MAX_LISTED;
    let respond = move || {
        let (models, next) = page.of(models);
        let summaries = models.iter();
        let list = ModelList {
            models: summaries
                .map(|(name, model)| ModelSummary::new(name, model))
                .collect(),
            next: next.map(|name| name.to_string()),
        };
        Ok(Json(list).into_response())
    };
    if is_large {
        run_blocking(respond).await
    } else {
        respond()
    }
}

/// Which models to list.
#[derive(Default)]
struct Page {
    /// All if it is missing.
    limit: Option<usize>,
    /// The name after which the page begins.
    after: Option<ModelName>,
}

impl Page {
    /// Parses the query of a URL. Of a repeated parameter the last one counts, and unknown ones are
    /// ignored, as fields of a body are.
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut page = Self::default();
        for (parameter, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*parameter {
                "limit" => page.limit = Some(parse_limit(&value)?),
                "after" => {
                    let name = value.parse().map_err(|error: crate::store::NameError| {
                        let message = format!("after: {error}");
                        ApiError::unprocessable(ErrorCode::BadName, message).at("after")
                    })?;
                    page.after = Some(name);
                }
                _ => {}
            }
        }
        Ok(page)
    }

    /// The models of the page, of all in the order of their names; and if more follow, the last name.
    fn of(
        &self,
        mut models: Vec<(ModelName, Summary)>,
    ) -> (Vec<(ModelName, Summary)>, Option<ModelName>) {
        if let Some(after) = &self.after {
            models.drain(..models.partition_point(|(name, _)| name <= after));
        }
        let limit = self.limit.unwrap_or(usize::MAX);
        let more = models.len() > limit;
        models.truncate(limit);
        let last = models.last().filter(|_| more);
        let next = last.map(|(name, _)| name.clone());
        (models, next)
    }
}

fn parse_limit(value: &str) -> Result<usize, ApiError> {
    let limit = value.parse().ok();
    limit
        .filter(|limit| (1..=MAX_LISTED).contains(limit))
        .ok_or_else(|| {
            let message = format!(
                "limit must be a whole number from 1 to {MAX_LISTED}, got {:?}",
                excerpt(value)
            );
            ApiError::unprocessable(ErrorCode::OutOfBounds, message).at("limit")
        })
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
