//! The change marker: how servers on one store learn which models the others changed.
//!
//! Each line is a change: an id, and the model. Without a model, any may have changed; an older
//! program writes the marker as one such line, and reads only its ETag. The newest change is last.
//!
//! A reader remembers the newest change that it has seen, and takes over those after it. If that
//! one is gone, it lists the whole store: an older program wrote the marker, the changes no longer
//! fit, or the marker is damaged.
//!
//! Two servers that announce at the same time could each replace the change of the other. An object
//! store refuses the later write (`If-Match`), which then begins anew. A folder cannot, so each
//! server looks for its own changes whenever the marker has changed since, and announces again
//! those that are gone.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::path::Path;
use object_store::{
    Error as ObjectError, GetOptions, ObjectStoreExt, PutMode, PutPayload, UpdateVersion,
};

use super::error::StoreError;
use super::layout::CHANGED;
use super::metrics::Operation;
use super::name::ModelName;
use super::{Store, folder, run_blocking};

/// How many changes the marker holds. A reader that has missed more lists the whole store.
const MAX_CHANGES: usize = 256;

/// How many models one announcement names. If more have changed, it names none.
const MAX_NAMED: usize = MAX_CHANGES / 2;

/// Size of the largest marker that is read, in bytes: [`MAX_CHANGES`] with the longest names take
/// less.
const MAX_MARKER_SIZE: u64 = 64 * 1024;

/// Digits of an id, and the base in which it is written.
const ID_DIGITS: usize = 32;
const ID_RADIX: u32 = 16;

/// How often an announcement begins anew because another server announced meanwhile. Then it
/// replaces the marker, and the other server announces again.
const MAX_ATTEMPTS: usize = 8;

/// How long another server may take between reading and replacing the marker. After that time, an
/// announcement that is still there is no longer looked for.
const MAX_REPLACE_TIME: Duration = Duration::from_secs(10);

/// If another server replaced more announcements than these, all are announced as one that names no
/// model. So servers that announce much cannot push each other's changes out of the marker for ever.
const MAX_LOST_NAMED: usize = 8;

/// Which models changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// These.
    Of(BTreeSet<ModelName>),
    /// Any may have changed.
    Any,
}

impl Default for Changes {
    fn default() -> Self {
        Self::Of(BTreeSet::new())
    }
}

impl From<ModelName> for Changes {
    fn from(model: ModelName) -> Self {
        Self::Of(BTreeSet::from([model]))
    }
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Of(models) if models.is_empty())
    }

    /// Adds the others. Many become [`Any`](Self::Any).
    pub fn extend(&mut self, others: Self) {
        match (&mut *self, others) {
            (Self::Of(models), Self::Of(others)) => {
                models.extend(others);
                if models.len() > MAX_NAMED {
                    *self = Self::Any;
                }
            }
            _ => *self = Self::Any,
        }
    }
}

impl FromIterator<Option<ModelName>> for Changes {
    fn from_iter<I: IntoIterator<Item = Option<ModelName>>>(models: I) -> Self {
        let models: Option<_> = models.into_iter().collect();
        models.map_or(Self::Any, Self::Of)
    }
}

/// Up to where a reader has seen the announcements; by default, it has seen none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    e_tag: Option<String>,
    /// The newest change.
    change: Option<u128>,
}

/// The outcome of [`Store::changed_since`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// No change was announced.
    Unchanged,
    /// Changes were announced.
    Changed {
        /// What to poll with next time.
        seen: Seen,
        /// The models that changed.
        changes: Changes,
        /// Changes announced through this store that another server's announcement replaced.
        /// Whoever polls announces them again; the store no longer looks for them.
        lost: Changes,
    },
}

/// A line of the marker.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    id: u128,
    /// `None` if any model may have changed.
    model: Option<ModelName>,
}

impl Change {
    fn new(model: Option<ModelName>) -> Self {
        let id = rand::random();
        Self { id, model }
    }
}

