//! The HTTP API as one service: the check of keys, then the router.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::handler::Handler;
use axum::http::Method;
use axum::response::Response;
use axum::{Extension, Router};
use tower::Service;

use super::access::{KeyCheck, Refusal};
use super::keys::{ApiKeys, KeyList};
use super::limits::BODY_BUDGET;
use super::origin::Origin;
use super::paths::PREDICT;
use super::predict::predict_default;
use super::requests::{RequestMetrics, ResponseFuture};
use super::routes::{routes, with_cors};
use super::state::AppState;
use crate::metrics::ConnectionMetrics;
use crate::registry::Registry;

/// The settings of the HTTP API. By default every program may do everything, as with server.py, and
/// web pages of other origins may not change models.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Memory for bodies that arrive or wait, in bytes.
    pub body_budget: usize,
    /// Origins whose web pages may call this server, and read its responses (CORS).
    pub allowed_origins: Vec<Origin>,
    /// The keys that requests must carry.
    pub api_keys: Option<Arc<ApiKeys>>,
    /// The connections of the server, for `/metrics`.
    pub connections: Arc<ConnectionMetrics>,
    /// Set when the server begins to stop, for `/ready`.
    pub stopping: Arc<AtomicBool>,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            body_budget: BODY_BUDGET,
            allowed_origins: Vec::new(),
            api_keys: None,
            connections: Arc::default(),
            stopping: Arc::default(),
        }
    }
}

/// The HTTP API over a registry's models, as a service for [`server::run`](crate::server::run).
#[derive(Clone)]
pub struct Api {
    router: Router,
    /// The state of the handler of `/predict`, if no layer is around the router. Routing takes more
    /// time than most predictions, so that handler is then called without it.
    predict: Option<Arc<AppState>>,
    requests: Arc<RequestMetrics>,
    keys: Option<(Arc<KeyedAccess>, KeyList)>,
}

/// What the API has besides the router where requests need keys. A layer of the router would do the
/// same, but axum clones and boxes the service of a layer for each request.
#[derive(Debug)]
struct KeyedAccess {
    check: KeyCheck,
    /// Answers the requests that the check refuses, with the layers of the other router.
    refusals: Router,
}

impl Api {
    /// The API with all routes.
    pub fn new(registry: Arc<Registry>, config: ApiConfig) -> Self {
        let allowed_origins = &config.allowed_origins;
        let keys = config.api_keys.clone().map(|keys| {
            let refuse = |Extension(refusal): Extension<Refusal>| async move { refusal };
            let refusals = Router::new().fallback(refuse);
            let check = KeyCheck::new(keys);
            let list = check.list();
            let refusals = with_cors(refusals, allowed_origins);
            (Arc::new(KeyedAccess { check, refusals }), list)
        });
        let requests = Arc::<RequestMetrics>::default();
        let app = Arc::new(AppState::new(registry, &config, Arc::clone(&requests)));
        let router = routes(Arc::clone(&app), allowed_origins.clone());
        Self {
            router: with_cors(router, allowed_origins),
            predict: allowed_origins.is_empty().then_some(app),
            requests,
            keys,
        }
    }
}

impl Service<Request> for Api {
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture;

    // A router is always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let in_flight = self.requests.begin(&request);
        if let Some((keys, list)) = &mut self.keys
            && let Err(refusal) = keys.check.check(list, &mut request)
        {
            request.extensions_mut().insert(refusal);
            let response = keys.refusals.clone().call(request);
            return ResponseFuture::routed(in_flight, response);
        }
        match &self.predict {
            Some(app) if request.method() == Method::POST && request.uri().path() == PREDICT => {
                let response = predict_default.call(request, Arc::clone(app));
                ResponseFuture::handled(in_flight, response)
            }
            _ => ResponseFuture::routed(in_flight, self.router.call(request)),
        }
    }
}
