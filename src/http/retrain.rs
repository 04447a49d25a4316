//! `POST /retrain` and `POST /models/{name}/retrain`.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};

use super::body::{JSON, Json, JsonBody};
use super::error::ApiError;
use super::limits::{MAX_RETRAIN_BODY, check_cost};
use super::models::Name;
use super::state::AppState;
use super::wire::{self, ModelChanged};
use crate::registry::{Actor, ServedModel, TrainingRequest};
use crate::store::ModelName;

// Bodies are parsed on the training worker: millions of numbers take their time, and predictions on
// the serving thread must not wait for them, nor may a later retrain overtake an earlier one. Until
// then the memory for a body stays reserved.

pub(super) async fn retrain_default(
    State(app): State<Arc<AppState>>,
    Extension(actor): Extension<Actor>,
    JsonBody(body): JsonBody<MAX_RETRAIN_BODY>,
) -> Result<Response, ApiError> {
    let body = Arc::new(body.reserved(&app.bodies)?);
    let name = ModelName::default_model();
    let server = app.registry.config().clone();
    let size = body.len();
    let estimate = {
        let (body, server) = (Arc::clone(&body), server.clone());
        move |model: Option<&ServedModel>| match model {
            Some(model) if model.features() > 1 => {
                wire::estimate_retrain(&body, Some(model), &server)
            }
            model => wire::estimate_flask_retrain(&body, model, &server),
        }
    };
    let client = actor.address;
    let parse = move |model: Option<&ServedModel>| match model {
        Some(model) if model.features() > 1 => wire::parse_retrain(&body, Some(model), &server),
        model => {
            let (samples, ignored) = wire::parse_flask_retrain(&body)?;
            if !ignored.is_empty() {
                tracing::warn!(
                    client = client.map(tracing::field::display),
                    "/retrain takes only samples, as server.py does; it ignored {}; \
                     /models/default/retrain takes them",
                    ignored.join(", ")
                );
            }
            let training = TrainingRequest {
                samples,
                runs: Vec::new(),
                feature_names: model.map_or_else(Vec::new, |model| model.feature_names.clone()),
                settings: model.map_or_else(Default::default, |model| model.settings.clone()),
            };
            check_cost(&training.settings, &server, training.samples.dim())?;
            Ok(training)
        }
    };
    let model = app
        .registry
        .retrain(&name, size, actor, estimate, parse)
        .await?;
    let samples_used = model.samples();
    Ok(([JSON], wire::retrained(samples_used)).into_response())
}

pub(super) async fn retrain_named(
    State(app): State<Arc<AppState>>,
    Extension(actor): Extension<Actor>,
    Name(name): Name,
    JsonBody(body): JsonBody<MAX_RETRAIN_BODY>,
) -> Result<Json<ModelChanged>, ApiError> {
    let body = Arc::new(body.reserved(&app.bodies)?);
    let server = app.registry.config().clone();
    let size = body.len();
    let estimate = {
        let (body, server) = (Arc::clone(&body), server.clone());
        move |model: Option<&ServedModel>| wire::estimate_retrain(&body, model, &server)
    };
    let parse = move |model: Option<&ServedModel>| wire::parse_retrain(&body, model, &server);
    let model = app
        .registry
        .retrain(&name, size, actor, estimate, parse)
        .await?;
    let message = "Model retrained successfully";
    Ok(Json(ModelChanged::new(message, &name, &model)))
}
