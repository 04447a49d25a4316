//! JSON as Python reads it. Numbers are parsed from their text, not through a JSON value, so that
//! every digit counts and an error can show what was sent.

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::encoding;
use crate::excerpt::excerpt;
use crate::http::error::{ApiError, ErrorCode};
use crate::http::place::Place;

/// The body's text, from UTF-8 or UTF-16.
pub(in crate::http) fn decode(body: &[u8]) -> Result<Cow<'_, str>, ApiError> {
    encoding::decode(body)
        .map_err(|error| ApiError::malformed(ErrorCode::NotJson, format!("the body is {error}")))
}

/// The raw JSON of fields of the body's object. Of a repeated field the last one counts.
pub(super) fn fields<'a, const N: usize>(
    text: &'a str,
    names: [&'static str; N],
    example: &str,
) -> Result<[Option<&'a RawValue>; N], ApiError> {
    Ok(object(text, names, example)?.known)
}

/// As [`fields`], but refuses an object with other fields.
pub(super) fn only_fields<'a, const N: usize>(
    text: &'a str,
    names: [&'static str; N],
    example: &str,
) -> Result<[Option<&'a RawValue>; N], ApiError> {
    let found = object(text, names, example)?;
    let Some(unknown) = found.unknown else {
        return Ok(found.known);
    };
    let key = excerpt(unknown.get());
    let message = format!("there is no field {key}; there are {}", names.join(", "));
    let place = Place::field(key.trim_matches('"').to_owned());
    Err(ApiError::unprocessable(ErrorCode::UnknownField, message).at(place))
}

fn object<'a, const N: usize>(
    text: &'a str,
    names: [&'static str; N],
    example: &str,
) -> Result<Fields<'a, N>, ApiError> {
    if !text.trim_ascii_start().starts_with('{') {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        let got = excerpt_of(raw);
        return Err(ApiError::unprocessable(
            ErrorCode::WrongType,
            format!("the body must be an object such as {example}, got {got}"),
        ));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(FieldsVisitor(&names))
        .and_then(|found| json.end().map(|()| found))
        .map_err(|error| not_json(&error))
}

/// The raw JSON of an object's fields by their names, in the order of `names`. `None` for JSON that
/// is no object.
pub(super) fn fields_of<'a>(
    raw: &'a RawValue,
    names: &[String],
) -> Option<Vec<Option<&'a RawValue>>> {
    struct ByName<'n>(HashMap<&'n str, usize>);

    impl<'de> Visitor<'de> for ByName<'_> {
        type Value = Vec<Option<&'de RawValue>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = vec![None; self.0.len()];
            while let Some(key) = map.next_key::<&RawValue>()? {
                match unquote(key).and_then(|name| self.0.get(&*name)) {
                    Some(&field) => found[field] = Some(map.next_value()?),
                    None => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(found)
        }
    }

    let positions = names
        .iter()
        .enumerate()
        .map(|(i, name)| (name.as_str(), i))
        .collect();
    let mut json = serde_json::Deserializer::from_str(raw.get());
    json.deserialize_map(ByName(positions)).ok()
}

/// A field that is true or false; false if it is missing or null.
pub(super) fn flag(field: &'static str, raw: Option<&RawValue>) -> Result<bool, ApiError> {
    match raw.map(|raw| (raw, raw.get())) {
        None | Some((_, "null" | "false")) => Ok(false),
        Some((_, "true")) => Ok(true),
        Some((raw, _)) => {
            let expected = "must be true or false";
            Err(unexpected(ErrorCode::WrongType, field, expected, raw))
        }
    }
}

pub(super) fn missing(field: &'static str, example: &str) -> ApiError {
    ApiError::unprocessable(
        ErrorCode::MissingField,
        format!("the field {field} is missing; the body must be an object such as {example}"),
    )
    .at(field)
}

/// The fields of an object: the known ones, and the key of an unknown one.
struct Fields<'a, const N: usize> {
    known: [Option<&'a RawValue>; N],
    unknown: Option<&'a RawValue>,
}

struct FieldsVisitor<'n, const N: usize>(&'n [&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for FieldsVisitor<'_, N> {
    type Value = Fields<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Fields {
            known: [None; N],
            unknown: None,
        };
        while let Some(key) = map.next_key::<&RawValue>()? {
            let unquoted = unquote(key);
            let known = |name: &&str| unquoted.as_deref() == Some(*name);
            match self.0.iter().position(known) {
                Some(field) => found.known[field] = Some(map.next_value()?),
                None => {
                    found.unknown = Some(key);
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// The text of a JSON string. `None` for other JSON.
pub(super) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    raw.get().starts_with('"').then(|| unquote(raw)).flatten()
}

/// The text of a key. `None` for one with a lone surrogate, which Python accepts and Rust's strings
/// cannot hold.
fn unquote(key: &RawValue) -> Option<Cow<'_, str>> {
    let key = key.get();
    if key.contains('\\') {
        serde_json::from_str(key).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(key.trim_matches('"')))
    }
}

/// The items of an array; `None` for JSON that is no array.
pub(super) fn items(raw: &RawValue) -> Option<Vec<&RawValue>> {
    // Raw values are valid JSON, so only the type can be wrong.
    serde_json::from_str(raw.get()).ok()
}

/// Calls `each` with the items of an array, one after the other, until it fails. `None` for JSON that
/// is no array. Unlike [`items`], it takes no memory for each of millions of items.
pub(super) fn for_each_item<'a, E>(
    raw: &'a RawValue,
    each: impl FnMut(&'a RawValue) -> Result<(), E>,
) -> Option<Result<(), E>> {
    struct Each<F, E>(F, Option<E>);

    impl<'de, F: FnMut(&'de RawValue) -> Result<(), E>, E> Visitor<'de> for &mut Each<F, E> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
            while let Some(item) = items.next_element()? {
                if let Err(error) = (self.0)(item) {
                    self.1 = Some(error);
                    return Err(A::Error::custom("the item is refused"));
                }
            }
            Ok(())
        }
    }

    let mut visitor = Each(each, None);
    let mut json = serde_json::Deserializer::from_str(raw.get());
    match (json.deserialize_seq(&mut visitor), visitor.1) {
        (_, Some(error)) => Some(Err(error)),
        (Ok(()), None) => Some(Ok(())),
        // Raw values are valid JSON, so only the type can be wrong.
        (Err(_), None) => None,
    }
}

