//! The streams of windowed models, by name.
//!
//! They are kept apart from the models, so that a stream outlives retrains, rollbacks and the
//! unloading of its model. It ends with its model, or with the server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::error::LoadError;
use super::models::ServedModel;
use super::shared::Shared;
use crate::detector::{Stream, Window};
use crate::memory::Reservation;
use crate::store::ModelName;

/// Memory of a stream's entry in the map, in bytes.
const ENTRY_SIZE: usize = 512;

/// A reservation may be larger than the stream by so many bytes. Otherwise each request would
/// change it.
const MAX_EXCESS: usize = 16 * 1024;

/// The streams of all models that have one.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<HashMap<ModelName, Arc<AsyncMutex<Held>>>>);

/// The stream of one model, and its memory. Empty until the first reading.
#[derive(Debug, Default)]
struct Held {
    stream: Option<Stream>,
    memory: Option<Reservation>,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<ModelName, Arc<AsyncMutex<Held>>>> {
        // Each stream is inserted and removed in one step, so a poisoned lock holds valid ones.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &ModelName) -> Arc<AsyncMutex<Held>> {
        let mut streams = self.lock();
        match streams.get(name) {
            Some(held) => Arc::clone(held),
            None => Arc::clone(streams.entry(name.clone()).or_default()),
        }
    }

    /// Ends the stream of a model that was deleted.
    pub(super) fn remove(&self, name: &ModelName) {
        let previous = self.lock().remove(name);
        drop(previous);
    }
}

/// A stream that one request uses. Others wait until it is dropped.
#[derive(Debug)]
pub struct StreamGuard {
    held: OwnedMutexGuard<Held>,
    shared: Arc<Shared>,
}

impl StreamGuard {
    /// The stream, to go on with a model. It starts anew if the model has windows of another length
    /// or other features than the readings in it.
    pub fn of(&mut self, window: &Window, feature_names: &[String]) -> &mut Stream {
        let stream = self.held.stream.take();
        let stream = stream.filter(|stream| stream.matches(window, feature_names));
        let new = || Stream::new(window, feature_names);
        self.held.stream.insert(stream.unwrap_or_else(new))
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let Held { stream, memory } = &mut *self.held;
        let size = ENTRY_SIZE + stream.as_ref().map_or(0, Stream::memory_size);
        match memory {
            Some(memory) if memory.bytes() > size + MAX_EXCESS => memory.shrink(size),
            Some(memory) if memory.bytes() >= size => {}
            memory => {
                *memory = None;
                // A reading is never refused for want of memory; a model that is not used may go.
                *memory = Some(self.shared.budget.reserve(size));
                self.shared.unload_excess();
            }
        }
    }
}

