//! Excerpts of what a client sent, for error messages.

use std::borrow::Cow;

/// The first 60 characters of a text, and an ellipsis where it goes on.
pub(crate) fn excerpt(text: &str) -> Cow<'_, str> {
    const MAX_CHARS: usize = 60;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}
