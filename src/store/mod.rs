//! Stores models, so that they survive the process: in a folder, or in an object store that several
//! servers share.
//!
//! * `record`: the data stored of a model
//! * `format`: encoding and decoding of a record
//! * `format_1`: what the first format holds
//! * `name`: names of models
//! * `version`: versions, and outcomes of operations on them
//! * `layout`: paths of objects
//! * `marker`: which models changed, for other servers
//! * `folder`: durable operations on local folders, and reading those with stray files
//! * `metrics`: what is counted
//! * `reports`: problems that the log names once
//! * `open`, `cloud`: from a URL to a store; those in the cloud, or that this program has none
//! * `error`: the errors
//!
//! # Layout
//!
//! | object | content |
//! | --- | --- |
//! | `models/NAME/VERSION.iforest` | one version of a model, immutable; versions count from 1 and have ten digits |
//! | `changed` | the change marker, rewritten after every change: a line for each of the last changes, the newest last, with an id in 32 hexadecimal digits, a space and the name of the model; without space and name, any model may have changed; a folder without it is not mounted |
//! | `set-aside/NAME/VERSION.iforest` | a quarantined version: it was found damaged |
//!
//! The server serves the greatest version. A write creates a version only if its number is free
//! (`If-None-Match: *`, or a hard link in a folder), so if two servers write the same version, one
//! of them fails and takes the next number. Folder names are in lower case; for a name with
//! capitals, `=` and a hexadecimal number follow, whose bits mark the capitals. In a folder on
//! Windows, `=` precedes names that Windows takes for devices, such as `aux` and `aux.1`.
//!
//! # Format of a version
//!
//! Every format begins with the line `iforest-server model N`, where N is the format, and ends with
//! the CRC-32 (as in zip and PNG) of all bytes before it, in 4 bytes, little-endian. So every program
//! can tell a newer format from damage.
//!
//! Format 2, which is written, has between them:
//!
//! 1. the section `metadata`: the [`Metadata`] in JSON
//! 2. the CRC-32 of all bytes before it, so that the metadata can be read and trusted without the
//!    rest
//! 3. the section `detector`: a [`Detector`](crate::detector::Detector) in
//!    [postcard](https://postcard.jamesmunns.com/wire-format)'s encoding: fields in the order of their
//!    declarations, integers as varints, floats in 8 bytes, little-endian
//!
//! A section is its name, a space, its length in ten digits, a space, its bytes and a line feed.
//! `head -n 2 FILE` shows the metadata. Fields of the metadata that are not known are ignored. A
//! version with a section that is not known is not served: a newer program wrote it, and the section
//! may change predictions.
//!
//! Format 1, which is still read, has a [`Record`] in postcard's encoding between them.

#[cfg(feature = "cloud")]
mod cloud;
#[cfg(not(feature = "cloud"))]
#[path = "no_cloud.rs"]
mod cloud;
mod error;
mod folder;
mod format;
mod format_1;
mod layout;
mod marker;
mod metrics;
mod name;
mod open;
mod record;
mod reports;
mod version;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Error as ObjectError, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};

use self::folder::Listing;
use self::layout::{CHANGED, MAX_VERSION, MODELS, QUARANTINE, parse_object, version_path};
use self::marker::OwnChanges;
use self::metrics::{Operation, StoreMetrics};
use self::name::Naming;
use self::open::{Backend, Missing};
use self::reports::Reports;

pub use error::{EncodeError, FormatError, ReadError, StoreError};
pub use format::{MetadataPrefix, decode, decode_metadata, encode};
pub use marker::{Changes, Poll, Seen};
pub use name::{ModelName, NameError};
pub use open::without_secrets;
pub use record::{Drift, Metadata, ModelSettings, Record};
pub use version::{Version, WriteOutcome};

/// Size of the largest version, in bytes. A request can make models of some 10 MB, and 100,000
/// trees of 256 readings, the most that the command line allows, take 300 MB.
const MAX_MODEL_SIZE: u64 = 1024 * 1024 * 1024;

