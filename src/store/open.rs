//! Opens the store that a location names: a folder, memory or an object store.

use std::borrow::Cow;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use super::error::StoreError;
use super::folder;

/// How long a failed request is retried. A client waits for its retrain, so the store must give up
/// within seconds.
const STORE_RETRY_TIMEOUT: Duration = Duration::from_secs(15);

/// Timeout of a request, unless the environment sets one.
const REQUEST_TIMEOUT: &str = "20 seconds";

/// Timeout of connecting, unless the environment sets one.
const CONNECT_TIMEOUT: &str = "3 seconds";

const EXPECTED_LOCATION: &str =
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
    // Fails if the process already has a provider, which is then used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig {
        max_retries: 3,
        retry_timeout: STORE_RETRY_TIMEOUT,
        ..RetryConfig::default()
    };
    // The builders share no trait.
    macro_rules! build {
        ($builder:ty, $key:ty) => {{
            let mut builder = <$builder>::from_env().with_url(location).with_retry(retry);
            for (key, value) in [
                (ClientConfigKey::Timeout, REQUEST_TIMEOUT),
                (ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT),
            ] {
                let key = <$key>::Client(key);
                if builder.get_config_value(&key).is_none() {
                    builder = builder.with_config(key, value);
                }
            }
            builder.build().map(|store| with_prefix(prefix, store))
        }};
    }
    let objects = match scheme {
        ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder, AmazonS3ConfigKey),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder, AzureConfigKey),
        ObjectStoreScheme::GoogleCloudStorage => {
            build!(GoogleCloudStorageBuilder, GoogleConfigKey)
        }
        _ => return Err(StoreError::new(EXPECTED_LOCATION)),
    };
    Ok(Place::Remote(objects.map_err(StoreError::new)?))
}

fn with_prefix(prefix: Path, store: impl ObjectStore) -> Arc<dyn ObjectStore> {
    if prefix.as_ref().is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, prefix))
    }
}

fn open_folder(path: &FilePath, missing: Missing) -> Result<Backend, StoreError> {
    check_folder(path)?;
    if missing == Missing::Create {
        folder::create(path).map_err(StoreError::new)?;
    }
    let path = path.canonicalize().map_err(StoreError::new)?;
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