/// The changes in a marker, or `None` if it holds anything else.
fn parse(marker: &[u8]) -> Option<Vec<Change>> {
    if marker.len() as u64 > MAX_MARKER_SIZE {
        return None;
    }
    let text = std::str::from_utf8(marker).ok()?.strip_suffix('\n')?;
    let change = |line: &str| {
        let (id, model) = match line.split_once(' ') {
            Some((id, model)) => (id, Some(model.parse().ok()?)),
            None => (line, None),
        };
        let is_id = id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = is_id.then(|| u128::from_str_radix(id, ID_RADIX).ok())??;
        Some(Change { id, model })
    };
    text.split('\n').map(change).collect()
}

fn encode(changes: &[Change]) -> String {
    let mut text = String::new();
    for Change { id, model } in changes {
        // Writing to a text cannot fail.
        let _ = match model {
            Some(model) => writeln!(text, "{id:0ID_DIGITS$x} {model}"),
            None => writeln!(text, "{id:0ID_DIGITS$x}"),
        };
    }
    text
}

/// The models of the changes after the newest one seen.
fn changes_after(seen: Option<u128>, changes: &[Change]) -> Changes {
    let position = seen.and_then(|seen| changes.iter().rposition(|change| change.id == seen));
    let Some(position) = position else {
        return Changes::Any;
    };
    let newer = &changes[position + 1..];
    newer.iter().map(|change| change.model.clone()).collect()
}

/// The announcements of this process that another server may still replace.
#[derive(Debug, Default)]
pub(super) struct OwnChanges(Mutex<Vec<(Instant, Change)>>);

impl OwnChanges {
    fn add(&self, changes: Vec<Change>) {
        let now = Instant::now();
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        own.extend(changes.into_iter().map(|change| (now, change)));
        // Without polls they are never looked for.
        let excess = own.len().saturating_sub(MAX_CHANGES);
        own.drain(..excess);
    }

    /// Removes and returns those that were announced before the marker was read, but are not in it.
    fn take_lost(&self, read_at: Instant, marker: &[Change]) -> Changes {
        let mut lost = Vec::new();
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        own.retain(|(announced_at, change)| {
            if *announced_at >= read_at {
                return true;
            }
            let is_there = marker.iter().any(|there| there.id == change.id);
            if !is_there {
                lost.push(change.model.clone());
            }
            is_there && read_at.duration_since(*announced_at) < MAX_REPLACE_TIME
        });
        if lost.len() > MAX_LOST_NAMED {
            return Changes::Any;
        }
        lost.into_iter().collect()
    }
}

/// What was read of the marker.
enum Marker {
    Missing,
    Unchanged,
    Read {
        version: UpdateVersion,
        /// `None` if it is not one that this program understands.
        changes: Option<Vec<Change>>,
    },
}

impl Store {
    /// Announces changes to other servers.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store does not answer.
    pub async fn announce(&self, changes: &Changes) -> Result<(), StoreError> {
        let run = async {
            self.check_writable()?;
            let own: Vec<_> = match changes {
                Changes::Of(models) if models.len() <= MAX_NAMED => {
                    let models = models.iter().cloned();
                    models.map(|model| Change::new(Some(model))).collect()
                }
                _ => vec![Change::new(None)],
            };
            for attempt in 1.. {
                let (mut mode, mut changes) = match self.read_marker(None).await? {
                    Marker::Read { version, changes } => {
                        (PutMode::Update(version), changes.unwrap_or_default())
                    }
                    Marker::Missing | Marker::Unchanged => (PutMode::Create, Vec::new()),
                };
                if self.is_folder() || attempt == MAX_ATTEMPTS {
                    mode = PutMode::Overwrite;
                }
                changes.extend(own.iter().cloned());
                let excess = changes.len().saturating_sub(MAX_CHANGES);
                let marker = PutPayload::from(encode(&changes[excess..]));
                let path = Path::from(CHANGED);
                let put = self
                    .objects
                    .put_opts(&path, marker.clone(), mode.clone().into());
                match put.await {
                    Ok(_) => break,
                    Err(ObjectError::Precondition { .. } | ObjectError::AlreadyExists { .. })
                        if mode != PutMode::Overwrite => {}
                    Err(error) if mode == PutMode::Overwrite => return Err(error.into()),
                    // Some stores have no conditional writes.
                    Err(_) => {
                        self.objects.put(&path, marker).await?;
                        break;
                    }
                }
            }
            self.own_changes.add(own);
            self.has_marker.store(true, Ordering::Relaxed);
            Ok(())
        };
        self.count(Operation::Announce, run).await
    }