/// How many bytes of a version are read for its metadata at first: those of some hundred features.
const METADATA_READ: u64 = 8 * 1024;

/// A store of models.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    location: String,
    folder: Option<PathBuf>,
    shared: bool,
    is_read_only: bool,
    max_model_size: u64,
    /// Whether the change marker was seen or written; from then on it must exist.
    has_marker: Arc<AtomicBool>,
    own_changes: Arc<OwnChanges>,
    reports: Arc<Reports>,
    metrics: Arc<StoreMetrics>,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.location)
    }
}

impl Store {
    /// Opens a store: `memory:`, a URL (`s3://`, `az://`, `gs://`, `file://`), or a folder, which is
    /// created if it is missing. The usual environment variables, `AWS_…`, `AZURE_…` or `GOOGLE_…`,
    /// configure access to object stores.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the URL is not that of a store, the folder cannot be created, or access is
    /// not configured. An object store that cannot be reached fails only when it is used.
    pub fn open(location: &str) -> Result<Self, StoreError> {
        let store = Self::from_backend(open::open(location, Missing::Create)?, location);
        if let Some(folder) = &store.folder {
            folder::remove_stale_uploads(folder);
            if folder::is_open_to_others(folder) {
                tracing::warn!(
                    "every user of this machine may enter the folder {folder:?}; to keep the \
                     models private, take that right away: chmod o-rwx"
                );
            }
        }
        Ok(store)
    }

    /// Opens a store as [`open`](Self::open) does, only to read it: a folder must be there, and all
    /// operations that write fail. A server may use the store at the same time.
    ///
    /// # Errors
    ///
    /// Same as [`open`](Self::open), and if the folder is missing.
    pub fn open_to_read(location: &str) -> Result<Self, StoreError> {
        let backend = open::open(location, Missing::Refuse)?;
        Ok(Self {
            is_read_only: true,
            ..Self::from_backend(backend, location)
        })
    }

    fn from_backend(backend: Backend, location: &str) -> Self {
        match backend {
            Backend::Memory => Self::in_memory(),
            Backend::Remote(objects) => Self::from_objects(objects, &without_secrets(location)),
            Backend::Folder(folder, objects) => {
                let location = format!("folder {}", folder.display());
                Self {
                    folder: Some(folder),
                    ..Self::from_objects(objects, &location)
                }
            }
        }
    }

    /// Checks a location as [`open`](Self::open) does, but creates and asks nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the location names no store, or its access is not configured.
    pub fn check(location: &str) -> Result<(), StoreError> {
        open::check(location)
    }

    /// A store that lives as long as the process.
    pub fn in_memory() -> Self {
        Self {
            shared: false,
            ..Self::from_objects(Arc::new(InMemory::new()), "memory:")
        }
    }

    /// A store on top of any object store; messages call it `location`.
    pub fn from_objects(objects: Arc<dyn ObjectStore>, location: &str) -> Self {
        Self {
            objects,
            location: location.to_owned(),
            folder: None,
            shared: true,
            is_read_only: false,
            max_model_size: MAX_MODEL_SIZE,
            has_marker: Arc::default(),
            own_changes: Arc::default(),
            reports: Arc::default(),
            metrics: Arc::default(),
        }
    }

    /// Sets the size of the largest version that is read or written, in bytes; 1 GiB by default.
    pub fn with_max_model_size(mut self, bytes: u64) -> Self {
        self.max_model_size = bytes;
        self
    }

    /// Whether other servers may use the store too.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether the store is a local folder.
    pub fn is_folder(&self) -> bool {
        self.folder.is_some()
    }

    fn naming(&self) -> Naming {
        if self.is_folder() {
            Naming::LOCAL
        } else {
            Naming::Free
        }
    }

    fn version_path(&self, prefix: &str, name: &ModelName, version: u64) -> Path {
        version_path(prefix, name, version, self.naming())
    }

