//! API keys: who may do what.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::encoding;
use crate::reload::{Reload, WatchedFiles};

/// Shortest key, in bytes. In base64 these are 96 bits, which nobody guesses over a network.
const MIN_KEY_LENGTH: usize = 16;

/// Longest name of a key, in bytes. It stands in each line of the audit log.
const MAX_NAME_LENGTH: usize = 64;

/// The name that the audit log gives clients of a server without keys.
const RESERVED_NAME: &str = "open";

/// What the holder of a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Predict, and read what is known of models.
    Read,
    /// Everything.
    All,
}

/// The keys of a file, which is read again when it changes.
///
/// Each line of the file is `name role key`, with the role `read` or `all`. Blank lines and lines that
/// start with `#` are skipped.
#[derive(Debug)]
pub struct ApiKeys {
    path: PathBuf,
    keys: RwLock<KeyList>,
    /// Counts how often the file was read.
    readings: AtomicU64,
    file: Mutex<WatchedFiles<1>>,
}

/// The keys as of one reading of the file.
#[derive(Debug, Clone)]
pub(super) struct KeyList {
    keys: Arc<[Key]>,
    reading: u64,
}

/// A key file that cannot be used. It never shows a key, nor what may be one in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("API keys: {0}")]
    Read(String),
    /// The file has no key.
    #[error("{}: there is no key; each line must be NAME read KEY or NAME all KEY", .0.display())]
    Empty(PathBuf),
    /// A line is not as it must be.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

struct Key {
    name: Arc<str>,
    role: Role,
    /// Hashed, so that comparing takes as long for every length, and keys do not stay in memory.
    hash: Hash,
}

/// SHA-256. Four integers are compared in constant time faster than 32 bytes.
type Hash = [u64; 4];

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl ApiKeys {
    /// Reads a key file.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`] if it cannot be read, has no key, or has a line that cannot be used.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let (file, contents) = WatchedFiles::open([path.to_owned()]);
        let [content] = contents.map_err(KeyFileError::Read)?;
        Ok(Self {
            path: path.to_owned(),
            keys: RwLock::new(KeyList {
                keys: parse(path, &content)?.into(),
                reading: 0,
            }),
            readings: AtomicU64::new(0),
            file: Mutex::new(file),
        })
    }

    /// The number of keys.
    pub fn count(&self) -> usize {
        self.list().keys.len()
    }

    /// The keys as of now.
    pub(super) fn list(&self) -> KeyList {
        self.keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces a list if the file was read again since. Otherwise it takes no lock, which all
    /// threads would take for each request.
    pub(super) fn refresh(&self, list: &mut KeyList) {
        if list.reading != self.readings.load(Ordering::Acquire) {
            *list = self.list();
        }
    }
}

impl KeyList {
    /// Passes the name and the role of the key that a request carries to `f`.
    pub(super) fn find<T>(
        &self,
        headers: &HeaderMap,
        f: impl FnOnce(&Arc<str>, Role) -> T,
    ) -> Option<T> {
        let presented = hash(bearer(headers)?);
        // All keys are compared, each in the same time, wherever it differs.
        let found = self.keys.iter().fold(None, |found, key| {
            let equal = key.hash.ct_eq(&presented);
            if bool::from(equal) { Some(key) } else { found }
        });
        found.map(|key| f(&key.name, key.role))
    }
}

impl Reload for ApiKeys {
    fn reload(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(contents) = file.changed() else {
            return;
        };
        let parsed = contents
            .map_err(KeyFileError::Read)
            .and_then(|[content]| parse(&self.path, &content));
        match parsed {
            Ok(keys) => {
                let count = keys.len();
                let reading = self.readings.load(Ordering::Relaxed) + 1;
                let list = KeyList {
                    keys: keys.into(),
                    reading,
                };
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = list;
                self.readings.store(reading, Ordering::Release);
                tracing::info!(keys = count, "read {} again", self.path.display());
            }
            Err(error) => {
                tracing::error!("the API keys stay as they were, because the file is bad: {error}");
            }
        }
    }
}

/// The key of `Authorization: Bearer KEY`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, key) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then_some(key.trim_ascii())
}

fn hash(key: &[u8]) -> Hash {
    let digest = Sha256::digest(key);
    let (chunks, _) = digest.as_chunks();
    let mut hash = Hash::default();
    for (integer, bytes) in hash.iter_mut().zip(chunks) {
        *integer = u64::from_ne_bytes(*bytes);
    }
    hash
}

fn parse(path: &Path, content: &[u8]) -> Result<Vec<Key>, KeyFileError> {
    let error = |line, problem: String| KeyFileError::Line {
        path: path.to_owned(),
        line,
        problem,
    };
    let text = encoding::decode(content).map_err(|problem| {
        KeyFileError::Read(format!("{}: the file is {problem}", path.display()))
    })?;
    let mut keys: Vec<Key> = Vec::new();
    let mut lines: Vec<usize> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let number = i + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = parse_line(line).map_err(|problem| error(number, problem))?;
        let equal = |other: &Key| {
            if other.name == key.name {
                Some("name")
            } else if other.hash == key.hash {
                Some("key")
            } else {
                None
            }
        };
        let duplicate = keys
            .iter()
            .zip(&lines)
            .find_map(|(other, line)| Some((equal(other)?, line)));
        if let Some((what, line)) = duplicate {
            return Err(error(number, format!("line {line} has the same {what}")));
        }
        keys.push(key);
        lines.push(number);
    }
    if keys.is_empty() {
        return Err(KeyFileError::Empty(path.to_owned()));
    }
    Ok(keys)
}

