//! Loads all models in the background after a start, as long as there is memory for them, so that
//! few requests wait for the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::{StreamExt, stream};

use super::decoder::Decoder;
use super::limits::{PROGRESS_INTERVAL, WARM_UP_CONCURRENCY};
use super::load::fetch;
use super::models::Place;
use super::shared::Shared;
use crate::store::ModelName;

/// How a model fared.
enum Outcome {
    Loaded,
    /// Only its metadata were read, because the memory is full.
    Described,
    /// No version of it can be served, or it was deleted meanwhile.
    NotServed,
    /// The store failed.
    Failed,
}

impl Shared {
    /// Loads all models that are not in memory. `loaded` of `count` stored models are; the start
    /// began at `start`.
    pub(super) async fn warm_up(self: Arc<Self>, count: usize, mut loaded: usize, start: Instant) {
        let names = self.models.unloaded();
        if names.is_empty() && loaded == 0 {
            return;
        }
        let decoder = match Decoder::start("warm-up", true) {
            Ok(decoder) => decoder,
            Err(error) => {
                tracing::warn!("models are loaded only when asked for: {error}");
                return;
            }
        };
        let is_full = AtomicBool::new(false);
        let mut done = loaded;
        let mut described = 0;
        let mut last_logged = start;
        let mut loads = stream::iter(names)
            .map(|name| self.warm(name, &decoder, &is_full))
            .buffer_unordered(WARM_UP_CONCURRENCY);
        while let Some(outcome) = loads.next().await {
            done += 1;
            match outcome {
                Outcome::Loaded => loaded += 1,
                Outcome::Described => described += 1,
                // A network error is likely to concern all models.
                Outcome::Failed if !self.store.is_folder() => {
                    tracing::warn!(
                        "loaded {loaded} of {count} stored models; the others are loaded when \
                         asked for, because the store failed"
                    );
                    return;
                }
                Outcome::NotServed | Outcome::Failed => {}
            }
            if last_logged.elapsed() > PROGRESS_INTERVAL {
                last_logged = Instant::now();
                tracing::info!("loading models: {done} of {count}");
            }
        }
        let elapsed = start.elapsed();
        tracing::info!("loaded {loaded} of {count} stored models in {elapsed:.1?}");
        if described > 0 {
            tracing::info!(
                "{described} models are loaded when asked for, because --memory-limit leaves no \
                 room for them"
            );
        }
    }

    async fn warm(
        self: &Arc<Self>,
        name: ModelName,
        decoder: &Decoder,
        is_full: &AtomicBool,
    ) -> Outcome {
        let version = match self.models.find(&name) {
            None => return Outcome::NotServed,
            Some(Place::Memory(_)) => return Outcome::Loaded,
            Some(Place::Store(version)) => version,
        };
        if !is_full.load(Ordering::Relaxed) {
            let expected = version.clone();
            // Unloads no model for another.
            let reserve = |bytes| self.budget.try_reserve(bytes);
            match fetch(&self.store, &self.budget, &name, version, reserve).await {
                Ok(Some(fetched)) => {
                    if let Ok(decoded) = decoder.run(fetched).await {
                        let verdicts = self.metrics.verdicts(&name);
                        let model = decoded.into_model(verdicts, &self.config, &self.budget);
                        // Fails if it was changed meanwhile; then it is served or noted anew.
                        self.models.install(&name, &expected, model);
                        return Outcome::Loaded;
                    }
                }
                Ok(None) => is_full.store(true, Ordering::Relaxed),
                Err(_) => {}
            }
        }
        let result = if is_full.load(Ordering::Relaxed) {
            self.read_summary(&name).await.map(|()| Outcome::Described)
        } else {
            // Finds the version to serve instead, and logs why.
            let model = self.get(&name).await;
            model.map(|model| match model {
                Some(_) => Outcome::Loaded,
                None => Outcome::NotServed,
            })
        };
        result.unwrap_or(Outcome::Failed)
    }
}
