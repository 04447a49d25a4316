//! `POST /predict` with the readings of many models.

use axum::body::to_bytes;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::JSON;
use super::error::ApiError;
use super::models::find;
use super::predict::predict_with;
use super::state::AppState;
use super::wire::{self, ModelReading, ModelReadings};
use crate::store::ModelName;

/// After so many models other requests on this thread have their turn.
const MODELS_PER_TURN: usize = 64;

/// Predicts each reading with its model. `missing` is the error if the request has no `readings`.
///
/// Each model answers as to a request of its own, so the predictions have the same bytes.
pub(super) async fn predict(
    app: &AppState,
    body: &[u8],
    missing: ApiError,
) -> Result<Response, ApiError> {
    let Some(request) = wire::parse_readings(body)? else {
        return Err(missing);
    };
    let mut answers = vec![String::new(); request.len];
    for refused in &request.refused {
        answers[refused.index] = answer(refused.model.as_deref(), &refused.error.to_text());
    }
    for (i, model) in request.models.iter().enumerate() {
        if i % MODELS_PER_TURN == MODELS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
        let name = Some(model.name.as_str());
        match predict_model(app, model).await {
            Ok(predictions) => {
                for (reading, prediction) in model.readings.iter().zip(predictions) {
                    answers[reading.index] = answer(name, &prediction);
                }
            }
            Err(error) => {
                let error = answer(name, &error.to_text());
                for reading in &model.readings {
                    answers[reading.index].clone_from(&error);
                }
            }
        }
    }
    let body = format!("{{\"predictions\":[{}]}}\n", answers.join(","));
    Ok(([JSON], body).into_response())
}

/// The prediction or error of each reading of a model; an error if it concerns them all.
async fn predict_model(app: &AppState, model: &ModelReadings) -> Result<Vec<String>, ApiError> {
    let predicted = ask(app, &model.name, model.body()).await;
    match (predicted, &*model.readings) {
        (Ok(prediction), [_]) => Ok(vec![prediction]),
        (Ok(predictions), _) => split(&predictions),
        // Nothing has changed, so each reading can be asked for on its own.
        (Err(error), [_, _, ..]) if error.is_about_body() => {
            let mut answers = Vec::with_capacity(model.readings.len());
            for reading in &model.readings {
                let predicted = ask_one(app, &model.name, reading).await;
                answers.push(predicted.unwrap_or_else(|error| error.to_text()));
            }
            Ok(answers)
        }
        (Err(error), _) => Err(error),
    }
}

async fn ask_one(
    app: &AppState,
    name: &ModelName,
    reading: &ModelReading,
) -> Result<String, ApiError> {
    ask(app, name, reading.body()).await
}

/// The body of the response to a request for one model.
async fn ask(app: &AppState, name: &ModelName, body: String) -> Result<String, ApiError> {
    let model = find(&app.registry, name).await?;
    let response = predict_with(app, name, model, body.as_bytes()).await?;
    let body = to_bytes(response.into_body(), usize::MAX).await;
    let body = body.map_err(|error| ApiError::internal(&error.to_string()))?;
    String::from_utf8(body.into()).map_err(|error| ApiError::internal(&error.to_string()))
}

/// The predictions of a response to `values`.
fn split(response: &str) -> Result<Vec<String>, ApiError> {
    #[derive(Deserialize)]
    struct Predictions<'a> {
        #[serde(borrow)]
        predictions: Vec<&'a RawValue>,
    }
    let Predictions { predictions } =
        serde_json::from_str(response).map_err(|error| ApiError::internal(&error.to_string()))?;
    Ok(predictions.iter().map(|raw| raw.get().to_owned()).collect())
}

/// A prediction or an error, with its model.
fn answer(model: Option<&str>, object: &str) -> String {
    let object = object.trim_end();
    match (model, object.strip_prefix('{')) {
        (Some(model), Some(fields)) => {
            // A string always has a JSON form.
            let model = serde_json::to_string(model).unwrap_or_default();
            format!("{{\"model\":{model},{fields}")
        }
        _ => object.to_owned(),
    }
}