    /// Lists the versions of all models, in ascending order.
    ///
    /// The log names everything else that lies there, once, and a model whose folder cannot be
    /// listed: it is left out, and [`versions`](Self::versions) fails for it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store does not answer.
    pub async fn list(&self) -> Result<BTreeMap<ModelName, Vec<Version>>, StoreError> {
        let run = async {
            self.check_mounted()?;
            let mut models: BTreeMap<ModelName, Vec<Version>> = BTreeMap::new();
            if let Some(store) = self.folder.clone() {
                models.extend(self.list_folder(move || folder::list(&store)).await?);
            } else {
                for (name, version) in self.list_objects(&Path::from(MODELS)).await? {
                    models.entry(name).or_default().push(version);
                }
            }
            for versions in models.values_mut() {
                versions.sort();
            }
            Ok(models)
        };
        self.count(Operation::List, run).await
    }

    /// The models that [`list`](Self::list) leaves out because their folders cannot be listed, and why.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store does not answer.
    pub async fn unlisted(&self) -> Result<Vec<(ModelName, StoreError)>, StoreError> {
        let Some(store) = self.folder.clone() else {
            return Ok(Vec::new());
        };
        let mut unlisted = Vec::new();
        for name in run_blocking(move || folder::names(&store)).await? {
            if let Err(error) = self.versions(&name).await {
                unlisted.push((name, error));
            }
        }
        Ok(unlisted)
    }

    /// Lists the versions of a model, in ascending order; empty if the model does not exist.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store does not answer.
    pub async fn versions(&self, name: &ModelName) -> Result<Vec<Version>, StoreError> {
        let run = async {
            self.check_mounted()?;
            let mut versions = if let Some(store) = &self.folder {
                let folder = store.join(MODELS).join(name.folder(self.naming()));
                self.list_folder(move || folder::list_versions(&folder))
                    .await?
            } else {
                let folder = Path::from_iter([MODELS, &name.folder(self.naming())]);
                let objects = self.list_objects(&folder).await?;
                objects.into_iter().map(|(_, version)| version).collect()
            };
            versions.sort();
            Ok(versions)
        };
        self.count(Operation::List, run).await
    }

