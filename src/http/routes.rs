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

use super::access::{self, ChangeGuard};
use super::api::ApiConfig;
use super::error::ApiError;
use super::origin::Origin;
use super::requests::{REQUEST_ID, RequestMetrics};
use super::state::AppState;
use super::{models, paths, predict, probes, retrain};
use crate::registry::Registry;

const ALLOW: (HeaderName, HeaderValue) = (header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));

/// How long browsers may remember what a preflight request allowed.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);

/// The router with all routes, over a registry's models.
pub(super) fn routes(
    registry: Arc<Registry>,
    config: &ApiConfig,
    requests: Arc<RequestMetrics>,
) -> Router {
    let guard = Arc::new(ChangeGuard::new(config.allowed_origins.clone()));
    let guard = middleware::from_fn_with_state(guard, access::guard_change);
    let app = Arc::new(AppState::new(registry, config, requests));
    let flask_routes = Router::new()
        .route(paths::PREDICT, only_post(post(predict::predict_default)))
        .route(
            paths::RETRAIN,
            only_post(post(retrain::retrain_default).layer(guard.clone())),
        )
        .with_state(Arc::clone(&app));
    let routes = Router::new()
        .route(paths::MODELS, only_get(get(models::list)))
        .route(
            paths::MODEL,
            get(models::info)
                .merge(delete(models::delete).layer(guard.clone()))
                .fallback(method_not_allowed("GET or DELETE")),
        )
        .route(
            paths::MODEL_PREDICT,
            only_post(post(predict::predict_named)),
        )
        .route(
            paths::MODEL_RETRAIN,
            only_post(post(retrain::retrain_named).layer(guard.clone())),
        )
        .route(
            paths::MODEL_ROLLBACK,
            only_post(post(models::rollback).layer(guard)),
        )
        .route(paths::MODEL_VERSIONS, only_get(get(models::versions)))
        .route(paths::HEALTH, only_get(get(probes::health)))
        .route(paths::READY, only_get(get(probes::ready)))
        .route(paths::VERSION, only_get(get(probes::version)))
        .route(paths::METRICS, only_get(get(probes::metrics)))
        .with_state(app);
    routes
        .merge(flask_routes.clone())
        .fallback(move |request| retry_flask_path(flask_routes, request))
}

/// Adds the layer that answers browsers, if there are origins to answer: a layer costs every request
/// time.
pub(super) fn with_cors(mut router: Router, allowed_origins: &[Origin]) -> Router {
    if !allowed_origins.is_empty() {
        router = router.layer(cors(allowed_origins));
    }
    router
}

/// Tells browsers that pages of these origins may send all requests and read the responses.
fn cors(allowed: &[Origin]) -> CorsLayer {
    let allowed = allowed.iter().map(|origin| origin.header().clone());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(allowed))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, REQUEST_ID])
        .expose_headers([header::RETRY_AFTER, REQUEST_ID])
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

fn only_get<S: Clone + Send + Sync + 'static>(get: MethodRouter<S>) -> MethodRouter<S> {
    get.fallback(method_not_allowed("GET"))
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
