//! Response bodies: server.py's shapes, key order and number format, and those of models by name.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::Serialize;

use crate::detector::{Contribution, Judgement, OutOfRange, Prediction, View, Window};
use crate::http::place::Place;
use crate::registry::{ServedModel, Summary};
use crate::store::{Drift, ModelName};

/// A reading, or its scaled values: a number, or a list of numbers.
pub(in crate::http) trait Reading {
    /// The value of each feature.
    fn values(&self) -> &[f64];

    /// The value of a feature.
    fn value(&self, feature: usize) -> f64;

    /// The place of that value, where the reading's is `place`.
    fn place(place: Place, feature: usize) -> Place;
}

impl Reading for f64 {
    fn values(&self) -> &[f64] {
        std::slice::from_ref(self)
    }

    fn value(&self, _: usize) -> f64 {
        *self
    }

    fn place(place: Place, _: usize) -> Place {
        place
    }
}

impl Reading for Vec<f64> {
    fn values(&self) -> &[f64] {
        self
    }

    fn value(&self, feature: usize) -> f64 {
        self.get(feature).copied().unwrap_or(f64::NAN)
    }

    fn place(place: Place, feature: usize) -> Place {
        place.feature(feature)
    }
}

/// The response to one reading.
pub(in crate::http) fn prediction<R: Reading>(reading: &R, prediction: &Prediction<R>) -> Vec<u8> {
    let mut body = String::with_capacity(160);
    push_prediction(&mut body, reading, prediction);
    body.push('\n');
    body.into_bytes()
}

/// The response to many readings of `features` values each: `values` and `scaled` hold one reading
/// after the other.
pub(in crate::http) fn predictions(
    features: usize,
    values: &[f64],
    scaled: &[f64],
    judged: &[Prediction<()>],
) -> Vec<u8> {
    let mut body = String::with_capacity(20 + (120 + 40 * features) * judged.len());
    body.push_str("{\"predictions\":[");
    let readings = values.chunks_exact(features);
    let scaled = scaled.chunks_exact(features);
    for (i, ((reading, scaled), prediction)) in readings.zip(scaled).zip(judged).enumerate() {
        if i > 0 {
            body.push(',');
        }
        push_score(&mut body, prediction);
        push_judged(&mut body, prediction, reading, scaled);
    }
    body.push_str("]}\n");
    body.into_bytes()
}

fn push_prediction<R: Reading>(body: &mut String, reading: &R, prediction: &Prediction<R>) {
    push_score(body, prediction);
    push_judged(
        body,
        prediction,
        reading.values(),
        prediction.scaled.values(),
    );
}

fn push_score<S>(body: &mut String, prediction: &Prediction<S>) {
    body.push_str("{\"anomaly_score\":");
    push_float(body, prediction.anomaly_score);
}

/// The rest of a prediction, after its score.
fn push_judged<S>(body: &mut String, prediction: &Prediction<S>, reading: &[f64], scaled: &[f64]) {
    body.push_str(",\"input_value\":");
    push_values(body, reading);
    body.push_str(match prediction.out_of_range {
        None => "",
        Some(true) => ",\"out_of_range\":true",
        Some(false) => ",\"out_of_range\":false",
    });
    body.push_str(if prediction.is_anomaly {
        ",\"prediction\":1,\"scaled_value\":"
    } else {
        ",\"prediction\":0,\"scaled_value\":"
    });
    push_values(body, scaled);
    body.push_str(if prediction.is_anomaly {
        ",\"status\":\"Anomaly Detected\"}"
    } else {
        ",\"status\":\"Normal Behaviour\"}"
    });
}

/// A number for one feature, a list for several.
fn push_values(body: &mut String, values: &[f64]) {
    match values {
        [value] => push_float(body, *value),
        values => push_list(body, values),
    }
}

/// The response to readings with an explanation: to the only one, or to a list.
pub(in crate::http) fn explained_predictions<R: Reading>(
    readings: &[R],
    explained: &[(Prediction<R>, Vec<Contribution>)],
    names: &[String],
    is_list: bool,
) -> Vec<u8> {
    let readings = readings.iter().zip(explained);
    list(
        is_list,
        readings,
        |body, (reading, (prediction, contributions))| {
            push_score(body, prediction);
            push_contributions(body, contributions, names);
            push_judged(
                body,
                prediction,
                reading.values(),
                prediction.scaled.values(),
            );
        },
    )
}

/// A prediction of a windowed model.
pub(in crate::http) struct WindowedPrediction<'a> {
    pub(in crate::http) reading: &'a [f64],
    pub(in crate::http) scaled: &'a [f64],
    pub(in crate::http) is_outside: bool,
    /// `None` while the model is warming up.
    pub(in crate::http) judgement: Option<&'a Judgement>,
    /// `None` where the request has the window.
    pub(in crate::http) alarm: Option<bool>,
}

