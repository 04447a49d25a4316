//! The body of a prediction with many models: `{"readings": [{"model": …, "value": …}, …]}`.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use super::json;
use super::predict_request::{check_count, example, parse_row, parse_row_into};
use super::windowed_request::parse_time;
use crate::detector::Window;
use crate::http::error::{ApiError, ErrorCode};
use crate::store::{ModelName, NameError};

const EXAMPLE: &str = r#"{"model": "press-1", "value": 2.5}"#;

/// A request for predictions with many models.
#[derive(Debug)]
pub(in crate::http) struct ReadingsRequest<'a> {
    /// The number of readings.
    pub(in crate::http) len: usize,
    /// The models in the order of their first readings.
    pub(in crate::http) models: Vec<ModelReadings<'a>>,
    /// The readings that name no possible model.
    pub(in crate::http) refused: Vec<RefusedReading>,
}

/// The readings of one model, in their order.
#[derive(Debug)]
pub(in crate::http) struct ModelReadings<'a> {
    pub(in crate::http) name: ModelName,
    pub(in crate::http) readings: Vec<ModelReading<'a>>,
}

/// A reading that only its model can parse.
#[derive(Debug)]
pub(in crate::http) struct ModelReading<'a> {
    /// Its position in the request.
    pub(in crate::http) index: usize,
    value: Option<&'a RawValue>,
    time: Option<&'a RawValue>,
}

/// A reading that names no possible model.
#[derive(Debug)]
pub(in crate::http) struct RefusedReading {
    pub(in crate::http) index: usize,
    /// The text that cannot be a name.
    pub(in crate::http) model: Option<String>,
    pub(in crate::http) error: ApiError,
}

impl<'a> ModelReading<'a> {
    /// Parses the reading for a model without a window, which ignores times.
    pub(in crate::http) fn row(
        &self,
        features: usize,
        names: &[String],
    ) -> Result<Vec<f64>, ApiError> {
        parse_row(self.value(features)?, "value".into(), features, names)
    }

    /// Parses the reading for a windowed model and appends it to `readings`; returns its time.
    pub(in crate::http) fn windowed_into(
        &self,
        readings: &mut Vec<f64>,
        window: &Window,
        names: &[String],
    ) -> Result<Option<i64>, ApiError> {
        let sensors = window.sensors();
        let value = self.value(sensors)?;
        parse_row_into(readings, value, "value".into(), sensors, names)?;
        self.time
            .map_or(Ok(None), |time| parse_time(time, "time".into()))
    }

    fn value(&self, features: usize) -> Result<&'a RawValue, ApiError> {
        self.value
            .ok_or_else(|| json::missing("value", example(features)))
    }
}

/// Parses the text of a request that has `readings`.
pub(in crate::http) fn parse_readings(text: &str) -> Result<ReadingsRequest<'_>, ApiError> {
    const BODY: &str = r#"{"readings": [{"model": "press-1", "value": 2.5}]}"#;
    let [raw] = json::fields(text, ["readings"], BODY)?;
    let raw = raw.ok_or_else(|| json::missing("readings", BODY))?;
    let items = json::items(raw).ok_or_else(|| {
        let got = json::excerpt_of(raw);
        let message = format!("readings must be a list of objects such as {EXAMPLE}, got {got}");
        ApiError::unprocessable(ErrorCode::WrongType, message).at("readings")
    })?;
    check_count("readings", "readings", items.len())?;
    let mut request = ReadingsRequest {
        len: items.len(),
        models: Vec::new(),
        refused: Vec::new(),
    };
    let mut positions = HashMap::new();
    for (index, raw) in items.into_iter().enumerate() {
        let (name, reading) = match parse_reading(index, raw) {
            Ok(parsed) => parsed,
            Err(error) => {
                let model = None;
                let refused = RefusedReading {
                    index,
                    model,
                    error,
                };
                request.refused.push(refused);
                continue;
            }
        };
        if let Some(&position) = positions.get(&name) {
            let model: &mut ModelReadings<'_> = &mut request.models[position];
            model.readings.push(reading);
            continue;
        }
        match name.parse() {
            Ok(parsed) => {
                positions.insert(name, request.models.len());
                request.models.push(ModelReadings {
                    name: parsed,
                    readings: vec![reading],
                });
            }
            Err(error) => {
                let error: NameError = error;
                let error = ApiError::unprocessable(ErrorCode::BadName, error.to_string());
                request.refused.push(RefusedReading {
                    index,
                    model: Some(name.into_owned()),
                    error: error.at("model"),
                });
            }
        }
    }
    Ok(request)
}

/// The name of a model, not checked yet, and its reading.
fn parse_reading(
    index: usize,
    raw: &RawValue,
) -> Result<(Cow<'_, str>, ModelReading<'_>), ApiError> {
    if !raw.get().starts_with('{') {
        let got = json::excerpt_of(raw);
        let message = format!("a reading must be an object such as {EXAMPLE}, got {got}");
        return Err(ApiError::unprocessable(ErrorCode::WrongType, message));
    }
    let [model, value, time] = json::fields(raw.get(), ["model", "value", "time"], EXAMPLE)?;
    let model = model.ok_or_else(|| {
        let message =
            format!("the field model is missing; a reading is an object such as {EXAMPLE}");
        ApiError::unprocessable(ErrorCode::MissingField, message).at("model")
    })?;
    let name = json::text(model).ok_or_else(|| {
        let expected = "must be the name of a model";
        json::unexpected(ErrorCode::WrongType, "model", expected, model)
    })?;
    Ok((name, ModelReading { index, value, time }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_grouped_by_model_in_their_order() {
        let text = r#"{"other": 1, "readings": [
            {"model": "b", "value": 1}, {"value": "2.50", "model": "a", "time": null},
            {"model": "\u0062", "value": [3], "time": "x"}, 4, {"model": "b"}, {"value": 1},
            {"model": "a/b", "value": 1}, {"model": 7, "value": 1}, {"model": "\ud800"},
            {"model": "x", "model": "a", "value": 1, "value": 2, "unit": "mm/s"}
        ]}"#;
        let request = parse_readings(text).expect("a request");
        assert_eq!(request.len, 10);
        let models: Vec<_> = request
            .models
            .iter()
            .map(|model| {
                let readings = model.readings.iter().map(|reading| {
                    let text = |raw: Option<&RawValue>| raw.map(|raw| raw.get().to_owned());
                    (reading.index, text(reading.value), text(reading.time))
                });
                (model.name.as_str(), readings.collect::<Vec<_>>())
            })
            .collect();
        let text = |text: &str| Some(text.to_owned());
        let expected = [
            (
                "b",
                vec![
                    (0, text("1"), None),
                    (2, text("[3]"), text("\"x\"")),
                    (4, None, None),
                ],
            ),
            (
                "a",
                vec![(1, text("\"2.50\""), text("null")), (9, text("2"), None)],
            ),
        ];
        assert_eq!(models, expected);
        let refused: Vec<_> = request
            .refused
            .iter()
            .map(|refused| (refused.index, refused.model.as_deref()))
            .collect();
        assert_eq!(
            refused,
            [(3, None), (5, None), (6, Some("a/b")), (7, None), (8, None)]
        );
    }
}
