//! Keeps the models in step with other servers on the same store: polls for their changes, and
//! announces changes made here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::limits::{FULL_SCAN_ROUNDS, LOAD_CONCURRENCY};
use super::load::load_newest;
use super::shared::Shared;
use crate::store::{ModelName, Poll, StoreError, Version};

impl Shared {
    /// Polls the store at each interval; `seen` is the ETag of the last announcement.
    pub(super) async fn sync_loop(self: Arc<Self>, interval: Duration, mut seen: Option<String>) {
        let (mut poll_failed, mut announce_failed) = (false, false);
        // Models that changed, but could not be refreshed yet.
        let mut pending = BTreeSet::new();
        for round in 1u32.. {
            tokio::time::sleep(interval).await;
            let poll = async {
                let poll = self.store.changed_since(seen.as_deref()).await?;
                if poll != Poll::Unchanged || round % FULL_SCAN_ROUNDS == 0 {
                    pending.extend(self.changed_models().await?);
                }
                Ok::<_, StoreError>(poll)
            };
            match poll.await {
                Ok(poll) => {
                    if let Poll::Changed(e_tag) = poll {
                        seen = e_tag;
                    }
                    if poll_failed {
                        tracing::info!("the store answers again");
                    }
                    poll_failed = false;
                }
                Err(error) => {
                    if !poll_failed {
                        tracing::warn!("cannot poll the store for changes: {error}");
                    }
                    poll_failed = true;
                    // Do not announce either: the store may have been unmounted.
                    continue;
                }
            }
            pending = self.refresh_idle(pending).await;
            // Failures are tracked separately: a store that is full or read-only can still be
            // polled.
            if self.needs_announcement.swap(false, Ordering::Relaxed) {
                let result = self.announce().await;
                if let (Err(error), false) = (&result, announce_failed) {
                    tracing::warn!("cannot announce changes to other servers: {error}");
                }
                announce_failed = result.is_err();
            }
        }
    }

    /// Announces a change to other servers. On failure the sync loop tries again.
    pub(super) async fn announce(&self) -> Result<(), StoreError> {
        let result = self.store.announce().await;
        if result.is_err() {
            self.needs_announcement.store(true, Ordering::Relaxed);
        }
        result
    }

    /// The models whose newest stored version is neither served nor known to be unsupported.
    async fn changed_models(&self) -> Result<BTreeSet<ModelName>, StoreError> {
        let mut stored = self.store.list().await?;
        let mut unsupported_versions = self.unsupported_versions();
        unsupported_versions.retain(|name, _| stored.contains_key(name));
        let mut changed = BTreeSet::new();
        for (name, model) in self.models.all() {
            let versions = stored.remove(&name);
            let newest = versions.as_ref().and_then(|versions| versions.last());
            let served = model.version.as_ref();
            let is_current = match (served, newest) {
                (Some(served), Some(newest)) if served.is(newest) => true,
                // A served version above the unsupported one has been deleted by another server.
                (served, Some(newest)) => {
                    unsupported_versions.get(&name).is_some_and(|unsupported| {
                        let is_newer =
                            served.is_none_or(|served| unsupported.number > served.number);
                        is_newer && unsupported.is(newest)
                    })
                }
                (served, None) => served.is_none(),
            };
            if !is_current {
                changed.insert(name);
            }
        }
        // The models that remain are stored, but not served.
        stored.retain(|name, versions| {
            unsupported_versions
                .get(name)
                .zip(versions.last())
                .is_none_or(|(unsupported, newest)| !unsupported.is(newest))
        });
        changed.extend(stored.into_keys());
        Ok(changed)
    }

    /// Refreshes models; returns those to try again, because a change of them is running here or
    /// the store did not answer.
    async fn refresh_idle(&self, models: BTreeSet<ModelName>) -> BTreeSet<ModelName> {
        stream::iter(models)
            .map(|name| async move {
                let ticket = self.queues.enter(&name, usize::MAX)?;
                let is_refreshed = match ticket.try_acquire() {
                    // Lists the versions anew: the earlier listing may be outdated by now.
                    Some(_turn) => matches!(self.refresh(&name).await, Ok(true)),
                    None => false,
                };
                (!is_refreshed).then_some(name)
            })
            .buffer_unordered(LOAD_CONCURRENCY)
            .filter_map(async |name| name)
            .collect()
            .await
    }

    /// Serves the newest stored version of a model. The caller must hold the model's turn. Returns
    /// whether every newer version could be examined; if not, the model is unchanged.
    pub(super) async fn refresh(&self, name: &ModelName) -> Result<bool, StoreError> {
        let versions = self.store.versions(name).await?;
        let model = self.models.get(name);
        let served = model.as_ref().and_then(|model| model.version.as_ref());
        if versions.is_empty() {
            if served.is_some() && !name.is_default() {
                self.models.remove(name);
                tracing::info!(model = %name, "deleted by another server");
            }
            return Ok(true);
        }
        // Read only versions newer than the served one; all, if that was deleted.
        let position = |served: &Version| versions.iter().position(|version| version.is(served));
        let first_newer = served.and_then(position).map_or(0, |served| served + 1);
        let loaded = load_newest(&self.store, &self.config, name, &versions[first_newer..]).await;
        // A network error is likely to be transient, so try again before serving an older version.
        if loaded.read_error.is_some() && !self.store.is_folder() {
            return Ok(false);
        }
        let is_unsupported = loaded.has_unsupported && loaded.read_error.is_none();
        match versions.last().filter(|_| is_unsupported) {
            Some(newest) => self
                .unsupported_versions()
                .insert(name.clone(), newest.clone()),
            None => self.unsupported_versions().remove(name),
        };
        if let Some(model) = loaded.model {
            let version = model.version_number();
            self.models.set(name, Arc::new(model));
            tracing::info!(model = %name, version, "synced a version that another server stored");
        }
        Ok(true)
    }
}