/// The number of items of an array; `None` for JSON that is no array.
pub(super) fn count_items(raw: &RawValue) -> Option<usize> {
    let mut count = 0;
    let _ = for_each_item(raw, |_| {
        count += 1;
        Ok::<_, Infallible>(())
    })?;
    Some(count)
}

/// Why Python's `float` rejects a JSON value, or the forest its result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum NumberError {
    /// It is no number.
    WrongType,
    /// It is text that reads as infinity or NaN.
    NotFinite,
    /// It is a JSON number beyond the range of `f64`.
    TooLarge,
}

impl NumberError {
    pub(super) fn at(self, place: Place, raw: &RawValue) -> ApiError {
        self.response(&place, raw.get()).at(place)
    }

    /// The error response for `json` at a place.
    pub(super) fn response(self, place: impl fmt::Display, json: &str) -> ApiError {
        let message = format!("{place} must be a finite number, got {}", excerpt(json));
        match self {
            Self::WrongType => ApiError::unprocessable(ErrorCode::WrongType, message),
            Self::NotFinite => ApiError::unprocessable(ErrorCode::NotFinite, message),
            Self::TooLarge => ApiError::malformed(
                ErrorCode::NotFinite,
                format!("{message}, which is beyond the range of a double"),
            ),
        }
    }
}

/// Parses what `float(json.loads(…))` accepts: a number, true and false as 1 and 0, or text that
/// holds a number, since MQTT payloads often arrive as text.
pub(super) fn number(raw: &RawValue) -> Result<f64, NumberError> {
    number_from(raw.get())
}

/// As [`number`], from valid JSON.
pub(super) fn number_from(json: &str) -> Result<f64, NumberError> {
    match json.as_bytes() {
        [b'-' | b'0'..=b'9', ..] => {
            let value: f64 = json.parse().map_err(|_| NumberError::WrongType)?;
            if !value.is_finite() {
                return Err(NumberError::TooLarge);
            }
            // To Python -0 is a whole number, and whole numbers have no negative zero.
            let whole = !json.contains(['.', 'e', 'E']);
            Ok(if whole && value == 0.0 { 0.0 } else { value })
        }
        [b'"', ..] => {
            let text: Cow<'_, str> =
                serde_json::from_str(json).map_err(|_| NumberError::WrongType)?;
            number_in_text(&text)
        }
        b"true" => Ok(1.0),
        b"false" => Ok(0.0),
        _ => Err(NumberError::WrongType),
    }
}

/// Python's `float(text)` where the result is finite. Surrounding white space, and underscores
/// between digits, are allowed.
fn number_in_text(text: &str) -> Result<f64, NumberError> {
    let text = text.trim();
    let parsed = if text.contains('_') {
        let bytes = text.as_bytes();
        let is_digit = |at: Option<usize>| {
            at.and_then(|at| bytes.get(at))
                .is_some_and(u8::is_ascii_digit)
        };
        let between_digits = (0..bytes.len())
            .filter(|&at| bytes[at] == b'_')
            .all(|at| is_digit(at.checked_sub(1)) && is_digit(Some(at + 1)));
        if !between_digits {
            return Err(NumberError::WrongType);
        }
        text.replace('_', "").parse()
    } else {
        text.parse()
    };
    match parsed {
        Ok(value) if f64::is_finite(value) => Ok(value),
        Ok(_) => Err(NumberError::NotFinite),
        Err(_) => Err(NumberError::WrongType),
    }
}

/// The code for a value that is no whole number of the expected range.
pub(super) fn number_code(raw: &RawValue) -> ErrorCode {
    match number(raw) {
        Ok(_) if !raw.get().starts_with('"') => ErrorCode::OutOfBounds,
        _ => ErrorCode::WrongType,
    }
}

pub(super) fn unexpected(
    code: ErrorCode,
    field: &'static str,
    expected: &str,
    raw: &RawValue,
) -> ApiError {
    let got = excerpt_of(raw);
    ApiError::unprocessable(code, format!("{field}: {expected}, got {got}")).at(field)
}

pub(super) fn excerpt_of(raw: &RawValue) -> Cow<'_, str> {
    excerpt(raw.get())
}

pub(super) fn not_a_list(field: &'static str, raw: &RawValue) -> ApiError {
    let got = excerpt_of(raw);
    ApiError::unprocessable(
        ErrorCode::WrongType,
        format!("{field} must be a list of numbers, got {got}"),
    )
    .at(field)
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::malformed(ErrorCode::NotJson, format!("the body is not JSON: {error}"))
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
            assert_eq!(read, Ok(value.to_bits()), "{text:?}");
        }
        for text in [
            "", " ", "abc", "2,5", "0x10", "1__0", "_1", "1_", "1_.5", "2 5",
        ] {
            assert_eq!(
                number_in_text(text),
                Err(NumberError::WrongType),
                "{text:?}"
            );
        }
        for text in ["nan", "inf", "-Infinity", "1e400"] {
            assert_eq!(
                number_in_text(text),
                Err(NumberError::NotFinite),
                "{text:?}"
            );
        }
    }
}
