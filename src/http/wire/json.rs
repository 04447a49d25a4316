//! JSON as Python reads it: numbers from their text, not through a JSON value, so that every digit
//! counts and an error can show what was sent.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::encoding;
use crate::excerpt::excerpt;
use crate::http::error::ApiError;

pub(super) fn decode(body: &[u8]) -> Result<Cow<'_, str>, ApiError> {
    encoding::decode(body).map_err(|error| ApiError::malformed(format!("the body is {error}")))
}

/// The raw JSON of fields of the body's object; where one stands twice, the last.
pub(super) fn fields<'a, const N: usize>(
    text: &'a str,
    names: [&'static str; N],
    example: &str,
) -> Result<[Option<&'a RawValue>; N], ApiError> {
    Ok(object(text, names, example)?.known)
}

/// As [`fields`], of an object that must have no others.
pub(super) fn only_fields<'a, const N: usize>(
    text: &'a str,
    names: [&'static str; N],
    example: &str,
) -> Result<[Option<&'a RawValue>; N], ApiError> {
    let found = object(text, names, example)?;
    match found.other {
        None => Ok(found.known),
        Some(other) => Err(ApiError::unprocessable(format!(
            "there is no field {}; there are {}",
            excerpt(other.get()),
            names.join(", ")
        ))),
    }
}

fn object<'a, const N: usize>(
    text: &'a str,
    names: [&'static str; N],
    example: &str,
) -> Result<Found<'a, N>, ApiError> {
    if !text.trim_ascii_start().starts_with('{') {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        let shown = shown(raw);
        return Err(ApiError::unprocessable(format!(
            "the body must be an object such as {example}, got {shown}"
        )));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Fields(&names))
        .and_then(|found| json.end().map(|()| found))
        .map_err(|error| not_json(&error))
}

/// The raw JSON of an object's fields by their names, as many as are there; `None` for what is no
/// object.
pub(super) fn fields_of<'a>(
    raw: &'a RawValue,
    names: &[String],
) -> Option<Vec<Option<&'a RawValue>>> {
    struct Named<'n>(HashMap<&'n str, usize>);

    impl<'de> Visitor<'de> for Named<'_> {
        type Value = Vec<Option<&'de RawValue>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = vec![None; self.0.len()];
            while let Some(key) = map.next_key::<&RawValue>()? {
                match name_of(key).and_then(|name| self.0.get(&*name)) {
                    Some(&field) => found[field] = Some(map.next_value()?),
                    None => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(found)
        }
    }

    let names = names.iter().enumerate();
    let names = names.map(|(i, name)| (name.as_str(), i)).collect();
    let mut json = serde_json::Deserializer::from_str(raw.get());
    json.deserialize_map(Named(names)).ok()
}

pub(super) fn missing(field: &str, example: &str) -> ApiError {
    ApiError::unprocessable(format!(
        "the field {field} is missing; the body must be an object such as {example}"
    ))
}

/// What an object holds: the fields looked for, and the key of one more.
struct Found<'a, const N: usize> {
    known: [Option<&'a RawValue>; N],
    other: Option<&'a RawValue>,
}

