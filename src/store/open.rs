//! From what `--store` says to an object store.

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
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one request may take.
const REQUEST: &str = "8 seconds";

/// How long a connection may take to come about.
const CONNECT: &str = "3 seconds";

/// What a store is.
pub(super) enum Opened {
    Memory,
    Folder(PathBuf, Arc<dyn ObjectStore>),
    Remote(Arc<dyn ObjectStore>),
}

/// Opens `memory:`, a URL, or else the folder of that name, which is made if it is missing.
pub(super) fn open(location: &str) -> Result<Opened, StoreError> {
    if location.trim_end_matches('/') == "memory:" {
        return Ok(Opened::Memory);
    }
    if !location.contains("://") {
        return open_folder(FilePath::new(location));
    }
    let url = Url::parse(location).map_err(StoreError::new)?;
    let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(StoreError::new)?;
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
        retry_timeout: PATIENCE,
        ..RetryConfig::default()
    };
    // The builders have no trait in common.
    macro_rules! build {
        ($builder:ty, $key:ty) => {
            <$builder>::from_env()
                .with_url(location)
                .with_retry(retry)
                .with_config(<$key>::Client(ClientConfigKey::Timeout), REQUEST)
                .with_config(<$key>::Client(ClientConfigKey::ConnectTimeout), CONNECT)
                .build()
                .map(|store| under(prefix, store))
        };
    }
    let objects = match scheme {
        ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder, AmazonS3ConfigKey),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder, AzureConfigKey),
        ObjectStoreScheme::GoogleCloudStorage => {
            build!(GoogleCloudStorageBuilder, GoogleConfigKey)
        }
        _ => {
            return Err(StoreError::new(
                "a store is a folder, memory:, s3://, az:// or gs://",
            ));
        }
    };
    Ok(Opened::Remote(objects.map_err(StoreError::new)?))
}

fn under(prefix: Path, store: impl ObjectStore) -> Arc<dyn ObjectStore> {
    if prefix.as_ref().is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, prefix))
    }
}

fn open_folder(path: &FilePath) -> Result<Opened, StoreError> {
    std::fs::create_dir_all(path).map_err(StoreError::new)?;
    let path = path.canonicalize().map_err(StoreError::new)?;
    let objects = LocalFileSystem::new_with_prefix(&path).map_err(StoreError::new)?;
    Ok(Opened::Folder(path, Arc::new(objects.with_fsync(true))))
}
