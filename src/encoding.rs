//! Decodes text in the encodings that Windows and Python write.

use std::borrow::Cow;

/// Decodes UTF-8 or UTF-16, with or without a byte order mark, and strips the mark. Windows
/// PowerShell writes UTF-16 files, and Python's `json` module reads UTF-16.
///
/// A zero byte beside the first character identifies UTF-16 without a mark, so the first character
/// must be ASCII, as in JSON and numbers.
///
/// # Errors
///
/// A description of the problem that completes a sentence such as "the body is …".
pub fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    let decode_utf16 = |unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|&pair| unit(pair)).collect();
        match String::from_utf16(&units) {
            Ok(text) if rest.is_empty() => {
                Ok(Cow::Owned(text.trim_start_matches('\u{feff}').to_owned()))
            }
            _ => Err("not valid UTF-16".to_owned()),
        }
    };
    match bytes {
        [0xFF, 0xFE, ..] | [_, 0, ..] => decode_utf16(u16::from_le_bytes),
        [0xFE, 0xFF, ..] | [0, _, ..] => decode_utf16(u16::from_be_bytes),
        _ => {
            let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
            Ok(Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)))
        }
    }
}