/// The response of a windowed model: to one reading, or to a list. `names` are those of its features
/// if the request asks for an explanation.
pub(in crate::http) fn windowed_predictions<'a>(
    predictions: impl IntoIterator<Item = WindowedPrediction<'a>>,
    names: Option<&[String]>,
    is_list: bool,
) -> Vec<u8> {
    list(is_list, predictions, |body, prediction| {
        push_windowed(body, &prediction, names);
    })
}

fn push_windowed(body: &mut String, prediction: &WindowedPrediction<'_>, names: Option<&[String]>) {
    body.push_str(match prediction.alarm {
        None => "{\"anomaly_score\":",
        Some(true) => "{\"alarm\":true,\"anomaly_score\":",
        Some(false) => "{\"alarm\":false,\"anomaly_score\":",
    });
    match prediction.judgement {
        None => body.push_str("null"),
        Some(judgement) => push_float(body, judgement.anomaly_score),
    }
    if let Some(names) = names {
        let contributions = prediction
            .judgement
            .and_then(|judgement| judgement.contributions.as_deref());
        match contributions {
            Some(contributions) => push_contributions(body, contributions, names),
            None => body.push_str(",\"contributions\":null"),
        }
    }
    body.push_str(",\"input_value\":");
    push_values(body, prediction.reading);
    body.push_str(match prediction.is_outside {
        true => ",\"out_of_range\":true",
        false => ",\"out_of_range\":false",
    });
    let (label, status) = match prediction.judgement {
        None => ("0", "Warming Up"),
        Some(judgement) if judgement.is_anomaly => ("1", "Anomaly Detected"),
        Some(_) => ("0", "Normal Behaviour"),
    };
    let _ = write!(body, ",\"prediction\":{label},\"scaled_value\":");
    push_values(body, prediction.scaled);
    let _ = write!(body, ",\"status\":\"{status}\"}}");
}

/// Writes the contributions, the greatest share first.
fn push_contributions(body: &mut String, contributions: &[Contribution], names: &[String]) {
    let mut contributions: Vec<&Contribution> = contributions.iter().collect();
    contributions.sort_by(|a, b| b.share.total_cmp(&a.share));
    body.push_str(",\"contributions\":[");
    for (i, contribution) in contributions.into_iter().enumerate() {
        body.push_str(if i > 0 {
            ",{\"feature\":"
        } else {
            "{\"feature\":"
        });
        match names.get(contribution.feature) {
            // A string always has a JSON form.
            Some(name) => body.push_str(&serde_json::to_string(name).unwrap_or_default()),
            None => {
                let _ = write!(body, "{}", contribution.feature);
            }
        }
        body.push_str(",\"share\":");
        push_float(body, contribution.share);
        body.push_str(match contribution.view {
            View::Value => ",\"view\":\"value\"}",
            View::Level => ",\"view\":\"level\"}",
            View::Spread => ",\"view\":\"spread\"}",
        });
    }
    body.push(']');
}

/// The response to one reading, or to a list of them.
fn list<T>(
    is_list: bool,
    items: impl IntoIterator<Item = T>,
    push: impl Fn(&mut String, T),
) -> Vec<u8> {
    let mut body = String::with_capacity(200);
    if is_list {
        body.push_str("{\"predictions\":[");
    }
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            body.push(',');
        }
        push(&mut body, item);
    }
    body.push_str(if is_list { "]}\n" } else { "\n" });
    body.into_bytes()
}

/// The response of server.py's /retrain.
pub(in crate::http) fn retrained(samples_used: usize) -> Vec<u8> {
    format!("{{\"message\":\"Model retrained successfully\",\"samples_used\":{samples_used}}}\n")
        .into_bytes()
}

/// A model in the list of all models.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ModelSummary {
    name: String,
    features: usize,
    samples_used: usize,
    trained_at: String,
    version: Option<u64>,
}

impl ModelSummary {
    pub(in crate::http) fn new(name: &ModelName, model: &Summary) -> Self {
        Self {
            name: name.to_string(),
            features: model.features,
            samples_used: model.samples,
            trained_at: time(model.trained_at),
            version: model.version,
        }
    }
}

/// All models, or a page of them.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ModelList {
    pub(in crate::http) models: Vec<ModelSummary>,
    /// Where the next page begins, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) next: Option<String>,
}

/// The description of a model.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ModelInfo {
    name: String,
    features: usize,
    feature_names: Option<Vec<String>>,
    samples_used: usize,
    contamination: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    false_alarm_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drift: Option<Drift>,
    n_estimators: usize,
    max_samples: usize,
    random_state: u32,
    threshold: f64,
    out_of_range: OutOfRange,
    out_of_range_margin: f64,
    trained_at: String,
    version: Option<u64>,
    restored_from: Option<u64>,
    training_ranges: Vec<[f64; 2]>,
    normal_ranges: Option<Vec<[Option<f64>; 2]>>,
    warnings: Vec<String>,
}

