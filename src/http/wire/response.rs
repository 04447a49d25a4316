//! Response bodies: server.py's shapes, key order and number format, and those of models by name.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::Serialize;

use crate::detector::{OutOfRange, Prediction};
use crate::http::place::Place;
use crate::registry::{ServedModel, Summary};
use crate::store::ModelName;

/// A reading, or its scaled values: a number, or a list of numbers.
pub(in crate::http) trait Reading {
    /// Writes it as JSON.
    fn push(&self, body: &mut String);

    /// The value of a feature.
    fn value(&self, feature: usize) -> f64;

    /// The place of that value, where the reading's is `place`.
    fn place(place: Place, feature: usize) -> Place;
}

impl Reading for f64 {
    fn push(&self, body: &mut String) {
        push_float(body, *self);
    }

    fn value(&self, _: usize) -> f64 {
        *self
    }

    fn place(place: Place, _: usize) -> Place {
        place
    }
}

impl Reading for Vec<f64> {
    fn push(&self, body: &mut String) {
        body.push('[');
        for (i, value) in self.iter().enumerate() {
            if i > 0 {
                body.push(',');
            }
            push_float(body, *value);
        }
        body.push(']');
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

/// The response to many readings.
pub(in crate::http) fn predictions<R: Reading>(
    readings: &[R],
    judged: &[Prediction<R>],
) -> Vec<u8> {
    let mut body = String::with_capacity(20 + 160 * judged.len());
    body.push_str("{\"predictions\":[");
    for (i, (reading, prediction)) in readings.iter().zip(judged).enumerate() {
        if i > 0 {
            body.push(',');
        }
        push_prediction(&mut body, reading, prediction);
    }
    body.push_str("]}\n");
    body.into_bytes()
}

fn push_prediction<R: Reading>(body: &mut String, reading: &R, prediction: &Prediction<R>) {
    body.push_str("{\"anomaly_score\":");
    push_float(body, prediction.anomaly_score);
    body.push_str(",\"input_value\":");
    reading.push(body);
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
    prediction.scaled.push(body);
    body.push_str(if prediction.is_anomaly {
        ",\"status\":\"Anomaly Detected\"}"
    } else {
        ",\"status\":\"Normal Behaviour\"}"
    });
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

/// All models.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ModelList {
    pub(in crate::http) models: Vec<ModelSummary>,
}

/// The description of a model.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ModelInfo {
    name: String,
    features: usize,
    feature_names: Option<Vec<String>>,
    samples_used: usize,
    contamination: f64,
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
        let detector = &model.detector;
        let forest = detector.forest();
        let ranges = detector.normal_ranges();
        let names = &model.feature_names;
        Self {
            name: name.to_string(),
            features: forest.n_features(),
            feature_names: (!names.is_empty()).then(|| names.clone()),
            samples_used: forest.n_samples(),
            contamination: forest.hyperparams().contamination(),
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
                let ranges = detector.training_ranges().iter();
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
            samples_used: model.detector.forest().n_samples(),
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

/// The versions of a model.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ModelVersions {
    pub(in crate::http) name: String,
    pub(in crate::http) served: Option<u64>,
    pub(in crate::http) versions: Vec<u64>,
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
