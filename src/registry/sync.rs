//! Keeps the models in step with other servers on the same store: polls for their changes, and
//! announces changes made here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::limits::{FULL_SCAN_ROUNDS, LOAD_CONCURRENCY};
use super::load::{Newest, find_newest};
use super::models::Summary;
use super::shared::Shared;
use crate::store::{Changes, ModelName, Poll, Seen, StoreError, Version};

impl Shared {
    /// Polls the store at each interval for announcements after those that were `seen`.
    pub(super) async fn sync_loop(self: Arc<Self>, interval: Duration, mut seen: Seen) {
        let (mut poll_failed, mut announce_failed) = (false, false);
        // Models that changed, but could not be refreshed yet.
        let mut pending = BTreeSet::new();
        for round in 1u32.. {
            tokio::time::sleep(interval).await;
            let poll = async {
                let (mut now, mut changes) = (None, Changes::default());
                if let Poll::Changed {
                    seen,
                    changes: announced,
                    lost,
                } = self.store.changed_since(&seen).await?
                {
                    self.unannounced().extend(lost);
                    (now, changes) = (Some(seen), announced);
                }
                if round % FULL_SCAN_ROUNDS == 0 {
                    changes = Changes::Any;
                }
                pending.extend(match changes {
                    Changes::Of(models) => models,
                    Changes::Any => self.changed_models().await?,
                });
                Ok::<_, StoreError>(now)
            };
            match poll.await {
                Ok(now) => {
                    seen = now.unwrap_or(seen);
                    self.metrics.synced();
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
            pending = self.refresh_models(pending).await;
            // Failures are tracked separately: a store that is full or read-only can still be
            // polled.
            let result = self.announce().await;
            if let (Err(error), false) = (&result, announce_failed) {
                tracing::warn!("cannot announce changes to other servers: {error}");
            }
            announce_failed = result.is_err();
        }
    }

    /// Announces all changes that are not announced yet to other servers. On failure the sync loop
    /// tries again.
    pub(super) async fn announce(&self) -> Result<(), StoreError> {
        let _turn = self.announcing_turn.lock().await;
        let changes = std::mem::take(&mut *self.unannounced());
        if changes.is_empty() {
            return Ok(());
        }
        let result = self.store.announce(&changes).await;
        if result.is_err() {
            self.unannounced().extend(changes);
        }
        result
    }

    /// The models whose newest stored version is neither served nor known to be unsupported.
    async fn changed_models(&self) -> Result<BTreeSet<ModelName>, StoreError> {
        let mut stored = self.store.list().await?;
        let mut unsupported_versions = self.unsupported_versions();
        unsupported_versions.retain(|name, _| stored.contains_key(name));
        let mut changed = BTreeSet::new();
        for (name, served) in self.models.versions() {
            let versions = stored.remove(&name);
            let newest = versions.as_ref().and_then(|versions| versions.last());
            let is_current = match (&served, newest) {
                (Some(served), Some(newest)) if served.is(newest) => true,
                // A served version above the unsupported one has been deleted by another server.
                (served, Some(newest)) => {
                    unsupported_versions.get(&name).is_some_and(|unsupported| {
                        let is_newer = served
                            .as_ref()
                            .is_none_or(|served| unsupported.number > served.number);
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
    async fn refresh_models(&self, models: BTreeSet<ModelName>) -> BTreeSet<ModelName> {
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

    /// Serves the newest stored version of a model: loads it if the model is in memory, and else
    /// notes it. The caller must hold the model's turn. Returns whether every newer version could be
    /// examined; if not, the model is unchanged.
    pub(super) async fn refresh(&self, name: &ModelName) -> Result<bool, StoreError> {
        let versions = self.store.versions(name).await?;
        let served = self.models.version(name);
        if versions.is_empty() {
            if served.is_some() && !name.is_default() {
                self.models.remove(name);
                self.streams.remove(name);
                self.metrics.forget(name);
                tracing::info!(model = %name, "deleted by another server");
            }
            return Ok(true);
        }
        // Read only versions newer than the served one; all, if that was deleted.
        let position = |served: &Version| versions.iter().position(|version| version.is(served));
        let first_newer = served.as_ref().and_then(position).map_or(0, |at| at + 1);
        let newer = &versions[first_newer..];
        let version = if self.models.is_loaded(name) {
            let read = |version| self.read_model(name, version);
            let newest = find_newest(&self.store, name, newer, read).await;
            if !self.is_examined(name, &versions, &newest) {
                return Ok(false);
            }
            match newest.found {
                // There is no memory for it now.
                Some(None) => return Ok(false),
                Some(Some(model)) => {
                    self.serve(name, &model);
                    model.version_number()
                }
                None => None,
            }
        } else {
            let read = |version: Version| async move {
                let metadata = self.store.read_metadata(name, version.number).await?;
                Ok((Summary::from_metadata(&metadata, &version), version))
            };
            let newest = find_newest(&self.store, name, newer, read).await;
            if !self.is_examined(name, &versions, &newest) {
                return Ok(false);
            }
            newest.found.map(|(summary, version)| {
                let number = version.number;
                self.models.note(name, version, Some(summary));
                number
            })
        };
        if version.is_some() {
            tracing::info!(model = %name, version, "synced a version that another server stored");
        }
        Ok(true)
    }

    /// Whether every newer version could be examined. If so, notes the newest one if its format is
    /// not supported.
    fn is_examined<T>(&self, name: &ModelName, versions: &[Version], newest: &Newest<T>) -> bool {
        // A network error is likely to be transient, so try again before serving an older version.
        let is_examined = newest.read_error.is_none() || self.store.is_folder();
        if is_examined {
            self.note_unsupported(name, versions, newest);
        }
        is_examined
    }
}
