//! Text as Windows and Python write it.

use std::borrow::Cow;

/// Text in UTF-8 or UTF-16, with or without a byte order mark, which is left out. Windows
/// PowerShell writes UTF-16 to files, and Python's JSON reads it.
///
/// UTF-16 without a mark is told by a zero byte beside the first character, so that character must
/// be of ASCII, as it is in JSON and numbers.
pub(crate) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    let utf16 = |unit: fn([u8; 2]) -> u16| {
        let (pairs, odd) = bytes.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|&pair| unit(pair)).collect();
        match String::from_utf16(&units) {
            Ok(text) if odd.is_empty() => {
                Ok(Cow::Owned(text.trim_start_matches('\u{feff}').to_owned()))
            }
            _ => Err("not valid UTF-16".to_owned()),
        }
    };
    match bytes {
        [0xFF, 0xFE, ..] | [_, 0, ..] => utf16(u16::from_le_bytes),
        [0xFE, 0xFF, ..] | [0, _, ..] => utf16(u16::from_be_bytes),
        _ => {
            let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
            Ok(Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)))
        }
    }
}
