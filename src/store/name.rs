//! What a model may be called, and what its folder is called then.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::excerpt::excerpt;

/// The longest name, in characters.
const MAX_NAME_LENGTH: usize = 128;

/// The name of a model, as the levels of MQTT topics suggest them: 1 to 128 letters and digits of
/// ASCII, dots, underscores and hyphens; not `.` or `..`, which web clients take out of paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(Arc<str>);

/// A text that names no model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "a model's name must be 1 to {MAX_NAME_LENGTH} of A-Z, a-z, 0-9, '.', '_' and '-', and not '.' or '..', \
     got {:?}",
    excerpt(.0)
)]
pub struct NameError(String);

impl ModelName {
    /// The model that /predict and /retrain are about.
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

    /// The name of its folder. File systems may take capitals for small letters, and drop a dot at
    /// the end; so such names are written in small letters, and which were capitals follows as bits.
    pub(super) fn folder(&self) -> String {
        let capitals = self.0.bytes().rev().fold(0u128, |bits, byte| {
            (bits << 1) | u128::from(byte.is_ascii_uppercase())
        });
        if capitals == 0 && !self.0.ends_with('.') {
            return self.0.to_string();
        }
        format!("{}={capitals:x}", self.0.to_ascii_lowercase())
    }

    /// The name whose folder it is.
    pub(super) fn from_folder(folder: &str) -> Option<Self> {
        let (small, capitals) = folder.split_once('=').unwrap_or((folder, "0"));
        let capitals = u128::from_str_radix(capitals, 16).ok()?;
        let letters = small.chars().enumerate().map(|(i, c)| {
            let is_capital = i < MAX_NAME_LENGTH && (capitals >> i) & 1 == 1;
            if is_capital {
                c.to_ascii_uppercase()
            } else {
                c
            }
        });
        let name: Self = letters.collect::<String>().parse().ok()?;
        // A folder that somebody else made may be spelt otherwise.
        (name.folder() == folder).then_some(name)
    }
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let leads_elsewhere = matches!(name, "." | "..");
        let length = (1..=MAX_NAME_LENGTH).contains(&name.len());
        if length && name.chars().all(allowed) && !leads_elsewhere {
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

    // No two names may share a folder, on any file system; and none may lead out of the store.
    #[test]
    fn folders_are_told_apart_without_case_and_lead_back_to_the_name() {
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
            &"X".repeat(128),
            &"x".repeat(128),
        ];
        let mut folders = Vec::new();
        for name in names {
            let name: ModelName = name.parse().expect("a good name");
            let folder = name.folder();
            assert_eq!(ModelName::from_folder(&folder), Some(name));
            assert!(!folder.ends_with('.') && folder.len() <= 255, "{folder}");
            folders.push(folder.to_lowercase());
        }
        folders.sort();
        folders.dedup();
        assert_eq!(folders.len(), names.len());
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
        ] {
            assert_eq!(ModelName::from_folder(folder), None, "{folder:?}");
        }
    }

    #[test]
    fn names_are_what_topics_suggest_and_nothing_else() {
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
