//! The paths of objects in a store.

use object_store::ObjectMeta;
use object_store::path::Path;

use super::name::ModelName;
use super::version::Version;

/// Prefix of the versions that can be served.
pub(super) const MODELS: &str = "models";

/// Prefix of the damaged versions.
pub(super) const QUARANTINE: &str = "set-aside";

/// The object that is rewritten after every change.
pub(super) const CHANGED: &str = "changed";

/// Extension of a version's file.
pub(super) const EXTENSION: &str = "iforest";

/// The path of a version below [`MODELS`] or [`QUARANTINE`].
pub(super) fn version_path(prefix: &str, name: &ModelName, version: u64) -> Path {
    let file = format!("{version:010}.{EXTENSION}");
    Path::from_iter([prefix, &name.folder(), &file])
}

/// The model and version stored in an object below [`MODELS`]; `None` for a foreign object.
pub(super) fn parse_object(object: ObjectMeta) -> Option<(ModelName, Version)> {
    let mut parts = object.location.parts();
    let (_, folder, file) = (parts.next()?, parts.next()?, parts.next()?);
    let name = ModelName::from_folder(folder.as_ref())?;
    let number = file
        .as_ref()
        .strip_suffix(EXTENSION)?
        .strip_suffix('.')?
        .parse()
        .ok()?;
    // Another spelling, such as one with fewer digits, is not written by this program.
    let is_canonical = object.location == version_path(MODELS, &name, number);
    is_canonical.then(|| (name, Version::new(number, object.e_tag)))
}
