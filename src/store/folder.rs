//! Operations on local folders that the object store crate does not offer: durable creation and
//! removal, and removal of temporary files.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::layout::{CHANGED, EXTENSION, MODELS};

/// Age at which a temporary file is taken to be abandoned: no write lasts that long.
const STALE_UPLOAD_AGE: Duration = Duration::from_secs(3600);

/// Creates a folder and its missing parents, so that they survive a power cut.
pub(super) fn create(path: &Path) -> io::Result<()> {
    let missing: Vec<_> = path
        .ancestors()
        .take_while(|path| !path.exists())
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    std::fs::create_dir_all(path)?;
    for folder in missing {
        match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => fsync(parent)?,
            _ => fsync(Path::new("."))?,
        }
    }
    Ok(())
}

/// Makes the removal of a model's files durable, and removes its folder if it is empty.
pub(super) fn sync_removal(models: &Path, folder: &Path) -> io::Result<()> {
    let changed = match std::fs::remove_dir(folder) {
        Ok(()) => models,
        Err(_) => folder,
    };
    match fsync(changed) {
        // Another server removed the folder first.
        Err(error) if error.kind() == io::ErrorKind::NotFound => fsync(models),
        result => result,
    }
}

/// Fsyncs a folder; no-op off Unix.
fn fsync(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Removes the temporary files of a process that was killed while it wrote. `LocalFileSystem`
/// writes an object to `FILE#NUMBER` before it renames it, and never lists such a file.
pub(super) fn remove_stale_uploads(store: &Path) {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let model_folders = entries(store.join(MODELS)).map(|entry| entry.path());
    for file in model_folders.chain([store.to_owned()]).flat_map(entries) {
        let is_stale = file
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| {
                SystemTime::now()
                    .duration_since(modified)
                    .is_ok_and(|age| age > STALE_UPLOAD_AGE)
            });
        if is_stale && is_upload(&file.file_name().to_string_lossy()) {
            // On failure the file only takes space.
            let _ = std::fs::remove_file(file.path());
        }
    }
}

/// Whether a file name is that of a temporary file of an object of this store.
fn is_upload(file: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((object, suffix)) = file.rsplit_once('#') else {
        return false;
    };
    let version = object
        .strip_suffix(EXTENSION)
        .and_then(|object| object.strip_suffix('.'));
    is_number(suffix) && (object == CHANGED || version.is_some_and(is_number))
}

#[cfg(test)]
mod tests {
    use super::*;

    // These files are removed, so no file of another program may match.
    #[test]
    fn only_temporary_files_of_this_store_are_uploads() {
        for file in ["changed#1", "0000000001.iforest#12"] {
            assert!(is_upload(file), "{file}");
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
            assert!(!is_upload(file), "{file}");
        }
    }
}
