//! From what `--store` says to an object store.

use std::io;
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

use super::StoreError;

/// Who asks for a retrain waits for the store, so it must not take minutes to give up.
const STORE_RETRY_TIMEOUT: Duration = Duration::from_secs(15);

/// How long one request may take, where the environment does not say.
const REQUEST_TIMEOUT: &str = "20 seconds";

/// How long a connection may take to come about, where the environment does not say.
const CONNECT_TIMEOUT: &str = "3 seconds";

const EXPECTED_LOCATION: &str =
    "a store is a folder, memory:, s3://bucket/path, az://container/path or gs://bucket/path";

/// What a store is.
pub(super) enum Backend {
    Memory,
    Folder(PathBuf, Arc<dyn ObjectStore>),
    Remote(Arc<dyn ObjectStore>),
}

/// Opens `memory:`, a URL, or else the folder of that name, which is made if it is missing.
pub(super) fn open(location: &str) -> Result<Backend, StoreError> {
    if location.trim_end_matches('/') == "memory:" {
        return Ok(Backend::Memory);
    }
    // A scheme of one letter is a drive.
    let scheme = location.split_once(':').map_or("", |(scheme, _)| scheme);
    let is_url = scheme.len() > 1
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '+');
    if !is_url {
        return open_folder(FilePath::new(location));
    }
    let url = Url::parse(location).map_err(StoreError::new)?;
    let (scheme, prefix) =
        ObjectStoreScheme::parse(&url).map_err(|_| StoreError::new(EXPECTED_LOCATION))?;
    if scheme == ObjectStoreScheme::Local {
        let path = url.to_file_path();
        let path =
            path.map_err(|()| StoreError::new("this URL names no folder of this machine"))?;
        return open_folder(&path);
    }
    // Settled once for the process; a second time changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig {
        max_retries: 3,
        retry_timeout: STORE_RETRY_TIMEOUT,
        ..RetryConfig::default()
    };
    // The builders have no trait in common.
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
    Ok(Backend::Remote(objects.map_err(StoreError::new)?))
}

fn with_prefix(prefix: Path, store: impl ObjectStore) -> Arc<dyn ObjectStore> {
    if prefix.as_ref().is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, prefix))
    }
}

fn open_folder(path: &FilePath) -> Result<Backend, StoreError> {
    create_folder(path).map_err(StoreError::new)?;
    let path = path.canonicalize().map_err(StoreError::new)?;
    let objects = LocalFileSystem::new_with_prefix(&path).map_err(StoreError::new)?;
    Ok(Backend::Folder(path, Arc::new(objects.with_fsync(true))))
}

/// Makes a folder and those above it, so that they are there after a power cut too.
fn create_folder(path: &FilePath) -> io::Result<()> {
    let missing = path.ancestors().take_while(|path| !path.exists());
    let missing: Vec<_> = missing
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    std::fs::create_dir_all(path)?;
    for folder in missing {
        match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => fsync_folder(parent)?,
            _ => fsync_folder(FilePath::new("."))?,
        }
    }
    Ok(())
}

/// Makes what was made or removed in a folder last. Only Unix can.
pub(super) fn fsync_folder(folder: &FilePath) -> io::Result<()> {
    if cfg!(unix) {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}