impl ModelInfo {
    pub(in crate::http) fn new(name: &ModelName, model: &ServedModel) -> Self {
        let forest = model.detector.forest();
        let held_back = model.held_back;
        let ranges = model.normal_ranges();
        let names = &model.feature_names;
        Self {
            name: name.to_string(),
            features: model.features(),
            feature_names: (!names.is_empty()).then(|| names.clone()),
            samples_used: model.samples(),
            contamination: match held_back {
                Some(_) => None,
                None => Some(forest.hyperparams().contamination()),
            },
            false_alarm_rate: held_back.map(|held_back| held_back.false_alarm_rate),
            window: model.window.as_ref().map(Window::size),
            drift: model.settings.drift,
            n_estimators: forest.hyperparams().n_estimators(),
            max_samples: forest.max_samples(),
            random_state: forest.random_state(),
            threshold: forest.threshold(),
            out_of_range: model.out_of_range,
            out_of_range_margin: model.out_of_range_margin,
            trained_at: time(model.trained_at),
            version: model.version_number(),
            restored_from: model.restored_from,
            training_ranges: {
                let ranges = model.training_ranges().iter();
                ranges.map(|range| [range.low, range.high]).collect()
            },
            normal_ranges: ranges
                .map(|ranges| ranges.iter().map(|range| [range.low, range.high]).collect()),
            warnings: model.warnings(),
        }
    }
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The response to a retrain or a rollback of a model by name.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ModelChanged {
    message: &'static str,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    restored_from: Option<u64>,
    samples_used: usize,
    version: Option<u64>,
    warnings: Vec<String>,
}

impl ModelChanged {
    pub(in crate::http) fn new(
        message: &'static str,
        name: &ModelName,
        model: &ServedModel,
    ) -> Self {
        Self {
            message,
            name: name.to_string(),
            restored_from: model.restored_from,
            samples_used: model.samples(),
            version: model.version_number(),
            warnings: model.warnings(),
        }
    }
}

/// The response to a deletion.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ModelDeleted {
    pub(in crate::http) message: &'static str,
    pub(in crate::http) name: String,
}

/// The response to `GET /version`.
#[derive(Debug, Serialize)]
pub(in crate::http) struct Version {
    pub(in crate::http) name: &'static str,
    pub(in crate::http) version: &'static str,
}

/// The versions of a model.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ModelVersions {
    pub(in crate::http) name: String,
    pub(in crate::http) served: Option<u64>,
    pub(in crate::http) versions: Vec<u64>,
}

fn push_list(body: &mut String, values: &[f64]) {
    body.push('[');
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            body.push(',');
        }
        push_float(body, *value);
    }
    body.push(']');
}

/// Python's `repr` of a finite float: the shortest digits that read back as the same number, of
/// two equally near the even one, with an exponent of two digits below 1e-4 and from 1e16 on.
fn push_float(out: &mut String, value: f64) {
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        out.push_str(text);
        return;
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    out.push_str(sign);
    if let Some((digits, exponent)) = digits.split_once('-') {
        let _ = write!(out, "{digits}-{exponent:0>2}");
    } else if let Some(digits) = digits.strip_prefix("0.0000") {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let _ = write!(out, "{first}{point}{rest}e-05");
    } else {
        out.push_str(digits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Responses must equal server.py's as text, so numbers are written as Python writes them.
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

    #[test]
    fn contributions_are_in_descending_order_and_name_their_features() {
        let names = ["a \"b\"".to_owned()];
        let contribution = |feature, view, share| Contribution {
            feature,
            view,
            share,
        };
        let judgement = Judgement {
            anomaly_score: 0.25,
            is_anomaly: true,
            contributions: Some(vec![
                contribution(0, View::Value, 0.0),
                contribution(1, View::Spread, 0.75),
                contribution(0, View::Level, 0.25),
            ]),
        };
        let prediction = |judgement| WindowedPrediction {
            reading: &[2.0],
            scaled: &[1e-7],
            is_outside: false,
            judgement,
            alarm: None,
        };
        let predictions = [prediction(Some(&judgement)), prediction(None)];
        let body = windowed_predictions(predictions, Some(&names), true);
        assert_eq!(
            String::from_utf8_lossy(&body),
            "{\"predictions\":[{\"anomaly_score\":0.25,\"contributions\":[\
             {\"feature\":1,\"share\":0.75,\"view\":\"spread\"},\
             {\"feature\":\"a \\\"b\\\"\",\"share\":0.25,\"view\":\"level\"},\
             {\"feature\":\"a \\\"b\\\"\",\"share\":0.0,\"view\":\"value\"}],\
             \"input_value\":2.0,\"out_of_range\":false,\"prediction\":1,\
             \"scaled_value\":1e-07,\"status\":\"Anomaly Detected\"},\
             {\"anomaly_score\":null,\"contributions\":null,\"input_value\":2.0,\
             \"out_of_range\":false,\"prediction\":0,\"scaled_value\":1e-07,\
             \"status\":\"Warming Up\"}]}\n"
        );
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
}
