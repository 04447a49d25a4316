//! Where models are kept, so that nothing learnt is lost: a folder, or an object store that several
//! servers share.
//!
//! * `record`: what is stored of a model
//! * `format`: its bytes
//! * `name`: what a model may be called
//! * `open`: from a URL to a store
//!
//! # What lies in a store
//!
//! | object | what it is |
//! | --- | --- |
//! | `models/NAME/VERSION.iforest` | one version of a model, never changed once it is there; versions are counted from 1 and written with ten digits |
//! | `changed` | written anew after every change, so that other servers see by its ETag that there is one; a folder that has lost it is not in its place |
//! | `set-aside/NAME/VERSION.iforest` | a version that was found damaged |
//!
//! The greatest version is the one served. A version is written only if there is none of its number
//! (`If-None-Match: *`, or a hard link in a folder), so of two servers that write the same one, one
//! is told and takes the next. Folders are named in small letters; where a name has capitals, `=` and
//! a number in hexadecimal follow, whose bits tell which letters they are.
//!
//! # The format of a version
//!
//! 1. the line `iforest-server model 1`, where 1 is the format
//! 2. a [`Record`] as [postcard](https://postcard.jamesmunns.com/wire-format) writes it: fields in
//!    the order of their declarations, whole numbers as varints, floats in 8 bytes, little-endian
//! 3. the CRC-32 (as in zip and PNG) of all bytes before, in 4 bytes, little-endian
//!
//! All formats to come begin with such a line and end with such a checksum.

mod format;
mod name;
mod open;
mod record;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Error as ObjectError, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};
use thiserror::Error;

use self::open::Backend;

pub use format::{EncodeError, FormatError, decode, encode};
pub use name::{ModelName, NameError};
pub use record::{ModelSettings, Record};

const MODELS: &str = "models";
const QUARANTINE: &str = "set-aside";
const CHANGED: &str = "changed";
const EXTENSION: &str = "iforest";

/// What a write left unfinished is no longer being written after so long.
const STALE_UPLOAD_AGE: Duration = Duration::from_secs(3600);

/// A place where models are kept.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    location: String,
    folder: Option<PathBuf>,
    shared: bool,
    /// Whether there was an announcement; there is one from then on.
    announced: Arc<AtomicBool>,
}

/// A store that cannot be used, or did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct StoreError(String);

impl StoreError {
    /// With all causes, of which the last tells most.
    pub(crate) fn new(error: impl Into<Box<dyn Error>>) -> Self {
        let error = error.into();
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                let _ = write!(text, ": {more}");
            }
            cause = error.source();
        }
        Self(text)
    }
}

impl From<ObjectError> for StoreError {
    fn from(error: ObjectError) -> Self {
        Self::new(error)
    }
}

/// Why a version could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The store did not give it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is none of this number.
    #[error("there is no such version")]
    Missing,
    /// It was given, but is no model.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// A version of a model, as a store lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Its number.
    pub number: u64,
    /// What tells it from another one of the same number, after a model was deleted and made anew.
    pub e_tag: Option<String>,
}

impl Version {
    fn new(number: u64, e_tag: Option<String>) -> Self {
        // Some stores quote it in one place and not in another.
        let e_tag = e_tag.map(|e_tag| e_tag.trim_matches('"').to_owned());
        Self { number, e_tag }
    }

    /// Whether both are the same, as far as it can be told.
    pub fn is(&self, other: &Self) -> bool {
        let e_tags = self.e_tag.as_ref().zip(other.e_tag.as_ref());
        self.number == other.number && e_tags.is_none_or(|(a, b)| a == b)
    }
}

/// What came of writing a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is stored, and will be there after a power cut.
    Stored(Version),
    /// There is a version of this number already; it is as it was.
    AlreadyExists,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.location)
    }
}

impl Store {
    /// Opens a store: `memory:`, a URL (`s3://`, `az://`, `gs://`, `file://`), or else a folder,
    /// which is made if it is missing. Access to object stores is set by the environment variables
    /// of their own tools, `AWS_…`, `AZURE_…` or `GOOGLE_…`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] for a URL that names no store, a folder that cannot be made, or access that
    /// is not set up. Whether an object store can be reached, only its use shows.
    pub fn open(location: &str) -> Result<Self, StoreError> {
        match open::open(location)? {
            Backend::Memory => Ok(Self::in_memory()),
            Backend::Remote(objects) => Ok(Self::from_objects(objects, location)),
            Backend::Folder(folder, objects) => {
                let mut store =
                    Self::from_objects(objects, &format!("folder {}", folder.display()));
                store.folder = Some(folder);
                store.remove_stale_uploads();
                Ok(store)
            }
        }
    }

    /// A store that lives as long as the process.
    pub fn in_memory() -> Self {
        let mut store = Self::from_objects(Arc::new(InMemory::new()), "memory:");
        store.shared = false;
        store
    }

