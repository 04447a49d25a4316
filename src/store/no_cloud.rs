//! In place of `cloud`, in a program without the feature of this name.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreScheme};

use super::error::StoreError;
use super::open::EXPECTED_LOCATION;

pub(super) fn open(
    _location: &str,
    scheme: ObjectStoreScheme,
    _prefix: Path,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    Err(StoreError::new(match scheme {
        ObjectStoreScheme::AmazonS3
        | ObjectStoreScheme::MicrosoftAzure
        | ObjectStoreScheme::GoogleCloudStorage => {
            "this program is built without stores in the cloud; use a folder or memory:, or a \
             program that is built with the feature \"cloud\""
        }
        _ => EXPECTED_LOCATION,
    }))
}
