//! Opens the store that a location names: a folder, memory or an object store.

use std::borrow::Cow;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreScheme};
use url::Url;

use super::error::StoreError;
use super::folder;

/// What a store may be.
pub(super) const EXPECTED_LOCATION: &str =
    "a store is a folder, memory:, s3://bucket/path, az://container/path or gs://bucket/path";

/// The kinds of stores.
pub(super) enum Backend {
    Memory,
    Folder(PathBuf, Arc<dyn ObjectStore>),
    Remote(Arc<dyn ObjectStore>),
}

/// How to open a folder that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Create,
    Refuse,
}

/// Opens `memory:`, a URL or a folder.
pub(super) fn open(location: &str, missing: Missing) -> Result<Backend, StoreError> {
    match locate(location)? {
        Place::Memory => Ok(Backend::Memory),
        Place::Folder(path) => open_folder(&path, missing),
        Place::Remote(objects) => Ok(Backend::Remote(objects)),
    }
}

/// Checks what [`open`] needs, without a change or a request.
pub(super) fn check(location: &str) -> Result<(), StoreError> {
    match locate(location)? {
        Place::Folder(path) => check_folder(&path),
        Place::Memory | Place::Remote(_) => Ok(()),
    }
}

fn check_folder(path: &FilePath) -> Result<(), StoreError> {
    // A folder that is missing is created in the nearest one that is there.
    let existing = path.ancestors().find_map(|path| {
        let path = if path.as_os_str().is_empty() {
            FilePath::new(".")
        } else {
            path
        };
        path.metadata().ok().map(|found| (path, found))
    });
    match existing {
        Some((path, found)) if !found.is_dir() => {
            let problem = format!("{} is not a folder", path.display());
            Err(StoreError::new(problem))
        }
        _ => Ok(()),
    }
}

/// A location as messages show it: its user name, password and query, which may be secret, are hidden.
pub fn without_secrets(location: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = location.split_once("://") else {
        return Cow::Borrowed(location);
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, _)) => (path, "?***"),
        None => (rest, ""),
    };
    // A location that is no URL may have a slash in the password.
    let user = match Url::parse(location) {
        Ok(_) => path.split('/').next().unwrap_or_default().rfind('@'),
        Err(_) => path.rfind('@'),
    };
    match user {
        Some(end) => Cow::Owned(format!("{scheme}://***{}{query}", &path[end..])),
        None if query.is_empty() => Cow::Borrowed(location),
        None => Cow::Owned(format!("{scheme}://{path}{query}")),
    }
}

/// Where a store is.
enum Place {
    Memory,
    Folder(PathBuf),
    Remote(Arc<dyn ObjectStore>),
}

fn locate(location: &str) -> Result<Place, StoreError> {
    if location.trim_end_matches('/') == "memory:" {
        return Ok(Place::Memory);
    }
    // A scheme of one letter is a Windows drive.
    let scheme = location.split_once(':').map_or("", |(scheme, _)| scheme);
    let is_url = scheme.len() > 1
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '+');
    if !is_url {
        return Ok(Place::Folder(location.into()));
    }
    let url = Url::parse(location).map_err(StoreError::new)?;
    let (scheme, prefix) =
        ObjectStoreScheme::parse(&url).map_err(|_| StoreError::new(EXPECTED_LOCATION))?;
    if scheme == ObjectStoreScheme::Local {
        let path = url
            .to_file_path()
            .map_err(|()| StoreError::new("the URL does not name a local folder"))?;
        return Ok(Place::Folder(path));
    }
    super::cloud::open(location, scheme, prefix).map(Place::Remote)
}

fn open_folder(path: &FilePath, missing: Missing) -> Result<Backend, StoreError> {
    check_folder(path)?;
    if missing == Missing::Create {
        folder::create(path).map_err(StoreError::new)?;
    }
    // In its canonical form, a path of Windows begins with `\\?\`, which no user writes.
    let path = if cfg!(windows) {
        std::path::absolute(path)
    } else {
        path.canonicalize()
    };
    let path = path.map_err(StoreError::new)?;
    let objects = LocalFileSystem::new_with_prefix(&path).map_err(StoreError::new)?;
    Ok(Backend::Folder(path, Arc::new(objects.with_fsync(true))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_passwords_and_queries_are_hidden() {
        for (location, expected) in [
            ("./iforest-models", "./iforest-models"),
            ("memory:", "memory:"),
            ("s3://bucket/plant@north", "s3://bucket/plant@north"),
            ("s3://key:secret@bucket/path", "s3://***@bucket/path"),
            ("https://token@host:9000/a@b", "https://***@host:9000/a@b"),
            ("https://user:se@cret@host/", "https://***@host/"),
            ("https://user:se/cret@host/", "https://***@host/"),
            ("az://container/path?sig=secret", "az://container/path?***"),
            (
                "https://u:secret@host/p?sig=secret",
                "https://***@host/p?***",
            ),
        ] {
            assert_eq!(without_secrets(location), expected);
        }
    }
}
