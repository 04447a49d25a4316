//! Temporary folders, and the documented layout of a store.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A new folder, removed with all its contents when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("iforest-server-test-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The path as an argument on a command line.
    pub(crate) fn text(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }

    /// A path beside the folder, to move it away for a while.
    pub(crate) fn away(&self) -> PathBuf {
        self.0.with_extension("away")
    }

    /// Writes a file in this folder; returns its path as an argument on a command line.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        write(&path, content.as_ref());
        path.to_str().expect("a path in UTF-8").to_owned()
    }

    /// The file of a version of a model, where this folder is a store.
    pub(crate) fn version(&self, model: &str, version: u64) -> PathBuf {
        self.0.join(version_path("models", model, version))
    }

    /// The names of the files of all versions of a model, where this folder is a store.
    pub(crate) fn files(&self, model: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join("models").join(model));
        let entries = entries.into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_dir_all(self.0.with_extension("away"));
    }
}

/// The path of a version in a store. `kind` is `models` or `set-aside`.
pub(crate) fn version_path(kind: &str, model: &str, version: u64) -> String {
    format!("{kind}/{model}/{version:010}.iforest")
}

/// Writes a file and creates the folders above it.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    let parent = path.parent().expect("a folder");
    std::fs::create_dir_all(parent).expect("the folder can be created");
    std::fs::write(path, bytes).expect("the file can be written");
}
