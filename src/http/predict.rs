//! `POST /predict` and `POST /models/{name}/predict`.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use ndarray::ArrayView2;

use super::body::{JSON, JsonBody};
use super::error::{ApiError, ErrorCode};
use super::limits::{MAX_INLINE_WALKS, MAX_PREDICT_BODY, check_explained, walks};
use super::models::{Name, find};
use super::place::Place;
use super::predict_many::{self, Answer};
use super::predict_windowed;
use super::state::AppState;
use super::wire::{self, ModelReading, PredictRequest, Reading};
use crate::detector::{DetectorError, Prediction};
use crate::registry::ServedModel;
use crate::store::ModelName;

pub(super) async fn predict_default(
    State(app): State<Arc<AppState>>,
    JsonBody(body): JsonBody<MAX_PREDICT_BODY>,
) -> Result<Response, ApiError> {
    let model = app.registry.default_model();
    // server.py knows models of one feature only. A windowed model has at least three.
    if model.detector.forest().n_features() > 1 {
        let name = ModelName::default_model();
        return match Box::pin(predict_with(&app, &name, model, &body)).await {
            Err(error) if error.is_readings() => {
                Box::pin(predict_many::respond(&app, &body.reserved(&app.bodies)?)).await
            }
            response => response,
        };
    }
    if let Some(values) = wire::plain_values(&body, 1) {
        return Box::pin(predict_batch(&app, model, values)).await;
    }
    match wire::parse_values(&body) {
        Ok((request, false)) => respond_values(&app, model, request).await,
        Ok((request, true)) => Box::pin(explain_values(model, request)).await,
        // Boxed, so that the usual request does not carry the state of this one.
        Err(error) if error.is_readings() => {
            Box::pin(predict_many::respond(&app, &body.reserved(&app.bodies)?)).await
        }
        Err(error) => Err(error),
    }
}

pub(super) async fn predict_named(
    State(app): State<Arc<AppState>>,
    Name(name): Name,
    JsonBody(body): JsonBody<MAX_PREDICT_BODY>,
) -> Result<Response, ApiError> {
    predict_with(&app, &name, find(&app.registry, &name).await?, &body).await
}

/// Predicts with any model.
async fn predict_with(
    app: &Arc<AppState>,
    name: &ModelName,
    mut model: Arc<ServedModel>,
    body: &[u8],
) -> Result<Response, ApiError> {
    while model.window.is_some() {
        // Boxed, so that the usual request does not carry the state of this one.
        let predicted = Box::pin(predict_windowed::predict(app, name, model, body));
        match predicted.await? {
            ControlFlow::Break(response) => return Ok(response),
            ControlFlow::Continue(current) => model = current,
        }
    }
    let detector = &model.detector;
    let features = detector.forest().n_features();
    if let Some(values) = wire::plain_values(body, features) {
        return Box::pin(predict_batch(app, model, values)).await;
    }
    let (request, explain) = wire::parse_rows(body, features, &model.feature_names)?;
    if explain {
        return Box::pin(explain_rows(app, model, request)).await;
    }
    match request {
        request if features == 1 => respond_values(app, model, request.map(|row| row[0])).await,
        PredictRequest::One(row) => respond_one(&model, &row, detector.predict_row(&row)),
        PredictRequest::Many(rows) => Box::pin(predict_batch(app, model, rows.concat())).await,
    }
}

/// Predicts many readings, whose values follow one another.
async fn predict_batch(
    app: &Arc<AppState>,
    model: Arc<ServedModel>,
    values: Vec<f64>,
) -> Result<Response, ApiError> {
    let forest = model.detector.forest();
    let readings = values.len() / forest.n_features();
    if readings * forest.walks_per_row() <= MAX_INLINE_WALKS {
        return predict_rows(app, &model, &values);
    }
    // Batches wait for each other, and each reading is held twice: as sent, and scaled.
    let waiting = app.bodies.reserve(2 * size_of_val(&values[..]))?;
    let app = Arc::clone(app);
    run_blocking(move || {
        let response = predict_rows(&app, &model, &values);
        drop(waiting);
        response
    })
    .await
}