struct Fields<'n, const N: usize>(&'n [&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Fields<'_, N> {
    type Value = Found<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Found {
            known: [None; N],
            other: None,
        };
        while let Some(key) = map.next_key::<&RawValue>()? {
            match self.0.iter().position(|name| is_name(key, name)) {
                Some(field) => found.known[field] = Some(map.next_value()?),
                None => {
                    found.other = Some(key);
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// Whether a key is the one looked for.
fn is_name(key: &RawValue, name: &str) -> bool {
    name_of(key).is_some_and(|key| key == name)
}

/// What a key says; `None` for what Rust has no text for, but Python lets pass.
fn name_of(key: &RawValue) -> Option<Cow<'_, str>> {
    let key = key.get();
    if key.contains('\\') {
        serde_json::from_str(key).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(key.trim_matches('"')))
    }
}

/// The items of an array; `None` for what is no array.
pub(super) fn items(raw: &RawValue) -> Option<Vec<&RawValue>> {
    // What is not raw JSON of the body was refused before, so nothing but the kind can be wrong.
    serde_json::from_str(raw.get()).ok()
}

/// Why a piece of JSON is no number to Python's `float`, or none that can be judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum NumberError {
    /// Of another kind.
    WrongType,
    /// A JSON number beyond the range of `f64`.
    TooLarge,
}

impl NumberError {
    pub(super) fn at(self, field: &str, raw: &RawValue) -> ApiError {
        let shown = shown(raw);
        match self {
            Self::WrongType => {
                ApiError::unprocessable(format!("{field} must be a finite number, got {shown}"))
            }
            Self::TooLarge => ApiError::malformed(format!(
                "{field} must be a finite number, got {shown}, which is beyond the range of a double"
            )),
        }
    }
}

/// Reads what `float(json.loads(…))` reads: a number, true and false as 1 and 0, or text that
/// holds a number, since MQTT payloads often arrive as text.
pub(super) fn number(raw: &RawValue) -> Result<f64, NumberError> {
    let text = raw.get();
    match text.as_bytes() {
        [b'-' | b'0'..=b'9', ..] => {
            let value: f64 = text.parse().map_err(|_| NumberError::WrongType)?;
            if !value.is_finite() {
                return Err(NumberError::TooLarge);
            }
            // To Python -0 is a whole number, and those have no negative zero.
            let whole = !text.contains(['.', 'e', 'E']);
            Ok(if whole && value == 0.0 { 0.0 } else { value })
        }
        [b'"', ..] => {
            let text: Cow<'_, str> =
                serde_json::from_str(text).map_err(|_| NumberError::WrongType)?;
            number_in_text(&text).ok_or(NumberError::WrongType)
        }
        b"true" => Ok(1.0),
        b"false" => Ok(0.0),
        _ => Err(NumberError::WrongType),
    }
}

/// Python's `float(text)` where the result is finite: white space around and underscores between
/// digits are allowed.
fn number_in_text(text: &str) -> Option<f64> {
    let text = text.trim();
    let value: f64 = if text.contains('_') {
        let bytes = text.as_bytes();
        let digit = |at: Option<usize>| {
            at.and_then(|at| bytes.get(at))
                .is_some_and(u8::is_ascii_digit)
        };
        let between_digits = (0..bytes.len())
            .filter(|&at| bytes[at] == b'_')
            .all(|at| digit(at.checked_sub(1)) && digit(Some(at + 1)));
        if !between_digits {
            return None;
        }
        text.replace('_', "").parse().ok()?
    } else {
        text.parse().ok()?
    };
    value.is_finite().then_some(value)
}

pub(super) fn shown(raw: &RawValue) -> Cow<'_, str> {
    excerpt(raw.get())
}

pub(super) fn not_a_list(field: &str, raw: &RawValue) -> ApiError {
    let shown = shown(raw);
    ApiError::unprocessable(format!("{field} must be a list of numbers, got {shown}"))
}

pub(super) fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::malformed(format!("the body is not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // What Python's float() takes, observed; text from a field bus is seldom tidy.
    #[test]
    fn numbers_in_text_are_those_of_python() {
        for (text, value) in [
            ("2.5", 2.5_f64),
            (" 2.5\n", 2.5),
            ("+5", 5.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("-0", -0.0),
            ("1e3", 1000.0),
            ("1_000.2_5", 1000.25),
        ] {
            let read = number_in_text(text).map(f64::to_bits);
            assert_eq!(read, Some(value.to_bits()), "{text:?}");
        }
        for text in [
            "",
            " ",
            "abc",
            "2,5",
            "0x10",
            "nan",
            "inf",
            "-Infinity",
            "1e400",
            "1__0",
            "_1",
            "1_",
            "1_.5",
            "2 5",
        ] {
            assert_eq!(number_in_text(text), None, "{text:?}");
        }
    }
}
