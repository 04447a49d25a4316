//! The readings of a retrain.

use std::fmt::Write as _;

use ndarray::{Array1, Array2, Axis};
use serde_json::value::RawValue;

use super::json::{self, NumberError};
use super::predict_request::parse_row_into;
use crate::excerpt::excerpt;
use crate::http::error::{ApiError, ErrorCode};
use crate::http::limits::{MAX_FEATURES, MAX_NESTING};
use crate::http::place::Place;

/// How many readings a body holds, counted without parsing them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SampleCount {
    /// Items of the outer array; at least 1.
    pub(super) rows: usize,
    /// Numbers at all depths; at least 1.
    pub(super) numbers: usize,
}

/// Counts the readings by their commas: arrays of even shape have one fewer than numbers.
pub(super) fn count_samples(raw: &RawValue) -> SampleCount {
    let json = raw.get().as_bytes();
    let (mut at, mut depth) = (0, 0);
    let (mut outer_commas, mut commas) = (0, 0);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => at += string_length(&json[at..]) - 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b',' => {
                commas += 1;
                outer_commas += usize::from(depth == 1);
            }
            _ => {}
        }
        at += 1;
    }
    SampleCount {
        rows: outer_commas + 1,
        numbers: commas + 1,
    }
}

/// Parses one row per reading. The first reading sets the number of features where it is not known.
pub(super) fn parse_samples(
    raw: &RawValue,
    features: Option<usize>,
    names: &[String],
) -> Result<Array2<f64>, ApiError> {
    let mut values = Vec::with_capacity(most_numbers(raw.get().as_bytes()));
    let mut rows = 0;
    let mut width = features;
    json::for_each_item(raw, |item| {
        let features = match width {
            Some(features) if rows > 0 => features,
            _ => *width.insert(check_first(item, features, names)?),
        };
        parse_row_into(
            &mut values,
            item,
            Place::item("samples", rows),
            features,
            names,
        )?;
        rows += 1;
        Ok::<_, ApiError>(())
    })
    .ok_or_else(|| json::not_a_list("samples", raw))??;
    let Some(features) = width.filter(|_| rows > 0) else {
        let message = "samples must hold at least one reading, got []";
        return Err(ApiError::unprocessable(ErrorCode::TooFew, message).at("samples"));
    };
    Array2::from_shape_vec((rows, features), values).map_err(|error| {
        ApiError::unprocessable(ErrorCode::WrongWidth, format!("samples: {error}")).at("samples")
    })
}

/// The number of features, which the first reading sets where it is not known.
fn check_first(
    first: &RawValue,
    features: Option<usize>,
    names: &[String],
) -> Result<usize, ApiError> {
    let features = features.unwrap_or_else(|| json::count_items(first).unwrap_or(1));
    if features > MAX_FEATURES {
        let message =
            format!("samples[0] must have at most {MAX_FEATURES} numbers, got {features}");
        return Err(
            ApiError::unprocessable(ErrorCode::TooMany, message).at(Place::item("samples", 0))
        );
    }
    if first.get().starts_with('{') && names.is_empty() {
        let got = json::excerpt_of(first);
        let message = format!(
            "samples[0] must be a number or a list of numbers, got {got}; to send objects, name \
             the fields that are features in feature_names"
        );
        return Err(
            ApiError::unprocessable(ErrorCode::WrongType, message).at(Place::item("samples", 0))
        );
    }
    Ok(features)
}

/// The most numbers that a JSON text can hold: two are separated by a comma. Reserving memory for
/// them at once avoids a copy of millions, which would need twice the memory for a moment.
pub(super) fn most_numbers(text: &[u8]) -> usize {
    let commas = text.iter().filter(|&&byte| byte == b',').count();
    // A comma in a string separates no numbers.
    (commas + 1).min(text.len() / 2 + 1)
}

/// Parses the samples of server.py's /retrain: a number, or arrays of any even nesting, which are
/// flattened as numpy does. One row per number.
pub(super) fn parse_flat_samples(raw: &RawValue) -> Result<Array2<f64>, ApiError> {
    let mut samples = FlatSamples {
        values: Vec::with_capacity(most_numbers(raw.get().as_bytes())),
        ..FlatSamples::default()
    };
    samples.parse(raw)?;
    if samples.values.is_empty() {
        let got = json::excerpt_of(raw);
        let message = format!("samples must hold at least one number, got {got}");
        return Err(ApiError::unprocessable(ErrorCode::TooFew, message).at("samples"));
    }
    if samples.has_text && samples.has_bool {
        let message = "samples must not mix text with true and false";
        return Err(ApiError::unprocessable(ErrorCode::WrongType, message).at("samples"));
    }
    Ok(Array1::from(samples.values).insert_axis(Axis(1)))
}

/// The numbers of nested arrays, in one pass over their text.
#[derive(Default)]
struct FlatSamples {
    values: Vec<f64>,
    /// The length of the arrays at each depth, once one has ended.
    shape: Vec<Option<usize>>,
    /// How deep the numbers lie, once there is one.
    depth: Option<usize>,
    /// The open arrays, from the outermost.
    open: Vec<OpenArray>,
    has_text: bool,
    has_bool: bool,
}

struct OpenArray {
    /// Where it begins in the text.
    start: usize,
    /// The index of its current item.
    index: usize,
}

