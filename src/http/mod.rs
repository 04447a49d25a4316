//! server.py's HTTP face: `POST /predict` and `POST /retrain`.
//!
//! * `wire`: the JSON shapes
//! * `error`: statuses and error answers

mod error;
mod wire;

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;

use self::error::ApiError;
use crate::registry::Registry;

/// The largest body that is read, in bytes: some three million readings.
pub const MAX_BODY: usize = 64 * 1024 * 1024;

const ALLOW: (HeaderName, HeaderValue) = (header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));

const JSON: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/json"),
);

/// All routes, serving what the registry serves.
pub fn router(registry: Arc<Registry>) -> Router {
    let router = Router::new()
        .route("/predict", only_post(predict))
        .route("/retrain", only_post(retrain))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(registry);
    // Tracing a request costs even where nobody listens.
    if tracing::enabled!(tracing::Level::DEBUG) {
        router.layer(TraceLayer::new_for_http())
    } else {
        router
    }
}

async fn predict(
    State(registry): State<Arc<Registry>>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let value = wire::value(&body)?;
    let judgement = registry
        .serving()
        .judge(value)
        .map_err(|error| ApiError::refused("value", &error))?;
    Ok(([JSON], wire::judgement(value, &judgement)).into_response())
}

async fn retrain(
    State(registry): State<Arc<Registry>>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    // Millions of numbers take their time, which predictions on this thread must not wait for.
    let samples = tokio::task::spawn_blocking(move || wire::samples(&body))
        .await
        .map_err(|error| ApiError::internal(&error.to_string()))??;
    let detector = registry.retrain(samples).await.inspect_err(|error| {
        tracing::warn!(%error, "a retrain was refused; the model is unchanged");
    })?;
    Ok(([JSON], wire::retrained(detector.forest().n_samples())).into_response())
}

/// The body of a request that says it is JSON, not yet read.
struct JsonBody(Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::media_type(
                request.headers().get(header::CONTENT_TYPE),
            ));
        }
        match Bytes::from_request(request, state).await {
            Ok(body) => Ok(Self(body)),
            Err(rejection) if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
                Err(ApiError::too_large(MAX_BODY))
            }
            Err(rejection) => Err(ApiError::malformed(format!(
                "the body could not be read: {}",
                rejection.body_text()
            ))),
        }
    }
}

/// Flask's `request.is_json`: `application/json` or `application/…+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let Ok(value) = value.to_str() else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or_default().trim();
    let suffix = |length: usize| {
        let start = media_type.len().checked_sub(length);
        start
            .and_then(|start| media_type.get(start..))
            .unwrap_or("")
    };
    media_type.eq_ignore_ascii_case("application/json")
        || (media_type
            .get(..12)
            .is_some_and(|start| start.eq_ignore_ascii_case("application/"))
            && suffix(5).eq_ignore_ascii_case("+json"))
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
            ([ALLOW], ApiError::method_not_allowed(method.as_str()))
        })
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::not_found(uri.path())
}

fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let cause = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    ApiError::internal(cause).into_response()
}