    /// A store over any objects; `location` is what messages call it.
    pub fn from_objects(objects: Arc<dyn ObjectStore>, location: &str) -> Self {
        Self {
            objects,
            location: location.to_owned(),
            folder: None,
            shared: true,
            announced: Arc::default(),
        }
    }

    /// Whether other servers may use it as well.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether it is a folder of this machine.
    pub fn is_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// The versions of all models, in ascending order.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store does not answer.
    pub async fn list(&self) -> Result<BTreeMap<ModelName, Vec<Version>>, StoreError> {
        self.check_mounted()?;
        let mut models: BTreeMap<ModelName, Vec<Version>> = BTreeMap::new();
        let mut objects = self.objects.list(Some(&Path::from(MODELS)));
        while let Some(object) = objects.try_next().await? {
            if let Some((name, version)) = parse_object(object) {
                models.entry(name).or_default().push(version);
            }
        }
        for versions in models.values_mut() {
            versions.sort();
        }
        Ok(models)
    }

    /// The versions of one model, in ascending order; none where there is no such model.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store does not answer.
    pub async fn versions(&self, name: &ModelName) -> Result<Vec<Version>, StoreError> {
        self.check_mounted()?;
        let mut versions = Vec::new();
        let folder = Path::from_iter([MODELS, &name.folder()]);
        let mut objects = self.objects.list(Some(&folder));
        while let Some(object) = objects.try_next().await? {
            versions.extend(parse_object(object).map(|(_, version)| version));
        }
        versions.sort();
        Ok(versions)
    }

    /// Reads a version.
    ///
    /// # Errors
    ///
    /// [`ReadError`] where there is none, or none that is whole.
    pub async fn read(&self, name: &ModelName, version: u64) -> Result<Record, ReadError> {
        let path = path(MODELS, name, version);
        let object = match self.objects.get(&path).await {
            Err(ObjectError::NotFound { .. }) => return Err(ReadError::Missing),
            object => object.map_err(StoreError::new)?,
        };
        let bytes = object.bytes().await.map_err(StoreError::new)?;
        // To compile a forest takes a while, in which other answers of the store must not wait.
        let record = tokio::task::spawn_blocking(move || decode(&bytes)).await;
        Ok(record.map_err(StoreError::new)??)
    }

    /// Writes a version, unless there is one of its number.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store is full, or does not answer. If it answers neither to this
    /// nor to the question what became of it, the version may have been written all the same.
    pub async fn write(
        &self,
        name: &ModelName,
        version: u64,
        bytes: &[u8],
    ) -> Result<WriteOutcome, StoreError> {
        self.check_mounted()?;
        let path = path(MODELS, name, version);
        let options = PutOptions::from(PutMode::Create);
        let payload = bytes.to_vec().into();
        let error = match self.objects.put_opts(&path, payload, options).await {
            Ok(put) => return Ok(WriteOutcome::Stored(Version::new(version, put.e_tag))),
            Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => {
                return Ok(WriteOutcome::AlreadyExists);
            }
            Err(error) => StoreError::new(error),
        };
        // The answer may have been lost, and not the version.
        let Ok(object) = self.objects.get(&path).await else {
            return Err(error);
        };
        let e_tag = object.meta.e_tag.clone();
        match object.bytes().await {
            // In a folder it was not the answer that failed, but to make the file last.
            Ok(there) if there == bytes && self.is_folder() => {
                let _ = self.objects.delete(&path).await;
                Err(error)
            }
            Ok(there) if there == bytes => Ok(WriteOutcome::Stored(Version::new(version, e_tag))),
            Ok(_) => Ok(WriteOutcome::AlreadyExists),
            Err(_) => Err(error),
        }
    }

