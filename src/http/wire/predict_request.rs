//! The body of a prediction: one reading, or many.

use std::convert::Infallible;

use serde_json::value::RawValue;

use super::json::{self, NumberError};
use crate::http::error::{ApiError, ErrorCode};
use crate::http::limits::MAX_VALUES;
use crate::http::place::Place;

/// A request for predictions; `R` is a reading.
#[derive(Debug, PartialEq)]
pub(in crate::http) enum PredictRequest<R> {
    /// `{"value": …}`, as server.py takes it.
    One(R),
    /// `{"values": […]}`, which server.py does not know.
    Many(Vec<R>),
}

impl<R> PredictRequest<R> {
    /// The number of readings.
    pub(in crate::http) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(readings) => readings.len(),
        }
    }

    /// The same request with its readings converted.
    pub(in crate::http) fn map<S>(self, convert: impl Fn(R) -> S) -> PredictRequest<S> {
        match self {
            Self::One(reading) => PredictRequest::One(convert(reading)),
            Self::Many(readings) => {
                PredictRequest::Many(readings.into_iter().map(convert).collect())
            }
        }
    }
}

/// Parses a request whose readings are numbers, and whether it asks for an explanation.
pub(in crate::http) fn parse_values(body: &[u8]) -> Result<(PredictRequest<f64>, bool), ApiError> {
    parse(body, r#"{"value": 2.5}"#, |raw, place| {
        json::number(raw).map_err(|error| error.at(place, raw))
    })
}

/// Parses a request for a model of `features` features, which have `names` or none, and whether it
/// asks for an explanation.
pub(in crate::http) fn parse_rows(
    body: &[u8],
    features: usize,
    names: &[String],
) -> Result<(PredictRequest<Vec<f64>>, bool), ApiError> {
    parse(body, example(features), |raw, place| {
        parse_row(raw, place, features, names)
    })
}

/// An example of a request for a model of so many features.
pub(super) fn example(features: usize) -> &'static str {
    match features {
        1 => r#"{"value": 2.5}"#,
        _ => r#"{"value": [2.5, 3.5]}"#,
    }
}

/// Parses one reading: a list, an object by the features' names, or a number for one feature.
pub(super) fn parse_row(
    raw: &RawValue,
    place: Place,
    features: usize,
    names: &[String],
) -> Result<Vec<f64>, ApiError> {
    let mut values = Vec::with_capacity(features);
    parse_row_into(&mut values, raw, place, features, names)?;
    Ok(values)
}

/// As [`parse_row`], appended to `values`.
pub(super) fn parse_row_into(
    values: &mut Vec<f64>,
    raw: &RawValue,
    place: Place,
    features: usize,
    names: &[String],
) -> Result<(), ApiError> {
    let number =
        |raw: &RawValue, place: Place| json::number(raw).map_err(|error| error.at(place, raw));
    let expected = || match (features, names) {
        (1, []) => "1 number".to_owned(),
        (1, names) => format!("1 number, {}", names[0]),
        (_, []) => format!("a list of {features} numbers, one for each feature"),
        (_, names) => format!("a list of {features} numbers, {}", listed(names)),
    };
    match raw.get().as_bytes() {
        [b'[', ..] => {
            let mut count = 0;
            let mut refused = Ok(());
            // A list of another length is refused as such, whatever its items are.
            let _ = json::for_each_item(raw, |item| {
                if count < features && refused.is_ok() {
                    refused = number(item, place.feature(count)).map(|value| values.push(value));
                }
                count += 1;
                Ok::<_, Infallible>(())
            });
            if count != features {
                let message = format!("{place} must be {}; got {count}", expected());
                return Err(ApiError::unprocessable(ErrorCode::WrongWidth, message).at(place));
            }
            refused
        }
        [b'{', ..] if !names.is_empty() => {
            let items = json::fields_of(raw, names).unwrap_or_default();
            for (item, name) in items.into_iter().zip(names) {
                let Some(item) = item else {
                    let message = format!(
                        "{place} must have a number for each of the {features} features {}; \
                         {name} is missing",
                        listed(names)
                    );
                    let error = ApiError::unprocessable(ErrorCode::MissingField, message);
                    return Err(error.at(place.feature_name(name)));
                };
                values.push(number(item, place.feature_name(name))?);
            }
            Ok(())
        }
        _ if features == 1 => {
            values.push(number(raw, place)?);
            Ok(())
        }
        _ => {
            let code = match json::number(raw) {
                Err(error @ NumberError::TooLarge) => return Err(error.at(place, raw)),
                Err(_) => ErrorCode::WrongType,
                Ok(_) => ErrorCode::WrongWidth,
            };
            let got = json::excerpt_of(raw);
            let message = format!("{place} must be {}, got {got}", expected());
            Err(ApiError::unprocessable(code, message).at(place))
        }
    }
}

/// Feature names for an error message, which need not show a thousand.
fn listed(names: &[String]) -> String {
    const MAX_LISTED: usize = 16;
    let more = if names.len() > MAX_LISTED {
        ", …"
    } else {
        ""
    };
    let names = &names[..names.len().min(MAX_LISTED)];
    format!("{}{more}", names.join(", "))
}

/// Parses `value`, or else `values`; and `explain`. Refuses `readings` where it has neither.
fn parse<R>(
    body: &[u8],
    example: &str,
    parse_reading: impl Fn(&RawValue, Place) -> Result<R, ApiError>,
) -> Result<(PredictRequest<R>, bool), ApiError> {
    let text = json::decode(body)?;
    let [value, values, explain, readings] =
        json::fields(&text, ["value", "values", "explain", "readings"], example)?;
    let request = match (value, values) {
        (Some(raw), _) => PredictRequest::One(parse_reading(raw, "value".into())?),
        (None, Some(raw)) => PredictRequest::Many(
            items_of_values(raw)?
                .into_iter()
                .enumerate()
                .map(|(i, raw)| parse_reading(raw, Place::item("values", i)))
                .collect::<Result<_, _>>()?,
        ),
        (None, None) if readings.is_some() => return Err(ApiError::readings()),
        (None, None) => return Err(json::missing("value", example)),
    };
    Ok((request, json::flag("explain", explain)?))
}

/// The readings of `values`, of which there may not be too many.
pub(super) fn items_of_values(raw: &RawValue) -> Result<Vec<&RawValue>, ApiError> {
    let items = json::items(raw).ok_or_else(|| json::not_a_list("values", raw))?;
    check_count("values", "numbers", items.len())?;
    Ok(items)
}

/// Refuses a list of too many items.
pub(super) fn check_count(field: &'static str, items: &str, count: usize) -> Result<(), ApiError> {
    if count <= MAX_VALUES {
        return Ok(());
    }
    let message = format!("{field} must hold at most {MAX_VALUES} {items}, got {count}");
    Err(ApiError::unprocessable(ErrorCode::TooMany, message).at(field))
}