impl FlatSamples {
    fn parse(&mut self, raw: &RawValue) -> Result<(), ApiError> {
        let text = raw.get();
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'[' => self.open(text, at)?,
                b']' => self.close(text, at)?,
                b',' => {
                    if let Some(array) = self.open.last_mut() {
                        array.index += 1;
                    }
                }
                b' ' | b'\t' | b'\n' | b'\r' => {}
                _ => {
                    let value = &text[at..at + value_length(&bytes[at..])];
                    self.push(raw, value)?;
                    at += value.len();
                    continue;
                }
            }
            at += 1;
        }
        Ok(())
    }

    fn open(&mut self, text: &str, start: usize) -> Result<(), ApiError> {
        let depth = self.open.len();
        if depth == MAX_NESTING {
            let message = format!("samples must not be nested deeper than {MAX_NESTING} arrays");
            return Err(ApiError::unprocessable(ErrorCode::OutOfBounds, message).at("samples"));
        }
        if self.depth.is_some_and(|numbers| numbers <= depth) {
            let array = &text[start..];
            return Err(self.uneven(&array[..nested_length(array.as_bytes())]));
        }
        self.open.push(OpenArray { start, index: 0 });
        Ok(())
    }

    fn close(&mut self, text: &str, end: usize) -> Result<(), ApiError> {
        let Some(OpenArray { start, index }) = self.open.pop() else {
            return Ok(());
        };
        let is_empty = text[start + 1..end].trim_ascii().is_empty();
        let length = if is_empty { 0 } else { index + 1 };
        let depth = self.open.len();
        if self.shape.len() <= depth {
            self.shape.resize(depth + 1, None);
        }
        if *self.shape[depth].get_or_insert(length) != length {
            return Err(self.uneven(&text[start..=end]));
        }
        Ok(())
    }

    fn push(&mut self, raw: &RawValue, value: &str) -> Result<(), ApiError> {
        let depth = self.open.len();
        if *self.depth.get_or_insert(depth) != depth {
            return Err(self.uneven(value));
        }
        self.has_text |= value.starts_with('"');
        self.has_bool |= value.starts_with(['t', 'f']);
        match json::number_from(value) {
            Ok(value) => {
                self.values.push(value);
                Ok(())
            }
            Err(NumberError::WrongType) if depth == 0 => Err(json::not_a_list("samples", raw)),
            Err(error) => Err(error.response(self.place(), value).at(self.json_place())),
        }
    }

    fn uneven(&self, got: &str) -> ApiError {
        let message = format!(
            "{} has another shape than what stands before it, got {}; samples must be a list of \
             numbers",
            self.place(),
            excerpt(got)
        );
        ApiError::unprocessable(ErrorCode::WrongWidth, message).at(self.json_place())
    }

    /// The place of the current item, with the indices at all depths.
    fn place(&self) -> String {
        let mut place = "samples".to_owned();
        for OpenArray { index, .. } in &self.open {
            // Writing to a string never fails.
            let _ = write!(place, "[{index}]");
        }
        place
    }

    /// The same as error responses have it: with the first index alone.
    fn json_place(&self) -> Place {
        self.open.first().map_or("samples".into(), |array| {
            Place::item("samples", array.index)
        })
    }
}

/// The length of the value, other than an array, that valid JSON begins with.
fn value_length(json: &[u8]) -> usize {
    match json {
        [b'"', ..] => string_length(json),
        [b'{', ..] => nested_length(json),
        _ => json
            .iter()
            .position(|byte| matches!(byte, b',' | b']' | b' ' | b'\t' | b'\n' | b'\r'))
            .unwrap_or(json.len()),
    }
}

/// The length of the string, quotes included, that valid JSON begins with.
fn string_length(json: &[u8]) -> usize {
    let mut at = 1;
    while json[at] != b'"' {
        at += if json[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// The length of the array or object that valid JSON begins with.
fn nested_length(json: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    loop {
        match json[at] {
            b'"' => at += string_length(&json[at..]) - 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn readings_are_counted_by_their_commas() {
        for (json, rows, numbers) in [
            ("[]", 1, 1),
            ("5", 1, 1),
            ("[1, 2, 3]", 3, 3),
            ("[[1,2],[3,4],[5,6]]", 3, 6),
            ("[[[1],[2]],[[3],[4]]]", 2, 4),
            (r#"["1,5","a\",b[","\\"]"#, 3, 3),
            (r#"[{"a":1,"b":[2,3]},{"a":4,"b":[5,6]}]"#, 2, 6),
        ] {
            let raw: &RawValue = serde_json::from_str(json).expect("JSON");
            assert_eq!(count_samples(raw), SampleCount { rows, numbers }, "{json}");
        }
    }

    // The text is read once, however deep its arrays are. Reading it again at each depth took 18 s
    // instead of 4 s for 33 million readings.
    #[test]
    fn nested_samples_are_parsed_as_fast_as_flat_ones() {
        let numbers = vec!["1.25"; 200_000].join(",");
        let depth = MAX_NESTING - 1;
        let flat = format!("[{numbers}]");
        let nested = format!("{}{flat}{}", "[".repeat(depth), "]".repeat(depth));
        let time = |json: &str| {
            let raw: &RawValue = serde_json::from_str(json).expect("JSON");
            let parse = || {
                let start = Instant::now();
                let samples = parse_flat_samples(raw);
                let time = start.elapsed();
                assert_eq!(samples.expect("good samples").dim(), (200_000, 1));
                time
            };
            (0..7).map(|_| parse()).min().expect("times")
        };
        let (flat, nested) = (time(&flat), time(&nested));
        assert!(nested < 4 * flat, "{nested:?}, not {flat:?}");
    }
}
