//! The body of a question: one reading, or many.

use serde_json::value::RawValue;

use super::json::{self, NumberError};
use crate::http::error::ApiError;

/// The most readings in one request. Those of one feature are judged between other requests, in a few
/// milliseconds.
const MAX_VALUES: usize = 10_000;

/// What is to be judged; `R` is a reading.
#[derive(Debug, PartialEq)]
pub(in crate::http) enum PredictRequest<R> {
    /// `{"value": …}`, as of server.py.
    One(R),
    /// `{"values": […]}`, which server.py does not know.
    Many(Vec<R>),
}

impl<R> PredictRequest<R> {
    /// The same question of readings in another form.
    pub(in crate::http) fn map<S>(self, form: impl Fn(R) -> S) -> PredictRequest<S> {
        match self {
            Self::One(reading) => PredictRequest::One(form(reading)),
            Self::Many(readings) => PredictRequest::Many(readings.into_iter().map(form).collect()),
        }
    }
}

/// Reads a question about numbers. `value` counts where both stand.
pub(in crate::http) fn parse_values(body: &[u8]) -> Result<PredictRequest<f64>, ApiError> {
    parse_predict_request(body, r#"{"value": 2.5}"#, |raw, field| {
        json::number(raw).map_err(|problem| problem.at(&field(), raw))
    })
}

/// Reads a question about readings of a model with these features, named or not.
pub(in crate::http) fn parse_rows(
    body: &[u8],
    features: usize,
    names: &[String],
) -> Result<PredictRequest<Vec<f64>>, ApiError> {
    let example = match features {
        1 => r#"{"value": 2.5}"#,
        _ => r#"{"value": [2.5, 3.5]}"#,
    };
    parse_predict_request(body, example, |raw, field| {
        parse_row(raw, field, features, names)
    })
}

/// Reads one reading; `field` is where it stands.
pub(super) fn parse_row(
    raw: &RawValue,
    field: &dyn Fn() -> String,
    features: usize,
    names: &[String],
) -> Result<Vec<f64>, ApiError> {
    let number = |raw: &RawValue, place: &dyn Fn() -> String| {
        json::number(raw).map_err(|problem| problem.at(&place(), raw))
    };
    let expected = || match (features, names) {
        (1, []) => "1 number".to_owned(),
        (1, names) => format!("1 number, {}", names[0]),
        (_, []) => format!("a list of {features} numbers, one for each feature"),
        (_, names) => format!("a list of {features} numbers, {}", listed(names)),
    };
    match raw.get().as_bytes() {
        [b'[', ..] => {
            let items = json::items(raw).unwrap_or_default();
            if items.len() != features {
                return Err(ApiError::unprocessable(format!(
                    "{} must be {}; got {}",
                    field(),
                    expected(),
                    items.len()
                )));
            }
            let items = items.into_iter().enumerate();
            items
                .map(|(i, item)| number(item, &|| format!("{}[{i}]", field())))
                .collect()
        }
        [b'{', ..] if !names.is_empty() => {
            let found = json::fields_of(raw, names).unwrap_or_default();
            let found = found.into_iter().zip(names);
            found
                .map(|(item, name)| match item {
                    Some(item) => number(item, &|| format!("{}.{name}", field())),
                    None => Err(ApiError::unprocessable(format!(
                        "{} must have a number for each of the {features} features {}; {name} \
                         is missing",
                        field(),
                        listed(names)
                    ))),
                })
                .collect()
        }
        _ if features == 1 => Ok(vec![number(raw, field)?]),
        _ => match json::number(raw) {
            Err(problem @ NumberError::TooLarge) => Err(problem.at(&field(), raw)),
            _ => Err(ApiError::unprocessable(format!(
                "{} must be {}, got {}",
                field(),
                expected(),
                json::shown(raw)
            ))),
        },
    }
}

/// The names of features in an error, which need not show a thousand.
fn listed(names: &[String]) -> String {
    const MOST: usize = 16;
    let more = if names.len() > MOST { ", …" } else { "" };
    let names = &names[..names.len().min(MOST)];
    format!("{}{more}", names.join(", "))
}

fn parse_predict_request<R>(
    body: &[u8],
    example: &str,
    reading: impl Fn(&RawValue, &dyn Fn() -> String) -> Result<R, ApiError>,
) -> Result<PredictRequest<R>, ApiError> {
    let text = json::decode(body)?;
    match json::fields(&text, ["value", "values"], example)? {
        [Some(raw), _] => Ok(PredictRequest::One(reading(raw, &|| "value".to_owned())?)),
        [None, Some(raw)] => {
            let items = json::items(raw).ok_or_else(|| json::not_a_list("values", raw))?;
            let count = items.len();
            if count > MAX_VALUES {
                return Err(ApiError::unprocessable(format!(
                    "values must hold at most {MAX_VALUES} numbers, got {count}"
                )));
            }
            let items = items.into_iter().enumerate();
            let readings: Result<_, _> = items
                .map(|(i, raw)| reading(raw, &|| format!("values[{i}]")))
                .collect();
            Ok(PredictRequest::Many(readings?))
        }
        [None, None] => Err(json::missing("value", example)),
    }
}
