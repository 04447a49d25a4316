//! Stores a model as its next version.

use super::error::ChangeError;
use super::limits::MAX_VERSION_ATTEMPTS;
use crate::store::{self, ModelName, Record, Store, StoreError, Version, WriteOutcome};

pub(super) fn encode(record: &Record) -> Result<Vec<u8>, ChangeError> {
    Ok(store::encode(record).map_err(StoreError::new)?)
}

/// Stores a model under the number after the newest stored version, which may be newer than the
/// served one: a version with a lower number would never be served again.
pub(super) async fn store_next(
    store: &Store,
    name: &ModelName,
    bytes: &[u8],
) -> Result<Version, StoreError> {
    let mut number = 0;
    for _ in 0..MAX_VERSION_ATTEMPTS {
        let versions = store.versions(name).await?;
        let newest = versions.last().map_or(0, |version| version.number);
        // A number that was tried may be taken by something that is not a version, such as a folder.
        number = newest.max(number).saturating_add(1);
        match store.write(name, number, bytes).await? {
            WriteOutcome::Stored(version) => return Ok(version),
            WriteOutcome::AlreadyExists => tracing::info!(
                model = %name,
                version = number,
                "version already exists; retrying with the next number"
            ),
        }
    }
    Err(StoreError::new(format!(
        "{MAX_VERSION_ATTEMPTS} numbers in a row are taken by other servers or by stray files"
    )))
}
