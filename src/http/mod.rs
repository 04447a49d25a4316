//! The HTTP API: server.py's `POST /predict` and `POST /retrain`, and models by name.
//!
//! * `predict`, `retrain`, `models`: the handlers
//! * `wire`: the JSON of requests and responses
//! * `body`, `budget`: reading and rejecting bodies, and the memory for them
//! * `host`: the Host header
//! * `place`, `error`: error responses
//! * `limits`: bounds on what one request may cost
//! * `state`: what the handlers share

mod body;
mod budget;
mod error;
mod host;
mod limits;
mod models;
mod place;
mod predict;
mod retrain;
mod state;
mod wire;

use std::future::Ready;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use percent_encoding::percent_decode_str;
use tower::ServiceExt;
use tower_http::trace::TraceLayer;

use self::state::AppState;
use crate::registry::Registry;

pub(crate) use self::error::ApiError;
pub(crate) use self::host::check_host;
pub use self::limits::{BODY_BUDGET, MAX_PREDICT_BODY, MAX_RETRAIN_BODY};

const ALLOW: (HeaderName, HeaderValue) = (header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));

/// The router with all routes, over a registry's models.
pub fn router(registry: Arc<Registry>) -> Router {
    router_with(registry, BODY_BUDGET)
}

/// The same, with so many bytes of memory for bodies that arrive or wait.
pub fn router_with(registry: Arc<Registry>, body_budget: usize) -> Router {
    let routes = Router::new()
        .route("/predict", only_post(predict::predict_default))
        .route("/retrain", only_post(retrain::retrain_default))
        .route(
            "/models",
            get(models::list).fallback(method_not_allowed("GET")),
        )
        .route(
            "/models/{name}",
            get(models::info)
                .delete(models::delete)
                .fallback(method_not_allowed("GET or DELETE")),
        )
        .route("/models/{name}/predict", only_post(predict::predict_named))
        .route("/models/{name}/retrain", only_post(retrain::retrain_named))
        .route("/models/{name}/rollback", only_post(models::rollback))
        .route(
            "/models/{name}/versions",
            get(models::versions).fallback(method_not_allowed("GET")),
        )
        .with_state(Arc::new(AppState::new(registry, body_budget)));
    let decoded = routes.clone().fallback(not_found);
    let router = routes.fallback(move |request| retry_decoded_path(decoded, request));
    // Tracing a request costs time even where nothing is logged.
    if tracing::enabled!(tracing::Level::DEBUG) {
        router.layer(TraceLayer::new_for_http())
    } else {
        router
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

fn method_not_allowed(
    allowed: &'static str,
) -> impl Fn(Method) -> Ready<ApiError> + Clone + Send + Sync + 'static {
    move |method| std::future::ready(ApiError::method_not_allowed(allowed, method.as_str()))
}

/// Routes a path that no route matched once more, percent-decoded and without leading slashes. Flask
/// matches these too. Two slashes in front come from an address that ends in a slash.
async fn retry_decoded_path(routes: Router, mut request: Request) -> Response {
    let path = request.uri().path();
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let plain = format!("/{}", decoded.trim_start_matches('/'));
    // A decoded question mark or hash sign would end the path.
    let is_path = !plain.contains(['?', '#']);
    match plain.parse::<Uri>() {
        Ok(uri) if is_path && plain != path => {
            *request.uri_mut() = uri;
            match routes.oneshot(request).await {
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
