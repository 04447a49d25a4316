//! The routes of the HTTP API, and the layers around them.

use std::future::Ready;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use tower::ServiceExt;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::trace::TraceLayer;

use super::access::{self, ChangeGuard};
use super::error::ApiError;
use super::origin::Origin;
use super::state::AppState;
use super::{models, paths, predict, retrain};
use crate::registry::Registry;

const ALLOW: (HeaderName, HeaderValue) = (header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));

/// How long browsers may remember what a preflight request allowed.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);

/// The router with all routes, over a registry's models.
pub(super) fn routes(
    registry: Arc<Registry>,
    body_budget: usize,
    allowed_origins: Vec<Origin>,
) -> Router {
    let guard = Arc::new(ChangeGuard::new(allowed_origins));
    let guard = middleware::from_fn_with_state(guard, access::guard_change);
    let app = Arc::new(AppState::new(registry, body_budget));
    let flask_routes = Router::new()
        .route(paths::PREDICT, only_post(post(predict::predict_default)))
        .route(
            paths::RETRAIN,
            only_post(post(retrain::retrain_default).layer(guard.clone())),
        )
        .with_state(Arc::clone(&app));
    let routes = Router::new()
        .route(
            "/models",
            get(models::list).fallback(method_not_allowed("GET")),
        )
        .route(
            "/models/{name}",
            get(models::info)
                .merge(delete(models::delete).layer(guard.clone()))
                .fallback(method_not_allowed("GET or DELETE")),
        )
        .route(
            "/models/{name}/predict",
            only_post(post(predict::predict_named)),
        )
        .route(
            "/models/{name}/retrain",
            only_post(post(retrain::retrain_named).layer(guard.clone())),
        )
        .route(
            "/models/{name}/rollback",
            only_post(post(models::rollback).layer(guard)),
        )
        .route(
            "/models/{name}/versions",
            get(models::versions).fallback(method_not_allowed("GET")),
        )
        .with_state(app);
    routes
        .merge(flask_routes.clone())
        .fallback(move |request| retry_flask_path(flask_routes, request))
}

/// Adds the layers that answer browsers and log at the level debug. A layer costs every request time,
/// so those that have nothing to do are not added.
pub(super) fn cors_and_trace(mut router: Router, allowed_origins: &[Origin]) -> Router {
    if !allowed_origins.is_empty() {
        router = router.layer(cors(allowed_origins));
    }
    if tracing::enabled!(tracing::Level::DEBUG) {
        router = router.layer(TraceLayer::new_for_http());
    }
    router
}

/// Tells browsers that pages of these origins may send all requests and read the responses.
fn cors(allowed: &[Origin]) -> CorsLayer {
    let allowed = allowed.iter().map(|origin| origin.header().clone());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(allowed))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([header::RETRY_AFTER])
        .max_age(PREFLIGHT_MAX_AGE)
}

/// A route as Flask makes it from `methods=["POST"]`.
fn only_post<S: Clone + Send + Sync + 'static>(post: MethodRouter<S>) -> MethodRouter<S> {
    post.options(|| async { [ALLOW] })
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

/// Routes a path that no route matched once more, if Flask reads it as one of server.py's. Two
/// slashes in front come from an address that ends in a slash.
async fn retry_flask_path(routes: Router, mut request: Request) -> Response {
    let path = request.uri().path();
    if paths::is_ambiguous(path) {
        return ApiError::bad_path().into_response();
    }
    match paths::flask_path(path) {
        Some(plain) if plain != path => {
            *request.uri_mut() = Uri::from_static(plain);
            match routes.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        _ => ApiError::not_found(path).into_response(),
    }
}
