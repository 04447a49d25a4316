//! The JSON of requests and answers: server.py's shapes, key order and number format.
//!
//! Numbers are read from their text, not through a JSON value, so that every digit counts and an
//! error can show what was sent.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use ndarray::{Array1, Array2, Axis};
use serde::Serialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::ApiError;
use crate::detector::Judgement;
use crate::registry::Served;
use crate::text;

/// numpy's arrays have no more dimensions.
const MAX_NESTING: usize = 64;

/// The most values in one request: they are judged between other requests, in a few milliseconds.
const MAX_VALUES: usize = 10_000;

/// What /predict is asked.
#[derive(Debug, PartialEq)]
pub(super) enum Question {
    /// `{"value": …}`, as of server.py.
    One(f64),
    /// `{"values": […]}`, which server.py does not know.
    Many(Vec<f64>),
}

/// Reads the body of /predict. `value` counts where both stand.
pub(super) fn question(body: &[u8]) -> Result<Question, ApiError> {
    let text = decode(body)?;
    let example = r#"{"value": 2.5}"#;
    let [value, values] = fields(&text, ["value", "values"], example)?;
    match (value, values) {
        (Some(raw), _) => {
            let value = number(raw).map_err(|problem| problem.at("value", raw))?;
            Ok(Question::One(value))
        }
        (None, Some(raw)) => values_of(raw).map(Question::Many),
        (None, None) => Err(missing("value", example)),
    }
}

fn values_of(raw: &RawValue) -> Result<Vec<f64>, ApiError> {
    if !raw.get().starts_with('[') {
        return Err(not_a_list("values", raw));
    }
    let items: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|error| not_json(&error))?;
    let count = items.len();
    if count > MAX_VALUES {
        return Err(ApiError::unprocessable(format!(
            "values must hold at most {MAX_VALUES} numbers, got {count}"
        )));
    }
    let items = items.into_iter().enumerate();
    items
        .map(|(i, raw)| number(raw).map_err(|problem| problem.at(&format!("values[{i}]"), raw)))
        .collect()
}

/// Reads the body of /retrain: `{"samples": …}`, a number or an array of any even nesting, which
/// is flattened. One row per reading.
pub(super) fn samples(body: &[u8]) -> Result<Array2<f64>, ApiError> {
    let text = decode(body)?;
    let example = r#"{"samples": [2.4, 2.5, 2.6]}"#;
    let [raw] = fields(&text, ["samples"], example)?;
    let raw = raw.ok_or_else(|| missing("samples", example))?;
    let mut samples = Samples {
        shape: vec![None; MAX_NESTING],
        ..Samples::default()
    };
    samples.collect(raw, 0)?;
    if samples.values.is_empty() {
        let shown = shown(raw);
        return Err(ApiError::unprocessable(format!(
            "samples must hold at least one number, got {shown}"
        )));
    }
    if samples.has_text && samples.has_bool {
        return Err(ApiError::unprocessable(
            "samples must not mix text with true and false",
        ));
    }
    Ok(Array1::from(samples.values).insert_axis(Axis(1)))
}

/// The answer of /predict to one value.
pub(super) fn judgement(value: f64, judgement: &Judgement) -> Vec<u8> {
    let mut body = String::with_capacity(160);
    push_judgement(&mut body, value, judgement);
    body.push('\n');
    body.into_bytes()
}

/// The answer of /predict to many values.
pub(super) fn judgements(judged: &[(f64, Judgement)]) -> Vec<u8> {
    let mut body = String::with_capacity(20 + 160 * judged.len());
    body.push_str("{\"predictions\":[");
    for (i, (value, judgement)) in judged.iter().enumerate() {
        if i > 0 {
            body.push(',');
        }
        push_judgement(&mut body, *value, judgement);
    }
    body.push_str("]}\n");
    body.into_bytes()
}

fn push_judgement(body: &mut String, value: f64, judgement: &Judgement) {
    body.push_str("{\"anomaly_score\":");
    push_float(body, judgement.anomaly_score);
    body.push_str(",\"input_value\":");
    push_float(body, value);
    body.push_str(if judgement.is_anomaly {
        ",\"prediction\":1,\"scaled_value\":"
    } else {
        ",\"prediction\":0,\"scaled_value\":"
    });
    push_float(body, judgement.scaled);
    body.push_str(if judgement.is_anomaly {
        ",\"status\":\"Anomaly Detected\"}"
    } else {
        ",\"status\":\"Normal Behaviour\"}"
    });
}

