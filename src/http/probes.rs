//! Probes and metrics for operators: `GET /health`, `/ready`, `/version` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::body::{JSON, Json};
use super::error::ApiError;
use super::state::AppState;
use super::wire::Version;
use crate::metrics::{Exposition, write_process_metrics};

const TEXT: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
);

/// Answers as soon as the server listens.
pub(super) async fn health() -> Response {
    ([JSON], "{\"status\":\"ok\"}\n").into_response()
}

/// Answers 200 until the server stops. The router exists only once `default` is in memory; until
/// then [`StartingApi`](super::StartingApi) answers.
pub(super) async fn ready(State(app): State<Arc<AppState>>) -> Result<Response, ApiError> {
    if app.stopping.load(Ordering::Relaxed) {
        return Err(ApiError::not_ready("the server is stopping"));
    }
    Ok(([JSON], "{\"status\":\"ready\"}\n").into_response())
}

pub(super) async fn version() -> Json<Version> {
    Json(Version {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
    })
}

pub(super) async fn metrics(State(app): State<Arc<AppState>>) -> Response {
    let mut text = Exposition::default();
    text.gauge("iforest_build_info", "The version of the server; always 1.")
        .sample(&[("version", &env!("CARGO_PKG_VERSION"))], 1);
    app.requests.write(&mut text);
    app.registry.write_metrics(&mut text);
    let limit = app.registry.config().memory_limit;
    let pools = [
        ("models", app.registry.memory_used(), limit.models()),
        ("bodies", app.bodies.used(), limit.bodies()),
    ];
    let mut family = text.gauge(
        "iforest_memory_used_bytes",
        "Memory that is in use or reserved: of models and trainings, and of bodies.",
    );
    for (pool, used, _) in pools {
        family.sample(&[("pool", &pool)], used);
    }
    let mut family = text.gauge("iforest_memory_limit_bytes", "The most of that memory.");
    for (pool, _, limit) in pools {
        family.sample(&[("pool", &pool)], limit);
    }
    app.connections.write(&mut text);
    write_process_metrics(&mut text);
    ([TEXT], text.finish()).into_response()
}
