//! The HTTP API as one service: the check of keys, then the router.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use axum::{Extension, Router};
use tower::Service;

use super::access::{KeyCheck, Refusal};
use super::keys::{ApiKeys, KeyList};
use super::limits::BODY_BUDGET;
use super::origin::Origin;
use super::routes::{cors_and_trace, routes};
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
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            body_budget: BODY_BUDGET,
            allowed_origins: Vec::new(),
            api_keys: None,
        }
    }
}

/// The HTTP API over a registry's models, as a service for [`server::run`](crate::server::run).
#[derive(Debug, Clone)]
pub struct Api {
    router: Router,
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
        let ApiConfig {
            body_budget,
            allowed_origins,
            api_keys,
        } = config;
        let keys = api_keys.map(|keys| {
            let refuse = |Extension(refusal): Extension<Refusal>| async move { refusal };
            let refusals = Router::new().fallback(refuse);
            let check = KeyCheck::new(keys);
            let list = check.list();
            let refusals = cors_and_trace(refusals, &allowed_origins);
            (Arc::new(KeyedAccess { check, refusals }), list)
        });
        let router = routes(registry, body_budget, allowed_origins.clone());
        Self {
            router: cors_and_trace(router, &allowed_origins),
            keys,
        }
    }
}

impl Service<Request> for Api {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    // A router is always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some((keys, list)) = &mut self.keys
            && let Err(refusal) = keys.check.check(list, &mut request)
        {
            request.extensions_mut().insert(refusal);
            return keys.refusals.clone().call(request);
        }
        self.router.call(request)
    }
}
