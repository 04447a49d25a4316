//! Problems of a store that the log names once.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Most problems that are named. A folder may hold any number of stray files, and each problem that
/// was named takes some hundred bytes.
const MAX_REPORTS: usize = 1000;

/// The problems that were named.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<HashSet<String>>);

impl Reports {
    /// Whether a problem has not been named yet; from then on it has.
    pub(super) fn is_new(&self, problem: &str) -> bool {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() == MAX_REPORTS || !reports.insert(problem.to_owned()) {
            return false;
        }
        if reports.len() == MAX_REPORTS {
            tracing::warn!("the store has {MAX_REPORTS} problems; no further ones are named");
        }
        true
    }
}
