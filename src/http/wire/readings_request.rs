//! The body of a prediction with many models: `{"readings": [{"model": …, "value": …}, …]}`.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use super::json;
use crate::http::error::{ApiError, ErrorCode};
use crate::http::limits::MAX_VALUES;
use crate::store::{ModelName, NameError};

const EXAMPLE: &str = r#"{"model": "press-1", "value": 2.5}"#;

/// A request for predictions with many models.
#[derive(Debug)]
pub(in crate::http) struct ReadingsRequest {
    /// The number of readings.
    pub(in crate::http) len: usize,
    /// The readings of each model, in the order of the first one.
    pub(in crate::http) models: Vec<ModelReadings>,
    /// The readings that name no model, or have no value.
    pub(in crate::http) refused: Vec<RefusedReading>,
}

/// The readings of a model, in their order.
#[derive(Debug)]
pub(in crate::http) struct ModelReadings {
    pub(in crate::http) name: ModelName,
    pub(in crate::http) readings: Vec<ModelReading>,
}

/// A reading as its request has it.
#[derive(Debug)]
pub(in crate::http) struct ModelReading {
    /// Its place in the request.
    pub(in crate::http) index: usize,
    value: Box<RawValue>,
    time: Option<Box<RawValue>>,
}

/// A reading that no model can predict.
#[derive(Debug)]
pub(in crate::http) struct RefusedReading {
    pub(in crate::http) index: usize,
    pub(in crate::http) model: Option<String>,
    pub(in crate::http) error: ApiError,
}

impl ModelReading {
    /// The body that asks the model for this reading only.
    pub(in crate::http) fn body(&self) -> String {
        let time = self.time.as_ref();
        let time = time.map_or_else(String::new, |time| format!(r#","time":{time}"#));
        format!(r#"{{"value":{}{time}}}"#, self.value)
    }
}

impl ModelReadings {
    /// The body that asks the model for all these readings.
    pub(in crate::http) fn body(&self) -> String {
        if let [reading] = &*self.readings {
            return reading.body();
        }
        let list = |items: &mut dyn Iterator<Item = &str>| items.collect::<Vec<_>>().join(",");
        let values = list(&mut self.readings.iter().map(|reading| reading.value.get()));
        if self.readings.iter().all(|reading| reading.time.is_none()) {
            return format!(r#"{{"values":[{values}]}}"#);
        }
        let mut times = self.readings.iter().map(|reading| match &reading.time {
            Some(time) => time.get(),
            None => "null",
        });
        let times = list(&mut times);
        format!(r#"{{"values":[{values}],"times":[{times}]}}"#)
    }
}

/// Parses a request; `None` if its object has no `readings`.
pub(in crate::http) fn parse_readings(body: &[u8]) -> Result<Option<ReadingsRequest>, ApiError> {
    let text = json::decode(body)?;
    let [Some(raw)] = json::fields(&text, ["readings"], EXAMPLE)? else {
        return Ok(None);
    };
    let items = json::items(raw).ok_or_else(|| {
        let got = json::excerpt_of(raw);
        let message = format!("readings must be a list of objects such as {EXAMPLE}, got {got}");
        ApiError::unprocessable(ErrorCode::WrongType, message).at("readings")
    })?;
    if items.len() > MAX_VALUES {
        let got = items.len();
        let message = format!("readings must hold at most {MAX_VALUES} readings, got {got}");
        return Err(ApiError::unprocessable(ErrorCode::TooMany, message).at("readings"));
    }
    let mut request = ReadingsRequest {
        len: items.len(),
        models: Vec::new(),
        refused: Vec::new(),
    };
    let mut positions = HashMap::new();
    for (index, raw) in items.into_iter().enumerate() {
        let mut model = None;
        match parse_reading(index, raw, &mut model) {
            Ok((name, reading)) => {
                let position = *positions.entry(name.clone()).or_insert_with(|| {
                    request.models.push(ModelReadings {
                        name,
                        readings: Vec::new(),
                    });
                    request.models.len() - 1
                });
                request.models[position].readings.push(reading);
            }
            Err(error) => request.refused.push(RefusedReading {
                index,
                model,
                error,
            }),
        }
    }
    Ok(Some(request))
}

/// Parses a reading. `model` is set as soon as the name of the model is known, also if the reading is
/// refused.
fn parse_reading(
    index: usize,
    raw: &RawValue,
    model: &mut Option<String>,
) -> Result<(ModelName, ModelReading), ApiError> {
    if !raw.get().starts_with('{') {
        let got = json::excerpt_of(raw);
        let message = format!("a reading must be an object such as {EXAMPLE}, got {got}");
        return Err(ApiError::unprocessable(ErrorCode::WrongType, message));
    }
    let missing = |field: &'static str| {
        let message = format!("the field {field} is missing; a reading is like {EXAMPLE}");
        ApiError::unprocessable(ErrorCode::MissingField, message).at(field)
    };
    let [name, value, time] = json::fields(raw.get(), ["model", "value", "time"], EXAMPLE)?;
    let name = name.ok_or_else(|| missing("model"))?;
    let text: Cow<'_, str> = serde_json::from_str(name.get()).map_err(|_| {
        let got = json::excerpt_of(name);
        let message = format!("model must be the name of a model, got {got}");
        ApiError::unprocessable(ErrorCode::WrongType, message).at("model")
    })?;
    let text = model.insert(text.into_owned());
    let name: ModelName = text.parse().map_err(|error: NameError| {
        ApiError::unprocessable(ErrorCode::BadName, error.to_string()).at("model")
    })?;
    let reading = ModelReading {
        index,
        value: value.ok_or_else(|| missing("value"))?.to_owned(),
        time: time.map(RawValue::to_owned),
    };
    Ok((name, reading))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_grouped_by_model_in_their_order() {
        let body = br#"{"readings": [
            {"model": "b", "value": 1}, {"value": "2.50", "model": "a", "time": null},
            {"model": "b", "value": [3], "time": "x"}, 4, {"model": "b"}, {"value": 1},
            {"model": "a/b", "value": 1}, {"model": 7, "value": 1}
        ]}"#;
        let request = parse_readings(body).expect("a request").expect("readings");
        assert_eq!(request.len, 8);
        let bodies: Vec<_> = request
            .models
            .iter()
            .map(|model| (model.name.as_str(), model.body()))
            .collect();
        let expected = [
            ("b", r#"{"values":[1,[3]],"times":[null,"x"]}"#),
            ("a", r#"{"value":"2.50","time":null}"#),
        ];
        assert_eq!(bodies, expected.map(|(name, body)| (name, body.to_owned())));
        let refused: Vec<_> = request
            .refused
            .iter()
            .map(|refused| (refused.index, refused.model.as_deref()))
            .collect();
        let expected = [
            (3, None),
            (4, Some("b")),
            (5, None),
            (6, Some("a/b")),
            (7, None),
        ];
        assert_eq!(refused, expected);
        assert!(parse_readings(br#"{"value": 1}"#).expect("JSON").is_none());
    }
}
