//! Files that are read again when they change: API keys and certificates.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// Largest file, in bytes. Ten thousand keys, a long chain of certificates or all settings take less.
const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// Settings that stand in files.
pub trait Reload: Send + Sync {
    /// Reads the files again if they changed. Files that cannot be used are logged, and the settings
    /// stay as they are.
    fn reload(&self);
}

/// Looks at the files every ten seconds, on a thread of its own, while the program runs.
///
/// # Errors
///
/// An I/O error of starting the thread.
pub fn watch(settings: Vec<Arc<dyn Reload>>) -> io::Result<()> {
    if settings.is_empty() {
        return Ok(());
    }
    thread::Builder::new()
        .name("reload".to_owned())
        .spawn(move || {
            loop {
                thread::sleep(INTERVAL);
                for setting in &settings {
                    setting.reload();
                }
            }
        })?;
    Ok(())
}

/// Files, and what they held when they were last read.
#[derive(Debug)]
pub(crate) struct WatchedFiles<const N: usize> {
    paths: [PathBuf; N],
    /// A hash of the contents, since keys should not stay in memory; or the error.
    seen: Result<Vec<u8>, String>,
}

impl<const N: usize> WatchedFiles<N> {
    /// Reads files for the first time.
    pub(crate) fn open(paths: [PathBuf; N]) -> (Self, Result<[Vec<u8>; N], String>) {
        let contents = read_all(&paths);
        let seen = hash(&contents);
        (Self { paths, seen }, contents)
    }

    /// Their contents, or why they cannot be read, if that changed since the last call.
    pub(crate) fn changed(&mut self) -> Option<Result<[Vec<u8>; N], String>> {
        // Reading a pipe again would block or find nothing.
        let is_pipe = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| !file.is_file());
        if self.paths.iter().any(is_pipe) {
            return None;
        }
        // The contents are compared: a file can be replaced within a time stamp's resolution.
        let contents = read_all(&self.paths);
        let now = hash(&contents);
        if now == self.seen {
            return None;
        }
        self.seen = now;
        Some(contents)
    }
}

fn read_all<const N: usize>(paths: &[PathBuf; N]) -> Result<[Vec<u8>; N], String> {
    let mut contents = [const { Vec::new() }; N];
    for (path, content) in paths.iter().zip(&mut contents) {
        *content =
            read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    }
    Ok(contents)
}

/// Reads a file of settings, of at most 1 MiB.
///
/// # Errors
///
/// An I/O error where the file cannot be read or is larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE_SIZE {
        let message = format!("it is larger than {MAX_FILE_SIZE} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(content)
}

fn hash<const N: usize>(contents: &Result<[Vec<u8>; N], String>) -> Result<Vec<u8>, String> {
    let contents = contents.as_ref().map_err(Clone::clone)?;
    Ok(contents.iter().flat_map(Sha256::digest).collect())
}
