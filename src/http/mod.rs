//! The HTTP face: server.py's `POST /predict` and `POST /retrain`, and models by name.
//!
//! * `models`: `/models` and what is below it
//! * `wire`: the JSON shapes
//! * `body`: bodies and their limits
//! * `error`: statuses and error answers

mod body;
mod error;
mod models;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use percent_encoding::percent_decode_str;
use tower::ServiceExt;
use tower_http::trace::TraceLayer;

use self::body::{JSON, JsonBody};
use self::error::ApiError;
use self::wire::{PredictRequest, Reading};
use crate::detector::{DetectorError, Prediction};
use crate::registry::{Registry, ServedModel, TrainingRequest};
use crate::store::ModelName;

/// The largest body of /retrain, in bytes: three million readings with all their digits.
pub const MAX_RETRAIN_BODY: usize = 64 * 1024 * 1024;

/// The largest body of /predict, in bytes: what is read between other requests must be short.
pub const MAX_PREDICT_BODY: usize = 1024 * 1024;

const ALLOW: (HeaderName, HeaderValue) = (header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));

/// All routes, serving what the registry serves.
pub fn router(registry: Arc<Registry>) -> Router {
    let routes = Router::new()
        .route("/predict", only_post(predict))
        .route("/retrain", only_post(retrain))
        .route("/models", get(models::list).fallback(not("GET")))
        .route(
            "/models/{name}",
            get(models::info)
                .delete(models::delete)
                .fallback(not("GET or DELETE")),
        )
        .route("/models/{name}/predict", only_post(models::predict))
        .route("/models/{name}/retrain", only_post(models::retrain))
        .route("/models/{name}/rollback", only_post(models::rollback))
        .route(
            "/models/{name}/versions",
            get(models::versions).fallback(not("GET")),
        )
        .with_state(registry);
    let plain = routes.clone().fallback(not_found);
    let router = routes.fallback(move |request| retry_decoded_path(plain, request));
    // Tracing a request costs even where nobody listens.
    if tracing::enabled!(tracing::Level::DEBUG) {
        router.layer(TraceLayer::new_for_http())
    } else {
        router
    }
}

async fn predict(
    State(registry): State<Arc<Registry>>,
    JsonBody(body): JsonBody<MAX_PREDICT_BODY>,
) -> Result<Response, ApiError> {
    let served = registry.default_model();
    // server.py knows numbers alone.
    if served.detector.forest().n_features() > 1 {
        return models::answer(served, &body).await;
    }
    let detector = &served.detector;
    judge(wire::parse_values(&body)?, |&value| detector.predict(value))
}

async fn retrain(
    State(registry): State<Arc<Registry>>,
    JsonBody(body): JsonBody<MAX_RETRAIN_BODY>,
) -> Result<Response, ApiError> {
    let name = ModelName::default_model();
    let params = registry.config().params.clone();
    // Read where it is fitted: millions of numbers take their time, which predictions on this
    // thread must not wait for, nor a retrain that was asked later overtake.
    let (size, read) = (body.len(), move |model: Option<&ServedModel>| match model {
        Some(model) if model.detector.forest().n_features() > 1 => {
            wire::parse_retrain(&body, Some(model), &params)
        }
        model => {
            let training = TrainingRequest {
                samples: wire::parse_flask_retrain(&body)?,
                feature_names: model.map_or_else(Vec::new, |model| model.feature_names.clone()),
                settings: model.map_or_else(Default::default, |model| model.settings.clone()),
            };
            wire::check_size(&training.settings, &params, training.samples.dim())?;
            Ok(training)
        }
    });
    let served = registry.retrain(&name, size, read).await?;
    let samples_used = served.detector.forest().n_samples();
    Ok(([JSON], wire::retrained(samples_used)).into_response())
}

/// The answer to a question, if every one of its readings can be judged.
fn judge<R: Reading>(
    question: PredictRequest<R>,
    judge: impl Fn(&R) -> Result<Prediction<R>, DetectorError>,
) -> Result<Response, ApiError> {
    match question {
        PredictRequest::One(reading) => {
            let prediction = judge(&reading);
            let prediction = prediction
                .map_err(|error| prediction_error(|_| "value".to_owned(), &reading, &error))?;
            Ok(([JSON], wire::prediction(&reading, &prediction)).into_response())
        }
        PredictRequest::Many(readings) => {
            let predictions = readings.iter().enumerate().map(|(i, reading)| {
                judge(reading)
                    .map_err(|error| prediction_error(|_| format!("values[{i}]"), reading, &error))
            });
            let predictions: Vec<_> = predictions.collect::<Result<_, _>>()?;
            Ok(([JSON], wire::predictions(&readings, &predictions)).into_response())
        }
    }
}

/// A refusal of the detector to judge a reading; `field` is where that stands, by its row.
fn prediction_error<R: Reading>(
    field: impl Fn(usize) -> String,
    reading: &R,
    error: &DetectorError,
) -> ApiError {
    match *error {
        DetectorError::Overflow { row, feature } => ApiError::unprocessable(format!(
            "{} must be nearer to the training readings, got {:e}",
            R::place(&field(row.unwrap_or(0)), feature),
            reading.value(feature)
        )),
        ref error => ApiError::unprocessable(format!("{}: {error}", field(0))),
    }
}

/// A route as Flask makes it from `methods=["POST"]`.
fn only_post<H, T, S>(handler: H) -> MethodRouter<S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    post(handler)
        .options(|| async { [ALLOW] })
        .fallback(|method: Method| async move {
            (
                [ALLOW],
                ApiError::method_not_allowed("POST", method.as_str()),
            )
        })
}

/// What a route answers to all methods but those it takes.
fn not(
    allowed: &'static str,
) -> impl Fn(Method) -> std::future::Ready<ApiError> + Clone + Send + Sync + 'static {
    move |method| std::future::ready(ApiError::method_not_allowed(allowed, method.as_str()))
}

/// Flask also finds paths with two slashes in front, which come about where an address that ends in
/// one is put before a path, and paths with percent signs.
async fn retry_decoded_path(plain: Router, mut request: Request) -> Response {
    let path = request.uri().path();
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let spelt_plainly = format!("/{}", decoded.trim_start_matches('/'));
    // Decoded, these would end the path.
    let is_path = !spelt_plainly.contains(['?', '#']);
    match spelt_plainly.parse::<Uri>() {
        Ok(uri) if is_path && spelt_plainly != path => {
            *request.uri_mut() = uri;
            match plain.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        _ => ApiError::not_found(path).into_response(),
    }
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::not_found(uri.path())
}