/// Predicts readings that are a part of a request, with a model without a window. `walks` are those
/// of the request so far.
pub(super) async fn predict_readings(
    app: &AppState,
    model: Arc<ServedModel>,
    readings: &[ModelReading<'_>],
    request_walks: &mut usize,
) -> Result<Vec<Answer>, ApiError> {
    let features = model.detector.forest().n_features();
    let rows: Vec<Result<Vec<f64>, ApiError>> = readings
        .iter()
        .map(|reading| reading.row(features, &model.feature_names))
        .collect();
    let valid = rows.iter().filter(|row| row.is_ok()).count();
    let walks = walks(&model.detector, valid, false);
    *request_walks = request_walks.saturating_add(walks);
    let predict = move || {
        let answers = rows.into_iter().map(|row| {
            let row = row?;
            match *row {
                [value] => answer(&model, &value, model.detector.predict(value)),
                _ => answer(&model, &row, model.detector.predict_row(&row)),
            }
        });
        answers.collect()
    };
    if walks == 0 || *request_walks <= MAX_INLINE_WALKS {
        return Ok(predict());
    }
    let size = size_of::<Vec<f64>>() + features * size_of::<f64>();
    let waiting = app.bodies.reserve(valid * size)?;
    run_blocking(move || {
        let answers = predict();
        drop(waiting);
        Ok(answers)
    })
    .await
}

/// Predicts with a model of one feature.
async fn respond_values(
    app: &Arc<AppState>,
    model: Arc<ServedModel>,
    request: PredictRequest<f64>,
) -> Result<Response, ApiError> {
    match request {
        PredictRequest::One(value) => respond_one(&model, &value, model.detector.predict(value)),
        // Boxed, so that the usual request does not carry the state of this one.
        PredictRequest::Many(values) => Box::pin(predict_batch(app, model, values)).await,
    }
}

/// Predicts and explains with a model of any number of features.
async fn explain_rows(
    app: &AppState,
    model: Arc<ServedModel>,
    request: PredictRequest<Vec<f64>>,
) -> Result<Response, ApiError> {
    let features = model.detector.forest().n_features();
    if features == 1 {
        return explain_values(model, request.map(|row| row[0])).await;
    }
    let readings = request.len();
    check_explained(readings, features)?;
    if walks(&model.detector, readings, true) <= MAX_INLINE_WALKS {
        return respond_explained(&model, request, |row| model.detector.predict_row(row));
    }
    let size = size_of::<Vec<f64>>() + 2 * features * size_of::<f64>();
    let waiting = app.bodies.reserve(readings * size)?;
    run_blocking(move || {
        let response = respond_explained(&model, request, |row| model.detector.predict_row(row));
        drop(waiting);
        response
    })
    .await
}

/// Predicts and explains with a model of one feature.
async fn explain_values(
    model: Arc<ServedModel>,
    request: PredictRequest<f64>,
) -> Result<Response, ApiError> {
    check_explained(request.len(), 1)?;
    let is_large = walks(&model.detector, request.len(), true) > MAX_INLINE_WALKS;
    let predict =
        move || respond_explained(&model, request, |&value| model.detector.predict(value));
    if is_large {
        run_blocking(predict).await
    } else {
        predict()
    }
}

/// Runs long work beside the requests of this thread.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::internal(&error.to_string()))?
}

fn predict_rows(app: &AppState, model: &ServedModel, values: &[f64]) -> Result<Response, ApiError> {
    let detector = &model.detector;
    let features = detector.forest().n_features();
    let rows = ArrayView2::from_shape((values.len() / features, features), values)
        .map_err(|error| ApiError::internal(&error.to_string()))?;
    let predicted = detector.predict_rows_scaled(rows);
    app.registry.count_memory(model);
    let (predictions, scaled) = predicted.map_err(|error| {
        let row = match error {
            DetectorError::Overflow { row, .. } => row.unwrap_or(0),
            _ => 0,
        };
        let place = Place::item("values", row);
        match values[row * features..][..features] {
            [value] => prediction_error(place, &value, &error),
            ref reading => prediction_error(place, &reading.to_vec(), &error),
        }
    })?;
    count(model, predictions.iter());
    let scaled = scaled
        .as_slice()
        .ok_or_else(|| ApiError::internal("the scaled readings are not in row-major order"))?;
    let body = wire::predictions(features, values, scaled, &predictions);
    Ok(([JSON], body).into_response())
}

/// Counts predictions by their verdict.
fn count<'a, R: 'a>(
    model: &ServedModel,
    predictions: impl ExactSizeIterator<Item = &'a Prediction<R>>,
) {
    let count = predictions.len();
    let anomalies = predictions.filter(|prediction| prediction.is_anomaly);
    let anomalies = anomalies.count();
    model.verdicts.count(count - anomalies, anomalies, 0);
}

/// The response to one reading.
fn respond_one<R: Reading>(
    model: &ServedModel,
    reading: &R,
    predicted: Result<Prediction<R>, DetectorError>,
) -> Result<Response, ApiError> {
    let body = answer(model, reading, predicted)?;
    Ok(([JSON], body).into_response())
}

/// The body of the response to one reading.
fn answer<R: Reading>(
    model: &ServedModel,
    reading: &R,
    predicted: Result<Prediction<R>, DetectorError>,
) -> Answer {
    let prediction =
        predicted.map_err(|error| prediction_error("value".into(), reading, &error))?;
    count(model, std::iter::once(&prediction));
    Ok(wire::prediction(reading, &prediction))
}

/// Predicts and explains reading by reading.
fn respond_explained<R: Reading>(
    model: &ServedModel,
    request: PredictRequest<R>,
    predict: impl Fn(&R) -> Result<Prediction<R>, DetectorError>,
) -> Result<Response, ApiError> {
    let (readings, is_list) = match request {
        PredictRequest::One(reading) => (vec![reading], false),
        PredictRequest::Many(readings) => (readings, true),
    };
    let place = |i| match is_list {
        true => Place::item("values", i),
        false => "value".into(),
    };
    let explained: Vec<_> = readings
        .iter()
        .enumerate()
        .map(|(i, reading)| {
            let prediction =
                predict(reading).map_err(|error| prediction_error(place(i), reading, &error))?;
            let contributions = model.detector.contributions(reading.values());
            Ok((prediction, contributions))
        })
        .collect::<Result<_, ApiError>>()?;
    count(model, explained.iter().map(|(prediction, _)| prediction));
    let names = &model.feature_names;
    let body = wire::explained_predictions(&readings, &explained, names, is_list);
    Ok(([JSON], body).into_response())
}

/// Why the detector has no prediction for the reading at `place`.
pub(super) fn prediction_error<R: Reading>(
    place: Place,
    reading: &R,
    error: &DetectorError,
) -> ApiError {
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
