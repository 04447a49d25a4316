//! What the handlers share.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::limits::LARGE_BODIES_KIB;
use crate::registry::Registry;

/// The state of the router.
pub(super) struct AppState {
    pub(super) registry: Arc<Registry>,
    /// Memory for large bodies that are being received, in KiB.
    pub(super) large_bodies: Semaphore,
}

impl AppState {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            large_bodies: Semaphore::new(LARGE_BODIES_KIB),
        }
    }
}
