//! Operations on local folders that the object store crate does not offer: durable creation and
//! removal, removal of temporary files, and listing and reading a folder in which anything may lie.
//!
//! The crate lists a folder as a whole or not at all: one name that is not UTF-8, or a loop of links,
//! would hide every model. And it waits for a writer where a FIFO has the name of a version.

use std::error::Error;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::iter::successors;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::layout::{CHANGED, EXTENSION, MODELS, parse_file};
use super::name::{ModelName, Naming};
use super::version::Version;

/// Age at which a temporary file is taken to be abandoned: no write lasts that long.
const STALE_UPLOAD_AGE: Duration = Duration::from_secs(3600);

/// What a folder lists, and what else lies there: the path of each stray file, and its problem.
#[derive(Debug)]
pub(super) struct Listing<T> {
    pub(super) found: Vec<T>,
    pub(super) strays: Vec<(PathBuf, String)>,
}

/// Lists the versions of all models of a store.
pub(super) fn list(store: &Path) -> io::Result<Listing<(ModelName, Vec<Version>)>> {
    let mut listing = Listing {
        found: Vec::new(),
        strays: Vec::new(),
    };
    for path in entries(&store.join(MODELS))? {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| ModelName::from_folder(name, Naming::LOCAL)) else {
            let problem = "no model has a folder of this name".to_owned();
            listing.strays.push((path, problem));
            continue;
        };
        match list_versions(&path) {
            Ok(versions) => {
                listing.strays.extend(versions.strays);
                if !versions.found.is_empty() {
                    listing.found.push((name, versions.found));
                }
            }
            Err(error) => listing.strays.push((path, error.to_string())),
        }
    }
    Ok(listing)
}

/// The names of all models of a store, whether or not their folders can be listed.
pub(super) fn names(store: &Path) -> io::Result<Vec<ModelName>> {
    let paths = entries(&store.join(MODELS))?.into_iter();
    let name = |path: PathBuf| ModelName::from_folder(path.file_name()?.to_str()?, Naming::LOCAL);
    Ok(paths.filter_map(name).collect())
}

/// Lists the versions in the folder of a model.
pub(super) fn list_versions(folder: &Path) -> io::Result<Listing<Version>> {
    let mut listing = Listing {
        found: Vec::new(),
        strays: Vec::new(),
    };
    for path in entries(folder)? {
        let file = path.file_name().and_then(|file| file.to_str());
        let Some(number) = file.and_then(parse_file) else {
            if !file.is_some_and(is_upload) {
                let problem = "no version of a model has a file of this name".to_owned();
                listing.strays.push((path, problem));
            }
            continue;
        };
        match regular_file(&path) {
            Ok(metadata) => {
                let version = Version::new(number, Some(e_tag(&metadata)));
                listing.found.push(version);
            }
            // Another server removed it since.
            Err(error) if is_missing(&path, &error) => {}
            Err(error) => listing.strays.push((path, error.to_string())),
        }
    }
    Ok(listing)
}

/// The paths in a folder; none if it is missing.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Err(error) if is_missing(folder, &error) => Ok(Vec::new()),
        entries => entries?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect(),
    }
}

/// Whether a path is missing, rather than a link to a path that is.
fn is_missing(path: &Path, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err()
}

/// The ETag of a file: it differs from that of any other file at the same path.
pub(super) fn e_tag(metadata: &Metadata) -> String {
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(metadata);
    #[cfg(not(unix))]
    let inode = 0;
    let modified = metadata.modified().ok();
    let since_epoch = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let nanos = since_epoch.unwrap_or_default().as_nanos();
    format!("{inode:x}-{nanos:x}-{:x}", metadata.len())
}

/// The metadata of a regular file, or of the one that a link leads to.
pub(super) fn regular_file(path: &Path) -> io::Result<Metadata> {
    check_regular(std::fs::metadata(path)?)
}

fn check_regular(metadata: Metadata) -> io::Result<Metadata> {
    if metadata.is_file() {
        Ok(metadata)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Opens a regular file for reading. Never waits, as opening a FIFO does, and opens no device.
pub(super) fn open_file(path: &Path) -> io::Result<(File, Metadata)> {
    regular_file(path)?;
    let mut options = File::options();
    options.read(true);
    // The file may have been replaced since.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        nix::fcntl::OFlag::O_NONBLOCK.bits(),
    );
    let file = options.open(path)?;
    let metadata = check_regular(file.metadata()?)?;
    Ok((file, metadata))
}

/// Reads the first `length` bytes of a file.
pub(super) fn read(file: File, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether users other than the owner and the group may look into a folder.
pub(super) fn is_open_to_others(folder: &Path) -> bool {
    #[cfg(unix)]
    {
        const OTHERS: u32 = 0o007;
        std::fs::metadata(folder)
            .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::mode(&metadata) & OTHERS != 0)
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        false
    }
}

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

/// Whether a failed write says that the file system has no hard links, such as FAT.
pub(super) fn lacks_hard_links(error: &(dyn Error + 'static)) -> bool {
    // EPERM of Unix, and ERROR_INVALID_FUNCTION of Windows. A write without rights gets others.
    const NOT_PERMITTED: i32 = 1;
    successors(Some(error), |&cause| cause.source()).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| {
            error.kind() == io::ErrorKind::Unsupported
                || error.raw_os_error() == Some(NOT_PERMITTED)
        })
    })
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
        File::open(folder)?.sync_all()?;
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

    #[test]
    fn a_file_system_without_hard_links_is_recognised() {
        let lacks = |error: io::Error| {
            let source = Box::new(error);
            lacks_hard_links(&object_store::Error::Generic { store: "", source })
        };
        assert!(lacks(io::Error::from_raw_os_error(1)));
        assert!(lacks(io::ErrorKind::Unsupported.into()));
        for kind in [
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::StorageFull,
            io::ErrorKind::ReadOnlyFilesystem,
        ] {
            assert!(!lacks(kind.into()), "{kind}");
        }
    }

    // A clock that starts in 1970, or jumps ahead and back, leaves such files.
    #[test]
    fn files_from_before_1970_and_from_the_future_are_handled() {
        let folder = std::env::temp_dir().join(format!("iforest-clock-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let year = Duration::from_secs(365 * 24 * 3600);
        for (time, is_removed) in [
            (SystemTime::UNIX_EPOCH - 10 * year, true),
            (SystemTime::UNIX_EPOCH, true),
            (SystemTime::now(), false),
            (SystemTime::now() + 30 * year, false),
        ] {
            let path = folder.join("changed#1");
            let file = File::create(&path).expect("a file");
            file.set_modified(time).expect("the file's time");
            assert!(e_tag(&file.metadata().expect("its metadata")).ends_with("-0"));
            // Windows may keep a removed file until it is closed.
            drop(file);
            remove_stale_uploads(&folder);
            assert_eq!(!path.exists(), is_removed, "{time:?}");
        }
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