/// The answer of /models/default.
pub(super) fn model(name: &str, served: &Served) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Serialize)]
    struct Model<'a> {
        name: &'a str,
        features: usize,
        samples_used: usize,
        contamination: f64,
        n_estimators: usize,
        max_samples: usize,
        random_state: u32,
        threshold: f64,
        trained_at: String,
        normal_ranges: Option<Vec<[Option<f64>; 2]>>,
    }
    let forest = served.detector.forest();
    let ranges = served.detector.normal_ranges();
    let ranges = ranges.map(|ranges| ranges.iter().map(|range| [range.low, range.high]).collect());
    let model = Model {
        name,
        features: forest.n_features(),
        samples_used: forest.n_samples(),
        contamination: forest.hyperparams().contamination(),
        n_estimators: forest.hyperparams().n_estimators(),
        max_samples: forest.max_samples(),
        random_state: forest.random_state(),
        threshold: forest.threshold(),
        trained_at: humantime::format_rfc3339_seconds(served.trained_at).to_string(),
        normal_ranges: ranges,
    };
    let mut body = serde_json::to_vec(&model)?;
    body.push(b'\n');
    Ok(body)
}

/// The answer of /retrain.
pub(super) fn retrained(samples_used: usize) -> Vec<u8> {
    format!("{{\"message\":\"Model retrained successfully\",\"samples_used\":{samples_used}}}\n")
        .into_bytes()
}

/// Python's `repr` of a finite float: the shortest digits that read back as the same number, of
/// two equally near the even one, with an exponent of two digits below 1e-4 and from 1e16 on.
fn push_float(out: &mut String, value: f64) {
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    out.push_str(sign);
    if let Some((digits, exponent)) = digits.split_once("e-") {
        let _ = write!(out, "{digits}e-{exponent:0>2}");
    } else if let Some(digits) = digits.strip_prefix("0.0000") {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let _ = write!(out, "{first}{point}{rest}e-05");
    } else {
        out.push_str(digits);
    }
}

fn decode(body: &[u8]) -> Result<Cow<'_, str>, ApiError> {
    text::decode(body).map_err(|error| ApiError::malformed(format!("the body is {error}")))
}

/// The raw JSON of fields of the body's object; where one stands twice, the last.
fn fields<'a, const N: usize>(
    text: &'a str,
    names: [&'static str; N],
    example: &str,
) -> Result<[Option<&'a RawValue>; N], ApiError> {
    if !text.trim_ascii_start().starts_with('{') {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        let shown = shown(raw);
        return Err(ApiError::unprocessable(format!(
            "the body must be an object such as {example}, got {shown}"
        )));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Fields(names))
        .and_then(|found| json.end().map(|()| found))
        .map_err(|error| not_json(&error))
}

fn missing(field: &str, example: &str) -> ApiError {
    ApiError::unprocessable(format!(
        "the field {field} is missing; the body must be an object such as {example}"
    ))
}

