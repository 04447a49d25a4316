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
use super::error::ApiError;
use super::origin::Origin;
use super::requests::REQUEST_ID;
use super::state::AppState;
use super::{docs, models, paths, predict, probes, retrain};

const ALLOW: (HeaderName, HeaderValue) = (header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));

/// How long browsers may remember what a preflight request allowed.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);

/// Paths, and what answers their methods.
type Routes = Vec<(&'static str, MethodRouter<Arc<AppState>>)>;

/// The router with all routes.
pub(super) fn routes(app: Arc<AppState>, allowed_origins: Vec<Origin>) -> Router {
    let guard = Arc::new(ChangeGuard::new(allowed_origins));
    let flask_routes = router(flask_routes(&guard), Arc::clone(&app));
    router(other_routes(&guard), app)
        .merge(flask_routes.clone())
        .fallback(move |request| retry_flask_path(flask_routes, request))
}

fn router(routes: Routes, app: Arc<AppState>) -> Router {
    let routes = routes.into_iter();
    routes
        .fold(Router::new(), |router, (path, methods)| {
            router.route(path, methods)
        })
        .with_state(app)
}

/// The routes of server.py, whose paths have other spellings too.
fn flask_routes(guard: &Arc<ChangeGuard>) -> Routes {
    vec![
        (paths::PREDICT, only_post(post(predict::predict_default))),
        (
            paths::RETRAIN,
            only_post(guarded(post(retrain::retrain_default), guard)),
        ),
    ]
}

/// All other routes.
fn other_routes(guard: &Arc<ChangeGuard>) -> Routes {
    vec![
        (paths::MODELS, only_get(get(models::list))),
        (
            paths::MODEL,
            get(models::info)
                .merge(guarded(delete(models::delete), guard))
                .fallback(method_not_allowed("GET or DELETE")),
        ),
        (
            paths::MODEL_PREDICT,
            only_post(post(predict::predict_named)),
        ),
        (
            paths::MODEL_RETRAIN,
            only_post(guarded(post(retrain::retrain_named), guard)),
        ),
        (
            paths::MODEL_ROLLBACK,
            only_post(guarded(post(models::rollback), guard)),
        ),
        (paths::MODEL_VERSIONS, only_get(get(models::versions))),
        (paths::HEALTH, only_get(get(probes::health))),
        (paths::READY, only_get(get(probes::ready))),
        (paths::VERSION, only_get(get(probes::version))),
        (paths::METRICS, only_get(get(probes::metrics))),
        (paths::OPENAPI, only_get(get(docs::document))),
        (paths::DOCS, only_get(get(docs::page))),
    ]
}

/// A route that changes models.
fn guarded(
    methods: MethodRouter<Arc<AppState>>,
    guard: &Arc<ChangeGuard>,
) -> MethodRouter<Arc<AppState>> {
    let guard = Arc::clone(guard);
    methods.layer(middleware::from_fn_with_state(guard, access::guard_change))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_metrics_and_the_openapi_document_have_the_paths_of_the_router() {
        let guard = Arc::new(ChangeGuard::new(Vec::new()));
        let routes = [flask_routes(&guard), other_routes(&guard)].concat();
        let routes: BTreeSet<&str> = routes.iter().map(|(path, _)| *path).collect();
        let document: serde_json::Value =
            serde_json::from_str(docs::DOCUMENT).expect("the document is JSON");
        let counted = paths::PATTERNS.into_iter().filter(|path| *path != "other");
        assert_eq!(counted.collect::<BTreeSet<_>>(), routes);
        let documented = document["paths"].as_object().expect("an object").keys();
        assert_eq!(
            documented.map(String::as_str).collect::<BTreeSet<_>>(),
            routes
        );
    }
}
