//! `POST /predict` and `POST /models/{name}/predict`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use ndarray::ArrayView2;

use super::body::{JSON, JsonBody};
use super::error::{ApiError, ErrorCode};
use super::limits::{MAX_INLINE_WALKS, MAX_PREDICT_BODY};
use super::models::{Name, find};
use super::place::Place;
use super::state::AppState;
use super::wire::{self, PredictRequest, Reading};
use crate::detector::{Detector, DetectorError, Prediction};
use crate::registry::ServedModel;

pub(super) async fn predict_default(
    State(app): State<Arc<AppState>>,
    JsonBody(body): JsonBody<MAX_PREDICT_BODY>,
) -> Result<Response, ApiError> {
    let model = app.registry.default_model();
    // server.py knows models of one feature only.
    if model.detector.forest().n_features() > 1 {
        return Box::pin(predict_with(&app, model, &body)).await;
    }
    let request = wire::parse_values(&body)?;
    respond_values(model, request).await
}

pub(super) async fn predict_named(
    State(app): State<Arc<AppState>>,
    Name(name): Name,
    JsonBody(body): JsonBody<MAX_PREDICT_BODY>,
) -> Result<Response, ApiError> {
    predict_with(&app, find(&app.registry, &name).await?, &body).await
}

/// Predicts with a model of any number of features.
async fn predict_with(
    app: &AppState,
    model: Arc<ServedModel>,
    body: &[u8],
) -> Result<Response, ApiError> {
    let detector = &model.detector;
    let features = detector.forest().n_features();
    match wire::parse_rows(body, features, &model.feature_names)? {
        request if features == 1 => respond_values(model, request.map(|row| row[0])).await,
        request @ PredictRequest::One(_) => respond(request, |row| detector.predict_row(row)),
        PredictRequest::Many(rows) => {
            if rows.len() * detector.forest().walks_per_row() <= MAX_INLINE_WALKS {
                return predict_rows(detector, &rows);
            }
            // Batches wait for each other, and each reading is held twice: as parsed, and in a matrix.
            let size = size_of::<Vec<f64>>() + 2 * features * size_of::<f64>();
            let waiting = app.bodies.reserve(rows.len() * size)?;
            run_blocking(move || {
                let response = predict_rows(&model.detector, &rows);
                drop(waiting);
                response
            })
            .await
        }
    }
}

/// Predicts with a model of one feature.
async fn respond_values(
    model: Arc<ServedModel>,
    request: PredictRequest<f64>,
) -> Result<Response, ApiError> {
    let walks_per_row = model.detector.forest().walks_per_row();
    match &request {
        PredictRequest::Many(values) if values.len() * walks_per_row > MAX_INLINE_WALKS => {
            let predict = move || respond(request, |&value| model.detector.predict(value));
            // Boxed, so that the usual request does not carry the state of this one.
            Box::pin(run_blocking(predict)).await
        }
        _ => respond(request, |&value| model.detector.predict(value)),
    }
}

async fn run_blocking(
    predict: impl FnOnce() -> Result<Response, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    tokio::task::spawn_blocking(predict)
        .await
        .map_err(|error| ApiError::internal(&error.to_string()))?
}

fn predict_rows(detector: &Detector, rows: &[Vec<f64>]) -> Result<Response, ApiError> {
    let features = detector.forest().n_features();
    let values = rows.concat();
    let view = ArrayView2::from_shape((rows.len(), features), &values)
        .map_err(|error| ApiError::internal(&error.to_string()))?;
    let predictions = detector.predict_rows(view).map_err(|error| {
        let row = match error {
            DetectorError::Overflow { row, .. } => row.unwrap_or(0),
            _ => 0,
        };
        prediction_error(Place::item("values", row), &rows[row], &error)
    })?;
    Ok(([JSON], wire::predictions(rows, &predictions)).into_response())
}

/// Predicts reading by reading.
fn respond<R: Reading>(
    request: PredictRequest<R>,
    predict: impl Fn(&R) -> Result<Prediction<R>, DetectorError>,
) -> Result<Response, ApiError> {
    match request {
        PredictRequest::One(reading) => {
            let prediction = predict(&reading)
                .map_err(|error| prediction_error("value".into(), &reading, &error))?;
            Ok(([JSON], wire::prediction(&reading, &prediction)).into_response())
        }
        PredictRequest::Many(readings) => {
            let predictions: Vec<_> = readings
                .iter()
                .enumerate()
                .map(|(i, reading)| {
                    predict(reading).map_err(|error| {
                        prediction_error(Place::item("values", i), reading, &error)
                    })
                })
                .collect::<Result<_, _>>()?;
            Ok(([JSON], wire::predictions(&readings, &predictions)).into_response())
        }
    }
}

/// Why the detector has no prediction for the reading at `place`.
fn prediction_error<R: Reading>(place: Place, reading: &R, error: &DetectorError) -> ApiError {
    match *error {
        DetectorError::Overflow { feature, .. } => {
            let place = R::place(place, feature);
            let message = format!(
                "{place} must be nearer to the training readings, got {:e}",
                reading.value(feature)
            );
            ApiError::unprocessable(ErrorCode::OutOfBounds, message).at(place)
        }
        ref error => {
            let message = format!("{place}: {error}");
            ApiError::unprocessable(ErrorCode::OutOfBounds, message).at(place)
        }
    }
}