fn parse_line(line: &str) -> Result<Key, String> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [name, role, key] = fields[..] else {
        return Err(format!(
            "expected three words, NAME read|all KEY, got {}",
            fields.len()
        ));
    };
    let is_name = name.len() <= MAX_NAME_LENGTH
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !is_name || name == RESERVED_NAME {
        return Err(format!(
            "the name must be 1 to {MAX_NAME_LENGTH} of A-Z, a-z, 0-9, '.', '_' and '-', start with a \
             letter or digit, and not be {RESERVED_NAME}"
        ));
    }
    let role = match role {
        "read" => Role::Read,
        "all" => Role::All,
        _ => return Err("the second word must be read or all".to_owned()),
    };
    if key.len() < MIN_KEY_LENGTH {
        return Err(format!(
            "the key must have at least {MIN_KEY_LENGTH} bytes, got {}",
            key.len()
        ));
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "the key must have only letters, digits and punctuation of ASCII, since it stands in \
             a header"
                .to_owned(),
        );
    }
    Ok(Key {
        name: name.into(),
        role,
        hash: hash(key.as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    fn problem(content: &str) -> String {
        let error = parse(Path::new("keys"), content.as_bytes()).expect_err("a bad file");
        let error = error.to_string();
        assert!(!error.contains("0123456789"), "shows a key: {error}");
        error
    }

    #[test]
    fn a_key_file_has_names_roles_and_keys() {
        let content = format!(
            "\u{feff}# plant 7\r\n\r\nnode-red read {KEY}\r\n  scada.2\tall   {KEY}~+/=\r\n"
        );
        let keys = parse(Path::new("keys"), content.as_bytes()).expect("a good file");
        let read: Vec<_> = keys.iter().map(|key| (&*key.name, key.role)).collect();
        assert_eq!(read, [("node-red", Role::Read), ("scada.2", Role::All)]);
    }

    #[test]
    fn a_bad_key_file_is_refused_with_its_line_and_without_its_keys() {
        for content in ["", "\n\n", "# a all 0123456789abcdef"] {
            assert!(
                problem(content).starts_with("keys: there is no key"),
                "{content}"
            );
        }
        for (content, expected) in [
            (
                format!("a all {KEY}\n{KEY}\n"),
                "keys, line 2: expected three words",
            ),
            (
                format!("\na all {KEY} b"),
                "keys, line 2: expected three words",
            ),
            (
                format!("a {KEY} all"),
                "keys, line 1: the second word must be read or all",
            ),
            (
                format!("a write {KEY}"),
                "keys, line 1: the second word must be read or all",
            ),
            (format!("é all {KEY}"), "keys, line 1: the name must be"),
            (
                format!("--train all {KEY}"),
                "keys, line 1: the name must be",
            ),
            (format!("open all {KEY}"), "keys, line 1: the name must be"),
            (
                format!("{} all {KEY}", "a".repeat(65)),
                "keys, line 1: the name must be",
            ),
            (
                "a all 0123456789abcde".to_owned(),
                "keys, line 1: the key must have at least 16",
            ),
            (
                format!("a all {KEY}é"),
                "keys, line 1: the key must have only",
            ),
            (
                format!("a all {KEY}\na read {KEY}x"),
                "keys, line 2: line 1 has the same name",
            ),
            (
                format!("a all {KEY}\n\nb read {KEY}"),
                "keys, line 3: line 1 has the same key",
            ),
        ] {
            let problem = problem(&content);
            assert!(problem.starts_with(expected), "{problem}");
        }
        let error = parse(Path::new("keys"), b"a all \xff").expect_err("a bad file");
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }

    #[test]
    fn a_key_is_found_in_the_authorization_header_alone() {
        let content = format!("a read {KEY}\nb all {KEY}2");
        let folder = std::env::temp_dir();
        let path = folder.join(format!("iforest-server-keys-{}", std::process::id()));
        std::fs::write(&path, &content).expect("a temporary file");
        let keys = ApiKeys::load(&path);
        std::fs::remove_file(&path).expect("it is there");
        let keys = keys.expect("a good file");
        let find = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().expect("a header"));
            }
            keys.list()
                .find(&headers, |name, role| (name.to_string(), role))
        };
        let a = Some(("a".to_owned(), Role::Read));
        assert_eq!(find(&[&format!("Bearer {KEY}")]), a);
        assert_eq!(find(&[&format!("bearer  {KEY} ")]), a);
        assert_eq!(
            find(&[&format!("Bearer {KEY}2")]),
            Some(("b".to_owned(), Role::All))
        );
        for values in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &[KEY],
            &[&format!("Basic {KEY}")],
            &[&format!("Bearer{KEY}")],
            &[&format!("Bearer {KEY}3")],
            &[&format!("Bearer {}", &KEY[1..])],
            &[&format!("Bearer {KEY}"), &format!("Bearer {KEY}")],
        ] {
            assert_eq!(find(values), None, "{values:?}");
        }
    }
}