    /// Removes versions, in the order given. One that is not there is no error.
    ///
    /// # Errors
    ///
    /// [`StoreError`] at the first that cannot be removed.
    pub async fn remove(&self, name: &ModelName, versions: &[Version]) -> Result<(), StoreError> {
        if versions.is_empty() {
            return Ok(());
        }
        self.check_mounted()?;
        for version in versions {
            let path = path(MODELS, name, version.number);
            match self.objects.delete(&path).await {
                Ok(()) | Err(ObjectError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match self.folder.as_ref().map(|folder| folder.join(MODELS)) {
            Some(models) => {
                let folder = models.join(name.folder());
                let synced = tokio::task::spawn_blocking(move || sync_removal(&models, &folder));
                synced
                    .await
                    .map_err(StoreError::new)?
                    .map_err(StoreError::new)
            }
            None => Ok(()),
        }
    }

    /// Moves a damaged version out of the way; returns where it is now.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where it stays.
    pub async fn quarantine(&self, name: &ModelName, version: u64) -> Result<String, StoreError> {
        let (from, to) = (path(MODELS, name, version), path(QUARANTINE, name, version));
        match self.objects.rename(&from, &to).await {
            // Another server was faster.
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(to.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Where a version lies, for an operator.
    pub fn describe(&self, name: &ModelName, version: u64) -> String {
        format!("{} of {self}", path(MODELS, name, version))
    }

    /// Tells other servers that something changed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store does not answer.
    pub async fn announce(&self) -> Result<(), StoreError> {
        self.check_mounted()?;
        // The ETag of an object store may be a hash of what is written.
        let unlike_any_other = format!("{:032x}\n", rand::random::<u128>());
        self.objects
            .put(&Path::from(CHANGED), unlike_any_other.into_bytes().into())
            .await?;
        self.announced.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether something was announced since `seen`, and what to ask with next time.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store does not answer, or nothing is left of what was announced:
    /// that is no deletion of all models, but a disk that is not mounted, or the like.
    pub async fn changed_since(
        &self,
        seen: Option<&str>,
    ) -> Result<Option<Option<String>>, StoreError> {
        let options = GetOptions {
            if_none_match: seen.map(str::to_owned),
            ..GetOptions::default()
        };
        match self.objects.get_opts(&Path::from(CHANGED), options).await {
            Ok(object) => {
                self.announced.store(true, Ordering::Relaxed);
                Ok(Some(object.meta.e_tag))
            }
            Err(ObjectError::NotModified { .. }) => Ok(None),
            Err(ObjectError::NotFound { .. }) if seen.is_none() => Ok(None),
            Err(ObjectError::NotFound { .. }) => Err(self.marker_missing()),
            Err(error) => Err(error.into()),
        }
    }

    /// Finds a folder that is no longer the one it was, as where its disk is not mounted any more:
    /// it looks empty, but not a model was deleted, and what is written there would be lost.
    fn check_mounted(&self) -> Result<(), StoreError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let announced = self.announced.load(Ordering::Relaxed);
        // Another problem than that shows at what is done next.
        if announced && matches!(folder.join(CHANGED).try_exists(), Ok(false)) {
            return Err(self.marker_missing());
        }
        Ok(())
    }

    fn marker_missing(&self) -> StoreError {
        StoreError::new(format!(
            "the file {CHANGED} of {self} is gone; is the store still in its place?"
        ))
    }

    /// Removes from a folder what a process that was killed did not finish writing. The object
    /// store writes to `FILE#NUMBER` first, and never takes such a file for an object.
    fn remove_stale_uploads(&self) {
        let Some(folder) = &self.folder else {
            return;
        };
        let files = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = files(folder.join(MODELS)).map(|entry| entry.path());
        for file in folders.chain([folder.clone()]).flat_map(files) {
            let unfinished = is_unfinished(&file.file_name().to_string_lossy());
            let age = file.metadata().and_then(|metadata| metadata.modified());
            let age = age.map(|modified| SystemTime::now().duration_since(modified));
            if unfinished && age.is_ok_and(|age| age.is_ok_and(|age| age > STALE_UPLOAD_AGE)) {
                // It is only in the way of space.
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

/// Whether a file is one that an object is written to before it gets its name.
fn is_unfinished(file: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((object, number)) = file.rsplit_once('#') else {
        return false;
    };
    let version = object.strip_suffix(EXTENSION);
    let version = version.and_then(|object| object.strip_suffix('.'));
    digits(number) && (object == CHANGED || version.is_some_and(digits))
}

/// Makes the removal of a model's files last, and removes its folder once that is empty.
fn sync_removal(models: &std::path::Path, folder: &std::path::Path) -> std::io::Result<()> {
    let changed = match std::fs::remove_dir(folder) {
        Ok(()) => models,
        Err(_) => folder,
    };
    match open::fsync_folder(changed) {
        // Another server removed it first.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => open::fsync_folder(models),
        synced => synced,
    }
}

fn path(kind: &str, name: &ModelName, version: u64) -> Path {
    let file = format!("{version:010}.{EXTENSION}");
    Path::from_iter([kind, &name.folder(), &file])
}

/// The model and version that an object is, if it is one.
fn parse_object(object: ObjectMeta) -> Option<(ModelName, Version)> {
    let mut parts = object.location.parts();
    let (_, folder, file) = (parts.next()?, parts.next()?, parts.next()?);
    let number = file.as_ref().strip_suffix(EXTENSION)?.strip_suffix('.')?;
    let name = ModelName::from_folder(folder.as_ref())?;
    let number = number.parse().ok()?;
    // Names that are spelt otherwise are not of our making.
    let is_ours = object.location == path(MODELS, &name, number);
    is_ours.then(|| (name, Version::new(number, object.e_tag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    // They are removed, so nothing that anybody else put there may be taken for one.
    #[test]
    fn only_what_was_being_written_here_is_unfinished() {
        for file in ["changed#1", "0000000001.iforest#12"] {
            assert!(is_unfinished(file), "{file}");
        }
        for file in [
            "changed",
            "#notes#",
            "data#1.csv",
            "notes#1",
            "x.iforest#1",
            ".iforest#1",
            "0000000001.iforest",
            "0000000001.iforest#",
            "0000000001.iforest#1a",
            "changed#",
        ] {
            assert!(!is_unfinished(file), "{file}");
        }
    }
}
