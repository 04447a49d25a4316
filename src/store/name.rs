//! Names of models, and the folders they are stored in.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::excerpt::excerpt;

/// The longest name, in characters: each has a bit in the `u128` of [`ModelName::folder`].
const MAX_NAME_LENGTH: usize = 128;

/// The name of a model, suited to levels of MQTT topics: 1 to 128 ASCII letters, digits, dots,
/// underscores and hyphens; not `.` or `..`, which web clients remove from paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(Arc<str>);

/// Where folders are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// In an object store, or on a system other than Windows.
    Free,
    /// On Windows, where the names of devices name no folder, not even with an extension: `aux`,
    /// `aux.1`.
    Windows,
}

impl Naming {
    /// On this machine.
    pub(super) const LOCAL: Self = if cfg!(windows) {
        Self::Windows
    } else {
        Self::Free
    };
}

/// A text that is not a valid name of a model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "a model's name must be 1 to {MAX_NAME_LENGTH} characters from A-Z, a-z, 0-9, '.', '_' and '-', and \
     not '.' or '..', got {:?}",
    excerpt(.0)
)]
pub struct NameError(String);

impl ModelName {
    /// The model that /predict and /retrain use.
    pub const DEFAULT: &str = "default";

    /// The name [`DEFAULT`](Self::DEFAULT).
    pub fn default_model() -> Self {
        Self(Self::DEFAULT.into())
    }

    /// Whether it is [`DEFAULT`](Self::DEFAULT).
    pub fn is_default(&self) -> bool {
        &*self.0 == Self::DEFAULT
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its folder. Some file systems ignore case and drop a trailing dot, so a name with
    /// capitals or a trailing dot is written in lower case, followed by a bit mask of its capitals. On
    /// Windows, `=` precedes the name of a device.
    pub(super) fn folder(&self, naming: Naming) -> String {
        let capitals = self.0.bytes().rev().fold(0u128, |bits, byte| {
            (bits << 1) | u128::from(byte.is_ascii_uppercase())
        });
        let folder = if capitals == 0 && !self.0.ends_with('.') {
            self.0.to_string()
        } else {
            format!("{}={capitals:x}", self.0.to_ascii_lowercase())
        };
        if naming == Naming::Windows && is_device(&folder) {
            return format!("={folder}");
        }
        folder
    }

    /// The inverse of [`folder`](Self::folder); `None` for any other folder.
    pub(super) fn from_folder(folder: &str, naming: Naming) -> Option<Self> {
        let spelled = folder.strip_prefix('=').unwrap_or(folder);
        let (lower, capitals) = spelled.split_once('=').unwrap_or((spelled, "0"));
        let capitals = u128::from_str_radix(capitals, 16).ok()?;
        let letters = lower.chars().enumerate().map(|(i, c)| {
            let is_capital = i < MAX_NAME_LENGTH && (capitals >> i) & 1 == 1;
            if is_capital {
                c.to_ascii_uppercase()
            } else {
                c
            }
        });
        let name: Self = letters.collect::<String>().parse().ok()?;
        // Another spelling, such as one with leading zeros, is not written by this program.
        (name.folder(naming) == folder).then_some(name)
    }
}

/// Whether Windows takes the name of a folder, in lower case, for that of a device.
fn is_device(folder: &str) -> bool {
    let stem = folder.split('.').next().unwrap_or_default();
    let numbered = stem
        .strip_prefix("com")
        .or_else(|| stem.strip_prefix("lpt"));
    matches!(stem, "aux" | "con" | "nul" | "prn")
        || numbered.is_some_and(|n| matches!(n.as_bytes(), [b'0'..=b'9']))
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_relative_path = matches!(name, "." | "..");
        let has_valid_length = (1..=MAX_NAME_LENGTH).contains(&name.len());
        if has_valid_length && name.chars().all(is_allowed) && !is_relative_path {
            Ok(Self(name.into()))
        } else {
            Err(NameError(name.to_owned()))
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // On any file system, no two names may share a folder, and no name may escape the store.
    #[test]
    fn folders_differ_without_case_and_map_back_to_the_name() {
        let names = [
            "motor",
            "Motor",
            "MOTOR",
            "mOTOR",
            "m.1",
            "...",
            ".a",
            ".A",
            "a.",
            "-",
            "_",
            "0",
            "A0",
            "aux",
            "AUX",
            "aux.1",
            "aux.",
            &"X".repeat(128),
            &"x".repeat(128),
        ];
        for naming in [Naming::Free, Naming::Windows] {
            let mut folders = Vec::new();
            for name in names {
                let name: ModelName = name.parse().expect("a good name");
                let folder = name.folder(naming);
                assert_eq!(ModelName::from_folder(&folder, naming), Some(name));
                assert!(!folder.ends_with('.') && folder.len() <= 255, "{folder}");
                folders.push(folder.to_lowercase());
            }
            folders.sort();
            folders.dedup();
            assert_eq!(folders.len(), names.len());
        }
        for folder in [
            "",
            "Motor",
            "=",
            "=1",
            "a b",
            ".",
            "..",
            "..=0",
            "motor=0",
            "motor=01",
            "motor=1=1",
            "m=2",
            "=motor",
            "==motor",
        ] {
            for naming in [Naming::Free, Naming::Windows] {
                assert_eq!(ModelName::from_folder(folder, naming), None, "{folder:?}");
            }
        }
    }

    // Windows cannot create a folder `aux`. Elsewhere stores keep the folders that they have.
    #[test]
    fn devices_of_windows_get_folders_there() {
        for (name, folder) in [
            ("con", "=con"),
            ("NUL", "nul=7"),
            ("aux.", "=aux.=0"),
            ("aux.pump-1", "=aux.pump-1"),
            ("Aux.1", "=aux.1=1"),
            ("prn", "=prn"),
            ("com1", "=com1"),
            ("lpt9.a.b", "=lpt9.a.b"),
            ("com10", "com10"),
            ("com", "com"),
            ("conveyor", "conveyor"),
            ("line.aux", "line.aux"),
            ("default", "default"),
        ] {
            let name: ModelName = name.parse().expect("a good name");
            assert_eq!(name.folder(Naming::Windows), folder);
            assert_eq!(name.folder(Naming::Free), folder.trim_start_matches('='));
            let read = ModelName::from_folder(folder, Naming::Windows);
            assert_eq!(read, Some(name));
        }
        for folder in ["aux", "aux.1", "=motor", "=nul=7"] {
            assert_eq!(
                ModelName::from_folder(folder, Naming::Windows),
                None,
                "{folder}"
            );
        }
        assert_eq!(ModelName::from_folder("=aux", Naming::Free), None);
    }

    #[test]
    fn names_have_the_characters_of_topic_levels_only() {
        let long = "x".repeat(128);
        for good in ["default", "plant-1.line_2.motor3", &long] {
            assert!(good.parse::<ModelName>().is_ok(), "{good}");
        }
        let too_long = "x".repeat(129);
        for bad in [
            "", " ", ".", "..", "a/b", "a b", "ä", "a\0", "a=b", "%2e", &too_long,
        ] {
            let error = bad
                .parse::<ModelName>()
                .expect_err("a bad name")
                .to_string();
            assert!(error.contains("1 to 128"), "{error}");
        }
    }
}
