//! Versions of models, and the outcome of operations on them.

/// A version of a model, as a store lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Its number.
    pub number: u64,
    /// Distinguishes versions of the same number when a model was deleted and created again.
    pub e_tag: Option<String>,
}

impl Version {
    pub(super) fn new(number: u64, e_tag: Option<String>) -> Self {
        // Some stores quote the ETag in one answer and not in another.
        let e_tag = e_tag.map(|e_tag| e_tag.trim_matches('"').to_owned());
        Self { number, e_tag }
    }

    /// Whether both are the same version: same number, and same ETag where both have one.
    pub fn is(&self, other: &Self) -> bool {
        let e_tags = self.e_tag.as_ref().zip(other.e_tag.as_ref());
        self.number == other.number && e_tags.is_none_or(|(a, b)| a == b)
    }
}

/// The outcome of [`Store::write`](super::Store::write).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The version is stored, and survives a power cut.
    Stored(Version),
    /// A version of this number already exists; it is unchanged.
    AlreadyExists,
}
