//! Whose turn it is: changes of one model are made one after the other, in the order in which they
//! were asked. Changes of different models wait for each other at the fitting alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::store::ModelName;

/// A queue for each model that is being changed.
#[derive(Debug, Default)]
pub(super) struct ModelQueues(Mutex<HashMap<ModelName, Queue>>);

#[derive(Debug, Default)]
struct Queue {
    turn: Arc<Turn<()>>,
    /// Those that wait, and the one whose turn it is.
    places: usize,
}

/// A place in the queue of a model; given up when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    queues: Arc<ModelQueues>,
    name: ModelName,
    turn: Arc<Turn<()>>,
}

impl ModelQueues {
    /// A place in the queue, unless more than `most` wait there.
    pub(super) fn enter(self: &Arc<Self>, name: &ModelName, most: usize) -> Option<Ticket> {
        let mut queues = self.queues();
        let queue = queues.entry(name.clone()).or_default();
        if queue.places > most {
            return None;
        }
        queue.places += 1;
        Some(Ticket {
            queues: Arc::clone(self),
            name: name.clone(),
            turn: Arc::clone(&queue.turn),
        })
    }

    /// Whether nothing is being changed.
    pub(super) fn is_empty(&self) -> bool {
        self.queues().is_empty()
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<ModelName, Queue>> {
        // Counts are changed in one step, so a poisoned lock holds good ones.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Waits for the turn, which lasts until what is returned is dropped. ModelQueues come in the order
    /// in which this is first polled.
    pub(super) async fn acquire(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// The turn, if nobody else has it.
    pub(super) fn try_acquire(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.turn).try_lock_owned().ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queues = self.queues.queues();
        if let Some(queue) = queues.get_mut(&self.name) {
            queue.places -= 1;
            if queue.places == 0 {
                queues.remove(&self.name);
            }
        }
    }
}