impl Shared {
    /// A model as of now, and its stream, once all earlier requests to the stream have ended; `None`
    /// if there is no such model.
    pub(super) async fn stream(
        self: &Arc<Self>,
        name: &ModelName,
    ) -> Result<Option<(Arc<ServedModel>, StreamGuard)>, LoadError> {
        let held = self.streams.get(name).lock_owned().await;
        match self.get(name).await? {
            Some(model) => {
                let shared = Arc::clone(self);
                Ok(Some((model, StreamGuard { held, shared })))
            }
            None => {
                self.streams.remove(name);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tokio::time::timeout;

    use super::*;
    use crate::detector::Judgement;
    use crate::forest::IsolationForest;
    use crate::registry::{Actor, ChangeError, Registry, TrainingEstimate, TrainingRequest};
    use crate::training_data;

    fn registry() -> Arc<Registry> {
        let params = IsolationForest::params().n_estimators(2);
        let registry = Registry::train(params, training_data::synthetic(42));
        Arc::new(registry.expect("it trains"))
    }

    async fn retrain(registry: &Registry, name: &ModelName) {
        let request = TrainingRequest {
            samples: training_data::synthetic(42),
            runs: Vec::new(),
            feature_names: Vec::new(),
            settings: Default::default(),
        };
        let estimate = |_: Option<&ServedModel>| Ok(TrainingEstimate::default());
        let retrain = registry.retrain(name, 0, Actor::default(), estimate, |_| Ok(request));
        let _: Result<_, ChangeError> = retrain.await;
    }

    fn window(size: u32) -> Window {
        let window = json!({
            "size": size,
            "readings": 100,
            "scaler": {"mean": [0.0], "scale": [1.0]},
            "training_ranges": [{"low": 0.0, "high": 1.0}],
            "kept": [0],
        });
        serde_json::from_value(window).expect("a sound window")
    }

    async fn guard(registry: &Registry, name: &ModelName) -> StreamGuard {
        let found = registry.stream(name).await.expect("the store works");
        found.expect("there is such a model").1
    }

    /// Appends readings; returns the sum of the window of each.
    fn append(guard: &mut StreamGuard, size: u32, readings: &[f64]) -> Vec<Option<f64>> {
        let judge = |window: &[f64]| Judgement {
            anomaly_score: window.iter().sum(),
            is_anomaly: false,
            contributions: None,
        };
        let answers = guard
            .of(&window(size), &[])
            .append(readings, &[], false, judge);
        let judgements = answers.into_iter().map(|answer| answer.judgement);
        judgements.map(|j| Some(j?.anomaly_score)).collect()
    }

    #[tokio::test]
    async fn a_stream_outlives_its_requests_and_ends_with_its_model() {
        let registry = registry();
        let name: ModelName = "pump".parse().expect("a valid name");
        let found = registry.stream(&name).await.expect("the store works");
        assert!(found.is_none());
        assert!(registry.shared.streams.lock().is_empty());

        retrain(&registry, &name).await;
        let mut stream = guard(&registry, &name).await;
        assert_eq!(append(&mut stream, 2, &[1.0, 2.0]), [None, Some(3.0)]);
        // The next request goes on with it.
        drop(stream);
        let mut stream = guard(&registry, &name).await;
        assert_eq!(append(&mut stream, 2, &[3.0]), [Some(5.0)]);
        // Another window starts anew.
        assert_eq!(append(&mut stream, 3, &[4.0, 5.0]), [None, None]);
        drop(stream);

        let actor = Actor::default();
        registry.delete(&name, actor).await.expect("it is deleted");
        assert!(registry.shared.streams.lock().is_empty());
        retrain(&registry, &name).await;
        let mut stream = guard(&registry, &name).await;
        assert_eq!(append(&mut stream, 3, &[6.0]), [None]);
    }

    #[tokio::test]
    async fn a_retrain_without_a_window_ends_the_stream() {
        let registry = registry();
        let name = ModelName::default_model();
        append(&mut guard(&registry, &name).await, 2, &[1.0]);
        retrain(&registry, &name).await;
        assert!(registry.shared.streams.lock().is_empty());
    }

    #[tokio::test]
    async fn the_memory_of_a_stream_is_reserved() {
        let registry = registry();
        let name = ModelName::default_model();
        let before = registry.shared.budget.reserved();
        append(&mut guard(&registry, &name).await, 1000, &[1.0; 2000]);
        let reserved = registry.shared.budget.reserved() - before;
        assert!((16_000..40_000).contains(&reserved), "{reserved}");
        append(&mut guard(&registry, &name).await, 2, &[1.0]);
        let reserved = registry.shared.budget.reserved() - before;
        assert!(reserved < 2000, "{reserved}");
        registry.shared.streams.remove(&name);
        assert_eq!(registry.shared.budget.reserved(), before);
    }

    #[tokio::test]
    async fn requests_wait_for_each_other_in_their_order() {
        let registry = registry();
        let name = ModelName::default_model();
        let first = guard(&registry, &name).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for i in 0..20 {
            let (registry, name, order) = (Arc::clone(&registry), name.clone(), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let _guard = guard(&registry, &name).await;
                order.lock().expect("not poisoned").push(i);
            }));
            tokio::task::yield_now().await;
        }
        let blocked = timeout(Duration::from_millis(20), guard(&registry, &name)).await;
        assert!(blocked.is_err());
        drop(first);
        for task in waiting {
            task.await.expect("no panic");
        }
        let order = order.lock().expect("not poisoned");
        assert!(order.is_sorted() && order.len() == 20, "{order:?}");
    }
}