    /// Polls for announcements since those that were `seen`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store does not answer, or the change marker has disappeared: nobody
    /// removes it, so the disk is not mounted, or the like.
    pub async fn changed_since(&self, seen: &Seen) -> Result<Poll, StoreError> {
        let run = async {
            let read_at = Instant::now();
            match self.read_marker(seen.e_tag.as_deref()).await? {
                Marker::Missing if seen.e_tag.is_some() => Err(self.marker_missing()),
                Marker::Missing | Marker::Unchanged => Ok(Poll::Unchanged),
                Marker::Read { version, changes } => {
                    self.has_marker.store(true, Ordering::Relaxed);
                    let there = changes.unwrap_or_default();
                    Ok(Poll::Changed {
                        changes: changes_after(seen.change, &there),
                        lost: self.own_changes.take_lost(read_at, &there),
                        seen: Seen {
                            e_tag: version.e_tag,
                            change: there.last().map(|change| change.id),
                        },
                    })
                }
            }
        };
        self.count(Operation::Poll, run).await
    }

    /// Reads the marker, unless its ETag is the one that was seen.
    async fn read_marker(&self, seen: Option<&str>) -> Result<Marker, StoreError> {
        if let Some(store) = &self.folder {
            let path = store.join(CHANGED);
            let seen = seen.map(str::to_owned);
            let read = run_blocking(move || {
                let metadata = match std::fs::metadata(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Ok(Some(Marker::Missing));
                    }
                    metadata => metadata?,
                };
                if !metadata.is_file() {
                    return Ok(None);
                }
                let mut e_tag = folder::e_tag(&metadata);
                if seen.as_ref() == Some(&e_tag) {
                    return Ok(Some(Marker::Unchanged));
                }
                // A file that cannot be read may still be replaced.
                let mut changes = None;
                if let Ok((file, metadata)) = folder::open_file(&path) {
                    e_tag = folder::e_tag(&metadata);
                    let bytes = folder::read(file, MAX_MARKER_SIZE + 1);
                    changes = bytes.ok().and_then(|bytes| parse(&bytes));
                }
                let version = UpdateVersion {
                    e_tag: Some(e_tag),
                    version: None,
                };
                Ok(Some(Marker::Read { version, changes }))
            });
            let Some(marker) = read.await? else {
                // The next announcement replaces it.
                self.has_marker.store(true, Ordering::Relaxed);
                self.name_stray(&format!("{CHANGED:?}"), "it is not a regular file");
                return Ok(Marker::Unchanged);
            };
            return Ok(marker);
        }
        let options = GetOptions {
            if_none_match: seen.map(str::to_owned),
            ..GetOptions::default()
        };
        let object = match self.objects.get_opts(&Path::from(CHANGED), options).await {
            Err(ObjectError::NotModified { .. }) => return Ok(Marker::Unchanged),
            Err(ObjectError::NotFound { .. }) => return Ok(Marker::Missing),
            result => result.map_err(StoreError::new)?,
        };
        let version = UpdateVersion {
            e_tag: object.meta.e_tag.clone(),
            version: object.meta.version.clone(),
        };
        let changes = if object.meta.size > MAX_MARKER_SIZE {
            None
        } else {
            parse(&object.bytes().await.map_err(StoreError::new)?)
        };
        Ok(Marker::Read { version, changes })
    }
}
