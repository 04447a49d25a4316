//! Requests through the router, in this process and without a socket.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, header};
use http_body_util::BodyExt;
use iforest_server::http::{Api, ApiConfig};
use iforest_server::registry::Registry;
use iforest_server::training_data;
use tower::ServiceExt;

use super::data::params;
use super::http::{JSON, Response};

/// A server without a socket.
#[derive(Clone)]
pub(crate) struct App(Api);

impl App {
    /// A server as after its first start with `--random-state 42`.
    pub(crate) fn new() -> Self {
        let registry = Registry::train(params(), training_data::synthetic(42));
        Self::of(registry.expect("it trains"))
    }

    pub(crate) fn of(registry: impl Into<Arc<Registry>>) -> Self {
        Self(Api::new(registry.into(), ApiConfig::default()))
    }

    /// A new server with so many bytes for bodies that arrive or wait.
    pub(crate) fn with_body_budget(bytes: usize) -> Self {
        Self::with(ApiConfig {
            body_budget: bytes,
            ..ApiConfig::default()
        })
    }

    /// As [`new`](Self::new), with other settings of the HTTP API.
    pub(crate) fn with(config: ApiConfig) -> Self {
        let registry = Registry::train(params(), training_data::synthetic(42));
        let registry = Arc::new(registry.expect("it trains"));
        Self(Api::new(registry, config))
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Response {
        let response = self.0.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        Response {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(bytes.to_vec()).expect("the body is text"),
        }
    }

    /// A request without a body.
    pub(crate) async fn request(&self, method: Method, path: &str) -> Response {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).expect("a valid request");
        self.send(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Response {
        self.request(Method::DELETE, path).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> Response {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, JSON)
            .body(body.into())
            .expect("a valid request");
        self.send(request).await
    }

    /// `POST /predict`
    pub(crate) async fn predict(&self, body: &str) -> Response {
        self.post("/predict", body.to_owned()).await
    }
}
