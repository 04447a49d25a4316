//! The work of the trainings that wait or run, by their estimated cost.
//!
//! The training worker takes one training at a time, and each model has at most one there: its
//! others wait in its [queue](super::model_queue). So names take turns, and a training waits for one
//! training of each other name at most. The bounds here limit how long all of that takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::limits::{MAX_BACKLOG, MAX_BACKLOG_PER_MODEL};
use crate::store::ModelName;

/// The estimated work of the trainings that wait or run, in nanoseconds of one processor core.
#[derive(Debug, Default)]
pub(super) struct Backlog(Mutex<Work>);

#[derive(Debug, Default)]
struct Work {
    total: u64,
    /// How many trainings have not begun.
    waiting: usize,
    by_model: HashMap<ModelName, u64>,
}

/// The share of one training; it is given back when dropped.
#[derive(Debug)]
pub(super) struct BacklogShare {
    backlog: Arc<Backlog>,
    name: ModelName,
    nanos: u64,
    waits: bool,
}

impl Backlog {
    /// Adds a training. A model without waiting work is always admitted to an empty backlog,
    /// whatever its training costs.
    ///
    /// # Errors
    ///
    /// When to try again, if too much work waits already.
    pub(super) fn admit(
        self: &Arc<Self>,
        name: &ModelName,
        nanos: u64,
    ) -> Result<BacklogShare, Duration> {
        let mut work = self.lock();
        let own = work.by_model.get(name).copied().unwrap_or(0);
        let is_full = |waiting: u64, max: Duration| {
            waiting > 0 && u128::from(waiting.saturating_add(nanos)) > max.as_nanos()
        };
        if is_full(work.total, MAX_BACKLOG) || is_full(own, MAX_BACKLOG_PER_MODEL) {
            return Err(Duration::from_nanos(work.total));
        }
        work.add(name, nanos);
        work.waiting += 1;
        Ok(BacklogShare {
            backlog: Arc::clone(self),
            name: name.clone(),
            nanos,
            waits: true,
        })
    }

    /// The time that all trainings that wait or run take on one core.
    pub(super) fn work(&self) -> Duration {
        Duration::from_nanos(self.lock().total)
    }

    /// How many trainings were admitted and have not begun.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        // Nothing panics between the two changes of `add`, so a poisoned lock holds valid sums.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    fn add(&mut self, name: &ModelName, nanos: u64) {
        self.total = self.total.saturating_add(nanos);
        let own = self.by_model.entry(name.clone()).or_default();
        *own = own.saturating_add(nanos);
    }

    fn remove(&mut self, name: &ModelName, nanos: u64) {
        self.total = self.total.saturating_sub(nanos);
        if let Some(own) = self.by_model.get_mut(name) {
            *own = own.saturating_sub(nanos);
            if *own == 0 {
                self.by_model.remove(name);
            }
        }
    }
}

impl BacklogShare {
    /// The training begins.
    pub(super) fn begin(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.backlog.lock().waiting -= 1;
        }
    }

    /// Corrects the estimate, once the training's settings are known: those of a model may change
    /// while a training that keeps them waits.
    pub(super) fn correct(&mut self, nanos: u64) {
        let mut work = self.backlog.lock();
        work.remove(&self.name, self.nanos);
        work.add(&self.name, nanos);
        self.nanos = nanos;
    }
}

impl Drop for BacklogShare {
    fn drop(&mut self) {
        self.begin();
        self.backlog.lock().remove(&self.name, self.nanos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn name(name: &str) -> ModelName {
        name.parse().expect("a valid name")
    }

    #[test]
    fn one_model_takes_half_of_the_backlog_at_most() {
        let backlog = Arc::new(Backlog::default());
        let (greedy, other) = (name("greedy"), name("other"));
        let mut held = Vec::new();
        while let Ok(share) = backlog.admit(&greedy, 10 * SECOND) {
            held.push(share);
        }
        assert_eq!(backlog.work(), MAX_BACKLOG_PER_MODEL);
        while let Ok(share) = backlog.admit(&other, 10 * SECOND) {
            held.push(share);
        }
        assert_eq!(backlog.work(), MAX_BACKLOG);
        let refused = backlog.admit(&name("third"), SECOND);
        assert_eq!(refused.expect_err("no room"), MAX_BACKLOG);
        held.pop();
        assert!(backlog.admit(&name("third"), SECOND).is_ok());
        held.clear();
        assert_eq!(backlog.work(), Duration::ZERO);
        assert!(backlog.lock().by_model.is_empty());
    }

    // The operator's settings may make a training that no bound admits.
    #[test]
    fn an_empty_backlog_admits_any_training_and_corrections_count() {
        let backlog = Arc::new(Backlog::default());
        let mut share = backlog.admit(&name("a"), u64::MAX).expect("it is empty");
        assert!(backlog.admit(&name("b"), 1).is_err());
        share.correct(5);
        assert_eq!(backlog.work(), Duration::from_nanos(5));
        assert!(backlog.admit(&name("b"), 1).is_ok());
        drop(share);
        assert_eq!(backlog.work(), Duration::ZERO);
    }
}
