//! What the handlers share.

use std::sync::Arc;

use super::budget::BodyBudget;
use crate::registry::Registry;

/// The state of the router.
pub(super) struct AppState {
    pub(super) registry: Arc<Registry>,
    /// Memory for bodies that arrive or wait.
    pub(super) bodies: BodyBudget,
}

impl AppState {
    /// `body_budget` is in bytes.
    pub(super) fn new(registry: Arc<Registry>, body_budget: usize) -> Self {
        Self {
            registry,
            bodies: BodyBudget::new(body_budget),
        }
    }
}
