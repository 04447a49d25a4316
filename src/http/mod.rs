//! The HTTP face: server.py's `POST /predict` and `POST /retrain`, and `GET /models/default`.
//!
//! * `wire`: the JSON shapes
//! * `error`: statuses and error answers

mod error;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use http_body_util::BodyExt;
use percent_encoding::percent_decode_str;
use tower::ServiceExt;
use tower_http::trace::TraceLayer;

use self::error::ApiError;
use self::wire::Question;
use crate::registry::Registry;

/// The largest body of /retrain, in bytes: three million readings with all their digits.
pub const MAX_RETRAIN_BODY: usize = 64 * 1024 * 1024;

/// The largest body of /predict, in bytes: what is read between other requests must be short.
pub const MAX_PREDICT_BODY: usize = 1024 * 1024;

const ALLOW: (HeaderName, HeaderValue) = (header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));

const JSON: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/json"),
);

/// All routes, serving what the registry serves.
pub fn router(registry: Arc<Registry>) -> Router {
    let routes = Router::new()
        .route("/predict", only_post(predict))
        .route("/retrain", only_post(retrain))
        .route("/models/default", get(default_model).fallback(not_get))
        .with_state(registry);
    let plain = routes.clone().fallback(not_found);
    let router = routes.fallback(move |request| spelt_otherwise(plain, request));
    // Tracing a request costs even where nobody listens.
    if tracing::enabled!(tracing::Level::DEBUG) {
        router.layer(TraceLayer::new_for_http())
    } else {
        router
    }
}

async fn predict(
    State(registry): State<Arc<Registry>>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = json_body(request, MAX_PREDICT_BODY).await?;
    let served = registry.serving();
    let answer = match wire::question(&body)? {
        Question::One(value) => {
            let judgement = served.detector.judge(value);
            let judgement =
                judgement.map_err(|error| ApiError::cannot_judge("value", value, &error))?;
            wire::judgement(value, &judgement)
        }
        Question::Many(values) => {
            let judged: Result<Vec<_>, ApiError> = values
                .into_iter()
                .enumerate()
                .map(|(i, value)| {
                    let judgement = served.detector.judge(value);
                    let judgement = judgement.map_err(|error| {
                        ApiError::cannot_judge(&format!("values[{i}]"), value, &error)
                    })?;
                    Ok((value, judgement))
                })
                .collect();
            wire::judgements(&judged?)
        }
    };
    Ok(([JSON], answer).into_response())
}

/// What is known of the model that /predict asks.
async fn default_model(State(registry): State<Arc<Registry>>) -> Result<Response, ApiError> {
    let answer = wire::model("default", &registry.serving())
        .map_err(|error| ApiError::internal(&error.to_string()))?;
    Ok(([JSON], answer).into_response())
}

async fn retrain(
    State(registry): State<Arc<Registry>>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = json_body(request, MAX_RETRAIN_BODY).await?;
    // Read where it is fitted: millions of numbers take their time, which predictions on this
    // thread must not wait for, nor a retrain that was asked later overtake.
    let served = registry.retrain(move || wire::samples(&body)).await?;
    let samples_used = served.detector.forest().n_samples();
    Ok(([JSON], wire::retrained(samples_used)).into_response())
}

/// The body of a request that says it is JSON, not yet read.
async fn json_body(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    let (head, body) = request.into_parts();
    if !is_json(&head.headers) {
        return Err(ApiError::media_type(head.headers.get(header::CONTENT_TYPE)));
    }
    let told = head.headers.get(header::CONTENT_LENGTH);
    let told = told.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|length| length > limit) {
        return Err(ApiError::too_large(limit));
    }
    read(body, limit).await
}

/// Reads a body, of which nearly every one comes in one piece.
async fn read(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::malformed("the body broke off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
        // The length need not be told beforehand.
        if first.len().max(all.len()) > limit {
            return Err(ApiError::too_large(limit));
        }
    }
    Ok(if all.is_empty() { first } else { all.into() })
}

/// Flask's `request.is_json`: `application/json` or `application/…+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let Some(value) = value.and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or_default().trim();
    let Some((kind, subtype)) = media_type.split_once('/') else {
        return false;
    };
    let suffix = subtype.rsplit_once('+').map(|(_, suffix)| suffix);
    kind.eq_ignore_ascii_case("application")
        && (subtype.eq_ignore_ascii_case("json")
            || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("json")))
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

async fn not_get(method: Method) -> ApiError {
    ApiError::method_not_allowed("GET", method.as_str())
}

/// Flask also finds paths with two slashes in front, which come about where an address that ends in
/// one is put before a path, and paths with percent signs.
async fn spelt_otherwise(plain: Router, mut request: Request) -> Response {
    let path = request.uri().path();
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let spelt_plainly = format!("/{}", decoded.trim_start_matches('/'));
    match spelt_plainly.parse::<Uri>() {
        Ok(uri) if spelt_plainly != path => {
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