struct Fields<const N: usize>([&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Fields<N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(key) = map.next_key::<&RawValue>()? {
            match self.0.iter().position(|name| is_name(key.get(), name)) {
                Some(field) => found[field] = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// Whether a key is the one looked for. Others may be anything that Python lets pass.
fn is_name(key: &str, name: &str) -> bool {
    if key.contains('\\') {
        serde_json::from_str::<String>(key).is_ok_and(|key| key == name)
    } else {
        key.trim_matches('"') == name
    }
}

/// Why a piece of JSON is no number to Python's `float`, or none that can be judged.
#[derive(Debug, Clone, Copy, PartialEq)]
enum NotANumber {
    /// Of another kind.
    Kind,
    /// A JSON number beyond the range of `f64`.
    TooLarge,
}

impl NotANumber {
    fn at(self, field: &str, raw: &RawValue) -> ApiError {
        let shown = shown(raw);
        match self {
            Self::Kind => {
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
fn number(raw: &RawValue) -> Result<f64, NotANumber> {
    let text = raw.get();
    match text.as_bytes() {
        [b'-' | b'0'..=b'9', ..] => {
            let value: f64 = text.parse().map_err(|_| NotANumber::Kind)?;
            if !value.is_finite() {
                return Err(NotANumber::TooLarge);
            }
            // To Python -0 is a whole number, and those have no negative zero.
            let whole = !text.contains(['.', 'e', 'E']);
            Ok(if whole && value == 0.0 { 0.0 } else { value })
        }
        [b'"', ..] => {
            let text: Cow<'_, str> = serde_json::from_str(text).map_err(|_| NotANumber::Kind)?;
            number_in_text(&text).ok_or(NotANumber::Kind)
        }
        b"true" => Ok(1.0),
        b"false" => Ok(0.0),
        _ => Err(NotANumber::Kind),
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

/// The numbers of nested arrays, as numpy flattens them.
#[derive(Default)]
struct Samples {
    values: Vec<f64>,
    /// The length of arrays at each depth, once one was read.
    shape: Vec<Option<usize>>,
    /// How deep the first number lies; all others lie as deep.
    depth: Option<usize>,
    /// The indices that lead to where we are.
    path: Vec<usize>,
    has_text: bool,
    has_bool: bool,
}

impl Samples {
    fn collect(&mut self, raw: &RawValue, depth: usize) -> Result<(), ApiError> {
        if !raw.get().starts_with('[') {
            if *self.depth.get_or_insert(depth) != depth {
                return Err(self.uneven(raw));
            }
            self.has_text |= raw.get().starts_with('"');
            self.has_bool |= raw.get().starts_with(['t', 'f']);
            let value = number(raw).map_err(|problem| match problem {
                NotANumber::Kind if depth == 0 => not_a_list("samples", raw),
                problem => problem.at(&self.place(), raw),
            })?;
            self.values.push(value);
            return Ok(());
        }
        if depth == MAX_NESTING {
            return Err(ApiError::unprocessable(format!(
                "samples must not be nested deeper than {MAX_NESTING} arrays"
            )));
        }
        if self.depth.is_some_and(|numbers| numbers <= depth) {
            return Err(self.uneven(raw));
        }
        let mut json = serde_json::Deserializer::from_str(raw.get());
        let items = json.deserialize_seq(Items {
            samples: self,
            depth,
        });
        let length = items.map_err(|error| not_json(&error))??;
        match self.shape[depth] {
            Some(known) if known != length => return Err(self.uneven(raw)),
            _ => self.shape[depth] = Some(length),
        }
        Ok(())
    }

    fn uneven(&self, raw: &RawValue) -> ApiError {
        let place = self.place();
        let shown = shown(raw);
        ApiError::unprocessable(format!(
            "{place} has another shape than what stands before it, got {shown}; samples must be a list \
             of numbers"
        ))
    }

    fn place(&self) -> String {
        let mut place = "samples".to_owned();
        for index in &self.path {
            let _ = write!(place, "[{index}]");
        }
        place
    }
}

fn shown(raw: &RawValue) -> Cow<'_, str> {
    text::shorten(raw.get())
}

/// Reads the items of an array one by one; returns their number, or why one is refused.
struct Items<'a> {
    samples: &'a mut Samples,
    depth: usize,
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Result<usize, ApiError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut length = 0;
        let mut refused = None;
        while let Some(item) = items.next_element::<&RawValue>()? {
            if refused.is_none() {
                self.samples.path.push(length);
                refused = self.samples.collect(item, self.depth + 1).err();
                self.samples.path.pop();
            }
            length += 1;
        }
        Ok(refused.map_or(Ok(length), Err))
    }
}

fn not_a_list(field: &str, raw: &RawValue) -> ApiError {
    let shown = shown(raw);
    ApiError::unprocessable(format!("{field} must be a list of numbers, got {shown}"))
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::malformed(format!("the body is not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Answers are compared with server.py's as text, so numbers must be written as Python does.
    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (value, text) in [
            (9.0, "9.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (9999999999999998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.2345678901234568e29, "1.2345678901234568e+29"),
            (-1e308, "-1e+308"),
            (5e-324, "5e-324"),
        ] {
            let mut out = "x".to_owned();
            push_float(&mut out, value);
            assert_eq!(out, format!("x{text}"));
        }
    }

    // A hash of what Python 3.11 writes for 99,980 numbers: any bit pattern, sixteenths, among
    // which are ties between two shortest forms, and small numbers of few digits.
    #[test]
    fn a_hundred_thousand_floats_are_written_as_python_writes_them() {
        let mut state = 1u64;
        let mut hash = 0xCBF2_9CE4_8422_2325u64;
        let mut count = 0;
        for i in 0..100_000 {
            // SplitMix64 and FNV-1a.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let bits = z ^ (z >> 31);
            let value = match i % 4 {
                1 => ((bits >> 11) as f64 - 2f64.powi(52)) / 16.0,
                3 => ((bits >> 40) as f64 - 2f64.powi(23)) / 1_048_576.0 / 1000.0,
                _ => f64::from_bits(bits),
            };
            if value.is_finite() {
                let mut out = String::new();
                push_float(&mut out, value);
                for byte in out.bytes() {
                    hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
                }
                count += 1;
            }
        }
        assert_eq!(
            (count, format!("{hash:016x}").as_str()),
            (99_980, "419cd51b6a56b910")
        );
    }

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