    /// Lists a local folder, and names what else lies there.
    async fn list_folder<T: Send + 'static>(
        &self,
        list: impl FnOnce() -> io::Result<Listing<T>> + Send + 'static,
    ) -> Result<Vec<T>, StoreError> {
        let listing = run_blocking(list).await?;
        for (path, problem) in listing.strays {
            // Debug escapes what could begin a line of the log or steer a terminal.
            let path = self.folder.as_ref().map_or(path.as_path(), |folder| {
                path.strip_prefix(folder).unwrap_or(&path)
            });
            self.name_stray(&format!("{path:?}"), &problem);
        }
        Ok(listing.found)
    }

    /// Lists the versions in an object store, and names the other objects there.
    async fn list_objects(&self, prefix: &Path) -> Result<Vec<(ModelName, Version)>, StoreError> {
        let mut found = Vec::new();
        let mut objects = self.objects.list(Some(prefix));
        while let Some(object) = objects.try_next().await? {
            match parse_object(&object) {
                Some(version) => found.push(version),
                None => self.name_stray(
                    &format!("{:?}", object.location.as_ref()),
                    "no version of a model has an object of this name",
                ),
            }
        }
        Ok(found)
    }

    /// Names a file that is ignored, once.
    fn name_stray(&self, path: &str, problem: &str) {
        if self.is_new_problem(path) {
            tracing::warn!("{path} of {self} is ignored: {problem}");
        }
    }

    /// Whether a problem of the store has not been named yet. The log names each once, not at every
    /// poll.
    pub fn is_new_problem(&self, problem: &str) -> bool {
        self.reports.is_new(problem)
    }

    /// Reads a version.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the version is missing, damaged, or of a newer format, or the store does
    /// not answer.
    pub async fn read(&self, name: &ModelName, version: u64) -> Result<Record, ReadError> {
        let bytes = self.fetch(name, version, None).await?;
        // Decoding compiles the forest, which is too slow for the thread that handles I/O.
        let record = tokio::task::spawn_blocking(move || decode(&bytes))
            .await
            .map_err(StoreError::new)??;
        Ok(record)
    }

    /// Reads the metadata of a version: its first few KiB, or the whole version if it has format 1,
    /// which stores no metadata apart.
    ///
    /// # Errors
    ///
    /// Same as [`read`](Self::read). Damage of the other parts of the version goes unnoticed.
    pub async fn read_metadata(
        &self,
        name: &ModelName,
        version: u64,
    ) -> Result<Metadata, ReadError> {
        let mut length = METADATA_READ;
        loop {
            let prefix = match self.fetch(name, version, Some(length)).await {
                Ok(bytes) => decode_metadata(&bytes),
                Err(ReadError::Missing) => return Err(ReadError::Missing),
                // Some object stores refuse to read a range of an empty object.
                Err(_) => MetadataPrefix::Absent,
            };
            match prefix {
                MetadataPrefix::Complete(metadata) => return Ok(*metadata),
                MetadataPrefix::Needs(bytes) if bytes as u64 > length => length = bytes as u64,
                _ => return Ok(self.read(name, version).await?.metadata()),
            }
        }
    }

    /// Reads the bytes of a version without decoding them.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the version is missing, or the store does not answer.
    pub async fn read_bytes(&self, name: &ModelName, version: u64) -> Result<Bytes, ReadError> {
        self.fetch(name, version, None).await
    }

    /// The bytes of a version, or its first ones.
    async fn fetch(
        &self,
        name: &ModelName,
        version: u64,
        length: Option<u64>,
    ) -> Result<Bytes, ReadError> {
        let run = async {
            let path = self.version_path(MODELS, name, version);
            let max = self.max_model_size;
            let check_size = move |size| {
                if length.is_none() && size > max {
                    return Err(FormatError::TooLarge { size, max });
                }
                Ok(())
            };
            if let Some(store) = &self.folder {
                let path = store.join(path.as_ref());
                return run_blocking(move || {
                    let (file, metadata) = match folder::open_file(&path) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {
                            return Ok(Err(ReadError::Missing));
                        }
                        result => result?,
                    };
                    if let Err(error) = check_size(metadata.len()) {
                        return Ok(Err(error.into()));
                    }
                    folder::read(file, length.unwrap_or(max)).map(|bytes| Ok(bytes.into()))
                })
                .await?;
            }
            let options = GetOptions {
                range: length.map(|length| GetRange::Bounded(0..length)),
                ..GetOptions::default()
            };
            let object = match self.objects.get_opts(&path, options).await {
                Err(ObjectError::NotFound { .. }) => return Err(ReadError::Missing),
                result => result.map_err(StoreError::new)?,
            };
            check_size(object.meta.size)?;
            Ok(object.bytes().await.map_err(StoreError::new)?)
        };
        self.count(Operation::Read, run).await
    }

    /// Writes a version, unless one of its number exists.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store is full or does not answer. If it answers neither the write nor
    /// the read that checks it, the version may have been written all the same.
    pub async fn write(
        &self,
        name: &ModelName,
        version: u64,
        bytes: &[u8],
    ) -> Result<WriteOutcome, StoreError> {
        let run = async {
            self.check_writable()?;
            if version > MAX_VERSION {
                return Err(StoreError::new(format!(
                    "versions are counted up to {MAX_VERSION}; delete the model to count from 1 again"
                )));
            }
            let (size, max) = (bytes.len() as u64, self.max_model_size);
            if size > max {
                return Err(StoreError::new(FormatError::TooLarge { size, max }));
            }
            let path = self.version_path(MODELS, name, version);
            let options = PutOptions::from(PutMode::Create);
            let payload = bytes.to_vec().into();
            let error = match self.objects.put_opts(&path, payload, options).await {
                Ok(put) => {
                    let e_tag = match &self.folder {
                        Some(store) => {
                            let path = store.join(path.as_ref());
                            let metadata = run_blocking(move || folder::regular_file(&path)).await;
                            metadata.ok().as_ref().map(folder::e_tag)
                        }
                        None => put.e_tag,
                    };
                    return Ok(WriteOutcome::Stored(Version::new(version, e_tag)));
                }
                Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => {
                    return Ok(WriteOutcome::AlreadyExists);
                }
                Err(error) if self.is_folder() && folder::lacks_hard_links(&error) => {
                    let problem = StoreError::new(error);
                    StoreError::new(format!(
                        "{problem}; the store must lie on a file system with hard links, which FAT lacks"
                    ))
                }
                Err(error) => StoreError::new(error),
            };
            // A folder loses no answers: if the file was written, its fsync failed.
            if self.is_folder() {
                if matches!(self.fetch(name, version, None).await, Ok(stored) if stored == bytes) {
                    let _ = self.objects.delete(&path).await;
                }
                return Err(error);
            }
            // The write may have succeeded and only its answer have been lost, so read it back.
            let Ok(object) = self.objects.get(&path).await else {
                return Err(error);
            };
            let e_tag = object.meta.e_tag.clone();
            match object.bytes().await {
                Ok(stored) if stored == bytes => {
                    Ok(WriteOutcome::Stored(Version::new(version, e_tag)))
                }
                Ok(_) => Ok(WriteOutcome::AlreadyExists),
                Err(_) => Err(error),
            }
        };
        self.count(Operation::Write, run).await
    }

    /// Removes versions in the given order. Skips those that are missing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] at the first version that cannot be removed.
    pub async fn remove(&self, name: &ModelName, versions: &[Version]) -> Result<(), StoreError> {
        if versions.is_empty() {
            return Ok(());
        }
        let run = async {
            self.check_writable()?;
            for version in versions {
                let path = self.version_path(MODELS, name, version.number);
                match self.objects.delete(&path).await {
                    Ok(()) | Err(ObjectError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if let Some(folder) = &self.folder {
                let models = folder.join(MODELS);
                let model = models.join(name.folder(self.naming()));
                run_blocking(move || folder::sync_removal(&models, &model)).await?;
            }
            Ok(())
        };
        self.count(Operation::Delete, run).await
    }

    /// Moves a damaged version to the quarantine; returns its new path.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the version cannot be moved.
    pub async fn quarantine(&self, name: &ModelName, version: u64) -> Result<String, StoreError> {
        if self.is_read_only {
            return Err(Self::read_only());
        }
        let from = self.version_path(MODELS, name, version);
        let to = self.version_path(QUARANTINE, name, version);
        match self.objects.rename(&from, &to).await {
            // If the version is missing, another server has moved it already.
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(to.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// The path of a version and the store's location, for log lines.
    pub fn describe(&self, name: &ModelName, version: u64) -> String {
        format!("{} of {self}", self.path(name, version))
    }

    /// The path of a version in the store.
    pub fn path(&self, name: &ModelName, version: u64) -> String {
        self.version_path(MODELS, name, version).into()
    }

    /// Fails if the folder has lost its change marker, as when its disk was unmounted: it looks
    /// empty although no model was deleted, and a write to it would be lost.
    fn check_mounted(&self) -> Result<(), StoreError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let has_marker = self.has_marker.load(Ordering::Relaxed);
        // If the check itself fails, the operation that follows reports why.
        if has_marker && matches!(folder.join(CHANGED).try_exists(), Ok(false)) {
            return Err(self.marker_missing());
        }
        Ok(())
    }

    /// Fails if the store was opened only to be read, or [is not mounted](Self::check_mounted).
    fn check_writable(&self) -> Result<(), StoreError> {
        if self.is_read_only {
            return Err(Self::read_only());
        }
        self.check_mounted()
    }

    fn read_only() -> StoreError {
        StoreError::new("the store is opened only to be read")
    }

    fn marker_missing(&self) -> StoreError {
        StoreError::new(format!(
            "the file {CHANGED:?} of {self} is missing; is the store still at this location?"
        ))
    }
}

/// Runs file operations, which block, off the thread that handles I/O.
async fn run_blocking<T: Send + 'static>(
    operation: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let result = tokio::task::spawn_blocking(operation).await;
    result.map_err(StoreError::new)?.map_err(StoreError::new)
}
