//! Shortens text from clients for error messages.

use std::borrow::Cow;

/// Returns the first 60 characters of a text, followed by an ellipsis if it is longer.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    const MAX_CHARS: usize = 60;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}
