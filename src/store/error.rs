//! The errors of a store.

use std::error::Error;
use std::fmt::Write as _;

use object_store::Error as ObjectError;
use thiserror::Error;

use super::format::FORMAT;

/// The store cannot be opened, or an operation on it failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct StoreError(String);

impl StoreError {
    /// Keeps the whole chain of causes, because the root cause is the most specific.
    pub(crate) fn new(error: impl Into<Box<dyn Error>>) -> Self {
        let error = error.into();
        let mut text = error.to_string();
        for cause in std::iter::successors(error.source(), |&cause| cause.source()) {
            let cause = cause.to_string();
            if !text.contains(&cause) {
                let _ = write!(text, ": {cause}");
            }
        }
        Self(text)
    }
}

impl From<ObjectError> for StoreError {
    fn from(error: ObjectError) -> Self {
        Self::new(error)
    }
}

/// Why a version cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The store failed to return it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store has no version of this number.
    #[error("there is no such version")]
    Missing,
    /// The store returned it, but its bytes are not a readable model.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Why bytes cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormatError {
    /// The bytes differ from those that were written, or were never written by this program.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The bytes are intact, but a newer version of this program wrote them.
    #[error(
        "it has format {0}, written by a newer version of this program; this one reads up to \
         format {FORMAT}"
    )]
    Newer(u32),
    /// The format is supported, but a newer version of this program added a section to it.
    #[error("it has a section {0:?}, written by a newer version of this program")]
    UnknownSection(String),
    /// It is larger than what this server reads.
    #[error("it takes {size} bytes, and this server reads models of at most {max}")]
    TooLarge {
        /// Its size, in bytes.
        size: u64,
        /// The size of the largest model that is read, in bytes.
        max: u64,
    },
}

impl FormatError {
    /// Whether this server does not support the version, though it may be intact. Another server or
    /// a later start may support it, so it stays where it is.
    pub fn is_unsupported(&self) -> bool {
        !matches!(self, Self::Damaged(_))
    }

    pub(super) fn damaged(problem: impl Into<String>) -> Self {
        Self::Damaged(problem.into())
    }
}

/// A record cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the model cannot be encoded: {0}")]
pub struct EncodeError(pub(super) String);
