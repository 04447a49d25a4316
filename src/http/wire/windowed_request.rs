//! The body of a prediction of a windowed model: new readings, or a whole window.

use std::borrow::Cow;

use chrono::DateTime;
use serde_json::value::RawValue;

use super::json;
use super::predict_request::{example, items_of_values, parse_row_into};
use crate::detector::Window;
use crate::http::error::{ApiError, ErrorCode};
use crate::http::place::Place;

/// What a request to a windowed model holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum WindowedForm {
    /// `{"value": …}`: the next reading.
    One,
    /// `{"values": […]}`: the next readings.
    Many,
    /// `{"window": […]}`: the last readings, of which the last one is judged.
    Window,
}

/// A request to a windowed model.
#[derive(Debug, PartialEq)]
pub(in crate::http) struct WindowedRequest {
    pub(in crate::http) form: WindowedForm,
    /// The values of the readings, one reading after the other.
    pub(in crate::http) readings: Vec<f64>,
    /// The time of each reading, in milliseconds since 1970; empty if no reading has one.
    pub(in crate::http) times: Vec<Option<i64>>,
    pub(in crate::http) explain: bool,
}

impl WindowedRequest {
    /// The place of a reading in the body.
    pub(in crate::http) fn place(&self, index: usize) -> Place {
        place(self.form, index)
    }
}

fn place(form: WindowedForm, index: usize) -> Place {
    match form {
        WindowedForm::One => "value".into(),
        WindowedForm::Many => Place::item("values", index),
        WindowedForm::Window => Place::item("window", index),
    }
}

/// Parses `value`, or else `values`, or else `window`; the times that belong to them; and `explain`.
/// Refuses `readings` where it has none of the three.
pub(in crate::http) fn parse_windowed(
    body: &[u8],
    window: &Window,
    names: &[String],
) -> Result<WindowedRequest, ApiError> {
    const FIELDS: [&str; 7] = [
        "value", "values", "window", "time", "times", "explain", "readings",
    ];
    let sensors = window.sensors();
    let text = json::decode(body)?;
    let [value, values, whole, time, times, explain, many] =
        json::fields(&text, FIELDS, example(sensors))?;
    let (form, items) = match (value, values, whole) {
        (Some(raw), _, _) => (WindowedForm::One, vec![raw]),
        (None, Some(raw), _) => (WindowedForm::Many, items_of_values(raw)?),
        (None, None, Some(raw)) => (WindowedForm::Window, items_of_window(raw, window.size())?),
        (None, None, None) if many.is_some() => return Err(ApiError::readings()),
        (None, None, None) => return Err(json::missing("value", example(sensors))),
    };
    let mut readings = Vec::with_capacity(items.len().saturating_mul(sensors));
    for (i, raw) in items.iter().enumerate() {
        parse_row_into(&mut readings, raw, place(form, i), sensors, names)?;
    }
    let times = match form {
        WindowedForm::One => match time {
            Some(raw) => vec![parse_time(raw, "time".into())?],
            None => Vec::new(),
        },
        WindowedForm::Many => match times.filter(|raw| raw.get() != "null") {
            Some(raw) => parse_times(raw, items.len())?,
            None => Vec::new(),
        },
        WindowedForm::Window => Vec::new(),
    };
    Ok(WindowedRequest {
        form,
        readings,
        times,
        explain: json::flag("explain", explain)?,
    })
}

fn items_of_window(raw: &RawValue, size: usize) -> Result<Vec<&RawValue>, ApiError> {
    let items = json::items(raw).ok_or_else(|| {
        let message = format!(
            "window must be a list of the last {size} readings, got {}",
            json::excerpt_of(raw)
        );
        ApiError::unprocessable(ErrorCode::WrongType, message).at("window")
    })?;
    if items.len() != size {
        let message = format!(
            "window must hold the last {size} readings, the oldest first, as the model judges so \
             many together; got {}",
            items.len()
        );
        return Err(ApiError::unprocessable(ErrorCode::WrongWidth, message).at("window"));
    }
    Ok(items)
}

