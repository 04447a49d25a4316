//! Requests through the router, without a socket.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use iforest_server::forest::IsolationForest;
use iforest_server::registry::Registry;
use iforest_server::{http, training_data};
use tower::ServiceExt;

pub const JSON: &str = "application/json";

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    /// The text of a refusal, after a look at its shape.
    pub fn error(&self) -> String {
        assert_eq!(self.headers[header::CONTENT_TYPE], JSON);
        assert!(self.body.ends_with("}\n"), "{}", self.body);
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("errors are JSON");
        assert!(self.body.starts_with("{\"error\":\""), "{}", self.body);
        assert!(body["code"].is_string(), "{}", self.body);
        let known = ["error", "code", "field", "index", "feature"];
        let mut keys = body.as_object().expect("an object").keys();
        assert!(
            keys.all(|key| known.contains(&key.as_str())),
            "{}",
            self.body
        );
        body["error"].as_str().expect("error is text").to_owned()
    }
}

/// A fresh server as it starts, but seeded.
pub fn server() -> Router {
    let params = IsolationForest::params()
        .contamination(0.05)
        .random_state(42);
    let registry = Registry::train(params, training_data::synthetic(42)).expect("it trains");
    http::router(Arc::new(registry))
}

pub async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(bytes.to_vec()).expect("answers are text"),
    }
}

pub async fn post(router: &Router, path: &str, body: impl Into<Body>) -> Answer {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, JSON)
        .body(body.into())
        .expect("a good request");
    send(router, request).await
}
