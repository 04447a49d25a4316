//! `POST /predict` with the readings of many models.

use std::ops::ControlFlow;

use axum::response::{IntoResponse, Response};

use super::body::JSON;
use super::error::ApiError;
use super::models::find;
use super::state::AppState;
use super::wire::{self, ModelReadings};
use super::{predict, predict_windowed};

/// The body of the response to a reading.
pub(super) type Answer = Result<Vec<u8>, ApiError>;

/// After so many models other requests on this thread have their turn: to find a model takes time
/// too, also where its scores are looked up.
const MODELS_PER_TURN: usize = 64;

/// Predicts each reading with its model, one model after the other. So at most one model is loaded
/// for a request at a time, and a request never holds two streams.
pub(super) async fn respond(app: &AppState, body: &[u8]) -> Result<Response, ApiError> {
    let text = wire::decode(body)?;
    let request = wire::parse_readings(&text)?;
    let mut items = vec![Vec::new(); request.len];
    for refused in request.refused {
        items[refused.index] = item(refused.model.as_deref(), Err(refused.error));
    }
    let mut walks = 0;
    for (i, model) in request.models.into_iter().enumerate() {
        if i % MODELS_PER_TURN == MODELS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
        let name = Some(model.name.as_str());
        let answers = match predict_model(app, &model, &mut walks).await {
            Ok(answers) => answers,
            Err(error) => vec![Err(error); model.readings.len()],
        };
        for (reading, answer) in model.readings.iter().zip(answers) {
            items[reading.index] = item(name, answer);
        }
    }
    let mut body = b"{\"predictions\":[".to_vec();
    body.extend(items.join(&b','));
    body.extend(b"]}\n");
    Ok(([JSON], body).into_response())
}

/// Predicts the readings of a model. `walks` are those of the request so far.
async fn predict_model(
    app: &AppState,
    request: &ModelReadings<'_>,
    walks: &mut usize,
) -> Result<Vec<Answer>, ApiError> {
    let ModelReadings { name, readings } = request;
    let mut model = find(&app.registry, name).await?;
    while model.window.is_some() {
        let predicted = predict_windowed::predict_readings(app, name, model, readings, walks);
        match predicted.await? {
            ControlFlow::Break(answers) => return Ok(answers),
            ControlFlow::Continue(current) => model = current,
        }
    }
    predict::predict_readings(app, model, readings, walks).await
}

/// The answer to a reading, with its model in front.
fn item(model: Option<&str>, answer: Answer) -> Vec<u8> {
    let json = answer.unwrap_or_else(|error| {
        error.log_internal(model);
        error.to_json()
    });
    let json = json.trim_ascii_end();
    match (model, json.strip_prefix(b"{")) {
        (Some(model), Some(fields)) => {
            // A string always has a JSON form.
            let model = serde_json::to_string(model).unwrap_or_default();
            [b"{\"model\":", model.as_bytes(), b",", fields].concat()
        }
        _ => json.to_vec(),
    }
}
