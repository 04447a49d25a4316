//! Escapes in text from clients, so that it cannot begin a line of a log or steer a terminal.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Whether a character can end a line, steer a terminal or change the order in which text is shown:
/// control characters, line and paragraph separators, and the marks, embeddings, overrides and
/// isolates of bidirectional text ("Trojan Source", CVE-2021-42574).
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A writer that escapes unsafe characters as Rust's strings write them: `\n`, `\u{1b}`.
#[derive(Debug)]
pub struct Escaped<W>(pub W);

impl<W: Write> Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_unsafe(c)) {
            self.0.write_str(&rest[..at])?;
            write!(self.0, "{}", c.escape_default())?;
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// The text with its unsafe characters escaped.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    // Writing to a string does not fail.
    let _ = Escaped(&mut escaped).write_str(text);
    Cow::Owned(escaped)
}

/// A line of JSON with its unsafe characters escaped as JSON does it: `\u009b`. Outside of strings a
/// line of JSON has none but the line feed, which stays.
pub fn json_escape(line: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| c != '\n' && is_unsafe(c);
    if !line.contains(is_unsafe) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(line.len() + 8);
    for c in line.chars() {
        if is_unsafe(c) {
            // All of them are in the Basic Multilingual Plane.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_characters_are_escaped_and_others_stay() {
        for (text, expected) in [
            ("Öl-Druck °C 温度 🌡\u{fe0f}", "Öl-Druck °C 温度 🌡\u{fe0f}"),
            ("a\nINFO forged", r"a\nINFO forged"),
            ("a\r\t\0", r"a\r\t\u{0}"),
            (
                "\u{1b}[31mred\u{9b}0m\u{7f}",
                r"\u{1b}[31mred\u{9b}0m\u{7f}",
            ),
            ("\u{85}\u{2028}\u{2029}", r"\u{85}\u{2028}\u{2029}"),
            (
                "\u{202a}\u{202e}\u{2066}\u{2069}",
                r"\u{202a}\u{202e}\u{2066}\u{2069}",
            ),
            (
                "\u{200e}\u{200f}\u{61c}\u{feff}",
                r"\u{200e}\u{200f}\u{61c}\u{feff}",
            ),
        ] {
            assert_eq!(escape(text), expected);
        }
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let text = "Öl °C 🌡 \n\r\t\0\u{1b}[2J\u{7f}\u{85}\u{9b}\u{2028}\u{202e}\u{feff}\"\\";
        let line = serde_json::to_string(text).expect("a string") + "\n";
        let escaped = json_escape(&line);
        assert!(!escaped.trim_end().contains(is_unsafe), "{escaped:?}");
        assert_eq!(
            serde_json::from_str::<String>(&escaped).ok().as_deref(),
            Some(text)
        );
        assert!(
            escaped.contains("Öl °C 🌡") && escaped.ends_with('\n'),
            "{escaped}"
        );
    }
}
