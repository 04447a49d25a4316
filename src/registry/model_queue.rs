//! A first-in, first-out lock for each model: changes of one model run one after the other, in the
//! order of their requests. Changes of different models wait for each other only while they train.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::store::ModelName;

/// The queues of all models that are being changed.
#[derive(Debug, Default)]
pub(super) struct ModelQueues {
    queues: Mutex<HashMap<ModelName, Queue>>,
    /// Notified when the last queue is removed.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    turn: Arc<AsyncMutex<()>>,
    /// How many tickets exist, the one whose turn it is included.
    tickets: usize,
}

/// A place in the queue of a model; it is given up when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    queues: Arc<ModelQueues>,
    name: ModelName,
    turn: Arc<AsyncMutex<()>>,
}

impl ModelQueues {
    /// Joins the queue of a model; `None` if more than `max_waiting` tickets exist.
    pub(super) fn enter(self: &Arc<Self>, name: &ModelName, max_waiting: usize) -> Option<Ticket> {
        let mut queues = self.lock();
        let queue = queues.entry(name.clone()).or_default();
        if queue.tickets > max_waiting {
            return None;
        }
        queue.tickets += 1;
        Some(Ticket {
            queues: Arc::clone(self),
            name: name.clone(),
            turn: Arc::clone(&queue.turn),
        })
    }

    /// Blocks until no model is being changed; `false` if that takes longer than `timeout`.
    pub(super) fn wait_until_empty(&self, timeout: Duration) -> bool {
        let (_queues, result) = self
            .emptied
            .wait_timeout_while(self.lock(), timeout, |queues| !queues.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        !result.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ModelName, Queue>> {
        // Each count changes in one step, so a poisoned lock holds valid ones.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Waits for the turn, which lasts until the guard is dropped. Turns follow the order in which
    /// the futures are first polled.
    pub(super) async fn acquire(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Takes the turn if it is free.
    pub(super) fn try_acquire(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.turn).try_lock_owned().ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get_mut(&self.name) {
            queue.tickets -= 1;
            if queue.tickets == 0 {
                queues.remove(&self.name);
            }
        }
        if queues.is_empty() {
            self.queues.emptied.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn enter(queues: &Arc<ModelQueues>, name: &str) -> Ticket {
        let name = name.parse().expect("a valid name");
        queues.enter(&name, 16).expect("there is room")
    }

    #[test]
    fn waiting_ends_when_the_last_ticket_is_dropped() {
        let queues = Arc::new(ModelQueues::default());
        let tickets = ["a", "a", "b"].map(|name| enter(&queues, name));
        let start = Instant::now();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queues.wait_until_empty(LONG));
            for ticket in tickets {
                std::thread::sleep(Duration::from_millis(20));
                assert!(!waiting.is_finished(), "a ticket is left");
                drop(ticket);
            }
            assert!(waiting.join().expect("no panic"));
        });
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    }

    #[test]
    fn waiting_ends_at_once_without_tickets_and_after_the_timeout_with_one() {
        let queues = Arc::new(ModelQueues::default());
        assert!(queues.wait_until_empty(Duration::ZERO));
        let _ticket = enter(&queues, "a");
        assert!(!queues.wait_until_empty(Duration::ZERO));
        let (start, timeout) = (Instant::now(), Duration::from_millis(30));
        assert!(!queues.wait_until_empty(timeout));
        assert!(start.elapsed() >= timeout);
    }
}
