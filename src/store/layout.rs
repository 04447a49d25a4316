//! The paths of objects in a store.

use object_store::ObjectMeta;
use object_store::path::Path;

use super::name::{ModelName, Naming};
use super::version::Version;

/// Prefix of the versions that can be served.
pub(super) const MODELS: &str = "models";

/// Prefix of the damaged versions.
pub(super) const QUARANTINE: &str = "set-aside";

/// The object that is rewritten after every change.
pub(super) const CHANGED: &str = "changed";

/// Extension of a version's file.
pub(super) const EXTENSION: &str = "iforest";

/// The greatest number of a version.
pub(super) const MAX_VERSION: u64 = 10_u64.pow(VERSION_DIGITS as u32) - 1;

/// Digits of a version's number in the name of its file, so that files sort by version.
const VERSION_DIGITS: usize = 10;

/// The path of a version below [`MODELS`] or [`QUARANTINE`].
pub(super) fn version_path(prefix: &str, name: &ModelName, version: u64, naming: Naming) -> Path {
    let file = format!("{version:0VERSION_DIGITS$}.{EXTENSION}");
    Path::from_iter([prefix, &name.folder(naming), &file])
}

/// The version stored in a file of this name; `None` for a foreign file, among which are those with
/// more or fewer digits.
pub(super) fn parse_file(file: &str) -> Option<u64> {
    let number = file.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    let is_number = number.len() == VERSION_DIGITS && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| number.parse().ok())?
}

/// The model and version stored in an object below [`MODELS`], which is not a local file; `None` for a
/// foreign object.
pub(super) fn parse_object(object: &ObjectMeta) -> Option<(ModelName, Version)> {
    let mut parts = object.location.parts();
    let (_, folder, file) = (parts.next()?, parts.next()?, parts.next()?);
    let name = ModelName::from_folder(folder.as_ref(), Naming::Free)?;
    let number = parse_file(file.as_ref())?;
    let is_version = parts.next().is_none();
    is_version.then(|| (name, Version::new(number, object.e_tag.clone())))
}
