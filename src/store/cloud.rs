//! Object stores in the cloud.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig};

use super::error::StoreError;
use super::open::EXPECTED_LOCATION;

/// How long a failed request is retried. A client waits for its retrain, so the store must give up
/// within seconds.
const STORE_RETRY_TIMEOUT: Duration = Duration::from_secs(15);

/// Timeout of a request, unless the environment sets one.
const REQUEST_TIMEOUT: &str = "20 seconds";

/// Timeout of connecting, unless the environment sets one.
const CONNECT_TIMEOUT: &str = "3 seconds";

/// Opens the store at a URL, which consists of a scheme, a bucket and `prefix`.
pub(super) fn open(
    location: &str,
    scheme: ObjectStoreScheme,
    prefix: Path,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
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
    objects.map_err(StoreError::new)
}

fn with_prefix(prefix: Path, store: impl ObjectStore) -> Arc<dyn ObjectStore> {
    if prefix.as_ref().is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, prefix))
    }
}
