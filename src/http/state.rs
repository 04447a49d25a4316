//! What the handlers share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::api::ApiConfig;
use super::budget::BodyBudget;
use super::requests::RequestMetrics;
use crate::metrics::ConnectionMetrics;
use crate::registry::Registry;

/// The state of the router.
pub(super) struct AppState {
    pub(super) registry: Arc<Registry>,
    /// Memory for bodies that arrive or wait.
    pub(super) bodies: BodyBudget,
    pub(super) requests: Arc<RequestMetrics>,
    pub(super) connections: Arc<ConnectionMetrics>,
    /// Whether the server stops.
    pub(super) stopping: Arc<AtomicBool>,
}

impl AppState {
    pub(super) fn new(
        registry: Arc<Registry>,
        config: &ApiConfig,
        requests: Arc<RequestMetrics>,
    ) -> Self {
        Self {
            registry,
            bodies: BodyBudget::new(config.body_budget),
            requests,
            connections: Arc::clone(&config.connections),
            stopping: Arc::clone(&config.stopping),
        }
    }
}