fn parse_times(raw: &RawValue, readings: usize) -> Result<Vec<Option<i64>>, ApiError> {
    let items = json::items(raw).ok_or_else(|| {
        let message = format!(
            "times must be a list of a time for each of the values, got {}",
            json::excerpt_of(raw)
        );
        ApiError::unprocessable(ErrorCode::WrongType, message).at("times")
    })?;
    if items.len() != readings {
        let message = format!(
            "times must hold a time, or null, for each of the {readings} values; got {}",
            items.len()
        );
        return Err(ApiError::unprocessable(ErrorCode::WrongWidth, message).at("times"));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(i, raw)| parse_time(raw, Place::item("times", i)))
        .collect()
}

/// Parses a time, in milliseconds since 1970, rounded down; `None` for null.
pub(super) fn parse_time(raw: &RawValue, place: Place) -> Result<Option<i64>, ApiError> {
    let time = match raw.get().as_bytes() {
        b"null" => return Ok(None),
        // The cast saturates. A time that far off is a clock that runs wild, not a bad request.
        [b'-' | b'0'..=b'9', ..] => match json::number(raw) {
            Ok(milliseconds) => Some(milliseconds.floor() as i64),
            Err(error) => return Err(error.at(place, raw)),
        },
        [b'"', ..] => serde_json::from_str::<Cow<'_, str>>(raw.get())
            .ok()
            .and_then(|text| DateTime::parse_from_rfc3339(text.trim()).ok())
            .map(|time| time.timestamp_millis()),
        _ => None,
    };
    if time.is_none() {
        let message = format!(
            "{place} must be a time such as \"2026-11-24T09:30:00Z\" or \
             \"2026-11-24T10:30:00.250+01:00\", or a number of milliseconds since 1970, got {}",
            json::excerpt_of(raw)
        );
        return Err(ApiError::unprocessable(ErrorCode::WrongType, message).at(place));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn window(size: u32, sensors: usize) -> Window {
        let ranges = vec![json!({"low": 0.0, "high": 1.0}); sensors];
        let window = json!({
            "size": size,
            "readings": 100,
            "scaler": {"mean": vec![0.0; sensors], "scale": vec![1.0; sensors]},
            "training_ranges": ranges,
            "kept": [0],
        });
        serde_json::from_value(window).expect("a sound window")
    }

    fn parse(body: &str) -> Result<WindowedRequest, ApiError> {
        parse_windowed(body.as_bytes(), &window(3, 1), &[])
    }

    fn time(json: &str) -> Result<Option<i64>, ApiError> {
        let raw: &RawValue = serde_json::from_str(json).expect("JSON");
        parse_time(raw, "time".into())
    }

    #[test]
    fn a_request_has_one_of_three_forms() {
        for (body, form, readings, times) in [
            (r#"{"value": 2}"#, WindowedForm::One, vec![2.0], vec![]),
            (
                r#"{"value": [2], "values": [3], "time": 5, "times": "x"}"#,
                WindowedForm::One,
                vec![2.0],
                vec![Some(5)],
            ),
            (
                r#"{"value": "2.5", "time": null}"#,
                WindowedForm::One,
                vec![2.5],
                vec![None],
            ),
            (
                r#"{"values": [2, [3]], "window": 1, "times": [7.9, null]}"#,
                WindowedForm::Many,
                vec![2.0, 3.0],
                vec![Some(7), None],
            ),
            (
                r#"{"values": [2, 3], "times": null}"#,
                WindowedForm::Many,
                vec![2.0, 3.0],
                vec![],
            ),
            (r#"{"values": []}"#, WindowedForm::Many, vec![], vec![]),
            (
                r#"{"window": [1, 2, 3]}"#,
                WindowedForm::Window,
                vec![1.0, 2.0, 3.0],
                vec![],
            ),
        ] {
            let expected = WindowedRequest {
                form,
                readings,
                times,
                explain: false,
            };
            assert_eq!(parse(body), Ok(expected), "{body}");
        }
        let explain = |body| parse(body).map(|request| request.explain);
        assert_eq!(explain(r#"{"value": 2, "explain": true}"#), Ok(true));
        assert_eq!(explain(r#"{"value": 2, "explain": null}"#), Ok(false));
    }

    #[test]
    fn readings_of_several_sensors_are_lists_or_objects() {
        let names = ["a".to_owned(), "b".to_owned()];
        let body = br#"{"values": [[1, 2], {"b": 4, "a": 3}]}"#;
        let request = parse_windowed(body, &window(3, 2), &names);
        let readings = request.map(|request| request.readings);
        assert_eq!(readings, Ok(vec![1.0, 2.0, 3.0, 4.0]));
    }

    #[test]
    fn a_bad_request_names_the_field_and_what_it_got() {
        for (body, field, code, error) in [
            (
                r#"{"values": [1, 2], "times": [1]}"#,
                "times",
                "wrong_width",
                "times must hold a time, or null, for each of the 2 values; got 1",
            ),
            (
                r#"{"values": [1, 2], "times": 5}"#,
                "times",
                "wrong_type",
                "times must be a list of a time for each of the values, got 5",
            ),
            (
                r#"{"values": [1, 2], "times": [1, "noon"]}"#,
                "times",
                "wrong_type",
                "times[1] must be a time such as \"2026-11-24T09:30:00Z\" or \
                 \"2026-11-24T10:30:00.250+01:00\", or a number of milliseconds since 1970, got \
                 \"noon\"",
            ),
            (
                r#"{"window": [1, 2]}"#,
                "window",
                "wrong_width",
                "window must hold the last 3 readings, the oldest first, as the model judges so \
                 many together; got 2",
            ),
            (
                r#"{"window": {}}"#,
                "window",
                "wrong_type",
                "window must be a list of the last 3 readings, got {}",
            ),
            (
                r#"{"window": [1, 2, null]}"#,
                "window",
                "wrong_type",
                "window[2] must be a finite number, got null",
            ),
            (
                r#"{"value": 1, "explain": "yes"}"#,
                "explain",
                "wrong_type",
                "explain: must be true or false, got \"yes\"",
            ),
            (
                "{}",
                "value",
                "missing_field",
                "the field value is missing; the body must be an object such as {\"value\": 2.5}",
            ),
        ] {
            let refused = parse(body).expect_err(body);
            assert_eq!(refused.to_string(), error, "{body}");
            assert_eq!(refused.status(), 422, "{body}");
            let json: serde_json::Value = serde_json::from_slice(&refused.to_json()).expect("JSON");
            assert_eq!(
                (&json["code"], &json["field"]),
                (&json!(code), &json!(field))
            );
        }
    }

    #[test]
    fn times_are_rfc_3339_or_milliseconds() {
        for (json, milliseconds) in [
            ("null", None),
            ("0", Some(0)),
            ("1700000000000", Some(1_700_000_000_000)),
            ("1700000000000.75", Some(1_700_000_000_000)),
            ("-1.5", Some(-2)),
            ("1.7e12", Some(1_700_000_000_000)),
            // Far beyond any calendar.
            ("1e300", Some(i64::MAX)),
            ("-1e300", Some(i64::MIN)),
            (r#""1970-01-01T00:00:00Z""#, Some(0)),
            (r#""2023-11-14T22:13:20Z""#, Some(1_700_000_000_000)),
            (r#""2023-11-14T22:13:20.123456Z""#, Some(1_700_000_000_123)),
            (r#""2023-11-15T03:43:20+05:30""#, Some(1_700_000_000_000)),
            (r#""2023-11-14T14:13:20.5-08:00""#, Some(1_700_000_000_500)),
            (r#"" 2023-11-14 22:13:20z ""#, Some(1_700_000_000_000)),
            (r#""2023-11-14T22:13:20\u005a""#, Some(1_700_000_000_000)),
            (r#""1969-12-31T23:59:59.999Z""#, Some(-1)),
            (r#""2016-12-31T23:59:60Z""#, Some(1_483_228_800_000)),
            (r#""0001-01-01T00:00:00Z""#, Some(-62_135_596_800_000)),
            (r#""9999-12-31T23:59:59Z""#, Some(253_402_300_799_000)),
        ] {
            assert_eq!(time(json), Ok(milliseconds), "{json}");
        }
        for json in [
            "true",
            "[]",
            "{}",
            r#""""#,
            r#""1700000000000""#,
            r#""2023-11-14""#,
            r#""2023-11-14T22:13:20""#,
            r#""2023-13-14T22:13:20Z""#,
            r#""2023-02-29T22:13:20Z""#,
            r#""Tue, 14 Nov 2023 22:13:20 GMT""#,
            r#""\ud800""#,
        ] {
            let refused = time(json).expect_err(json);
            assert_eq!(refused.status(), 422, "{json}");
            assert!(
                refused.to_string().ends_with(&format!("got {json}")),
                "{refused}"
            );
        }
        assert_eq!(time("1e400").expect_err("too large").status(), 400);
    }
}
