//! The body of a retrain: server.py's, and that of models by name.

use std::collections::HashSet;

use linfa::ParamGuard;
use ndarray::Array2;
use serde_json::value::RawValue;

use super::json::{self, NumberError};
use super::samples::{SampleCount, count_samples, most_numbers, parse_flat_samples, parse_samples};
use crate::detector::{OutOfRange, is_false_alarm_rate};
use crate::excerpt::excerpt;
use crate::forest::{MAX_ESTIMATORS, MaxSamples};
use crate::http::error::{ApiError, ErrorCode};
use crate::http::limits::{
    MAX_FEATURE_NAME, MAX_FEATURES, MAX_WINDOW, MIN_WINDOW, PARSE_NANOS_PER_BYTE, check_cost,
};
use crate::http::place::Place;
use crate::registry::{RegistryConfig, ServedModel, TrainingEstimate, TrainingRequest};
use crate::store::{Drift, ModelSettings};

/// A setting that a retrain may change: its field, and how its JSON is parsed into the settings.
type Setting = (
    &'static str,
    fn(&mut ModelSettings, &'static str, &RawValue) -> Result<(), ApiError>,
);

/// All of them. A new setting needs a row here and a field in [`ModelSettings`].
const SETTINGS: [Setting; 9] = [
    ("contamination", |settings, field, raw| {
        set(&mut settings.contamination, field, raw, finite_number)
    }),
    ("n_estimators", |settings, field, raw| {
        set(&mut settings.n_estimators, field, raw, |field, raw| {
            whole_number(field, raw, 1, MAX_ESTIMATORS)
        })
    }),
    ("max_samples", |settings, field, raw| {
        set(&mut settings.max_samples, field, raw, max_samples)
    }),
    ("random_state", |settings, field, raw| {
        set(&mut settings.random_state, field, raw, |field, raw| {
            whole_number(field, raw, 0, u32::MAX as usize)
        })
    }),
    ("out_of_range", |settings, field, raw| {
        set(&mut settings.out_of_range, field, raw, out_of_range)
    }),
    ("out_of_range_margin", |settings, field, raw| {
        set(&mut settings.out_of_range_margin, field, raw, share)
    }),
    ("false_alarm_rate", |settings, field, raw| {
        set(&mut settings.false_alarm_rate, field, raw, false_alarm_rate)
    }),
    ("window", |settings, field, raw| {
        set(&mut settings.window, field, raw, window)
    }),
    ("drift", |settings, field, raw| {
        set(&mut settings.drift, field, raw, drift)
    }),
];

/// The fields of a retrain that are no settings.
const DATA_FIELDS: [&str; 3] = ["samples", "feature_names", "run_lengths"];

/// All fields of a retrain: the data, then the settings.
const FIELDS: [&str; DATA_FIELDS.len() + SETTINGS.len()] = {
    let mut fields = [""; DATA_FIELDS.len() + SETTINGS.len()];
    let mut i = 0;
    while i < fields.len() {
        fields[i] = if i < DATA_FIELDS.len() {
            DATA_FIELDS[i]
        } else {
            SETTINGS[i - DATA_FIELDS.len()].0
        };
        i += 1;
    }
    fields
};

const EXAMPLE: &str = r#"{"samples": [2.4, 2.5, 2.6]}"#;

/// Parses the body of a model's retrain: rows, and the model's settings. Omitted fields keep their
/// current values; `null` goes back to the server's setting.
pub(in crate::http) fn parse_retrain(
    body: &[u8],
    model: Option<&ServedModel>,
    server: &RegistryConfig,
) -> Result<TrainingRequest, ApiError> {
    let text = json::decode(body)?;
    let [samples, feature_names, run_lengths, given @ ..] =
        json::only_fields(&text, FIELDS, EXAMPLE)?;
    let settings = parse_settings(given, model)?;
    settings.params(&server.params).check_ref()?;
    check_settings(&settings, server)?;
    let (names, features) = parse_features(feature_names, model)?;
    let raw = samples.ok_or_else(|| json::missing("samples", EXAMPLE))?;
    let samples = parse_samples(raw, features, &names)?;
    check_cost(&settings, server, samples.dim())?;
    let runs = match run_lengths {
        Some(raw) if raw.get() != "null" => parse_run_lengths(raw, &settings, samples.nrows())?,
        _ => Vec::new(),
    };
    Ok(TrainingRequest {
        samples,
        runs,
        feature_names: names,
        settings,
    })
}

/// Estimates the cost of a retrain, parsing included, from the body's fields and the number of its
/// commas; or refuses the training because of its cost. A body with another error costs only the
/// parsing: that will find it.
pub(in crate::http) fn estimate_retrain(
    body: &[u8],
    model: Option<&ServedModel>,
    server: &RegistryConfig,
) -> Result<TrainingEstimate, ApiError> {
    let training = || {
        let text = json::decode(body).ok()?;
        let [samples, feature_names, _, given @ ..] = json::fields(&text, FIELDS, EXAMPLE).ok()?;
        let (_, features) = parse_features(feature_names, model).ok()?;
        let settings = parse_settings(given, model).ok()?;
        let SampleCount { rows, numbers } = count_samples(samples?);
        let features = features.unwrap_or(numbers.div_ceil(rows));
        // Rows that are too short are refused once they are parsed, at the cost of that alone.
        Some((settings, (rows.min(numbers / features), features)))
    };
    check_estimate(body, server, training())
}

/// As [`estimate_retrain`], for server.py's /retrain.
pub(in crate::http) fn estimate_flask_retrain(
    body: &[u8],
    model: Option<&ServedModel>,
    server: &RegistryConfig,
) -> Result<TrainingEstimate, ApiError> {
    let training = || {
        let text = json::decode(body).ok()?;
        let [samples] = json::fields(&text, ["samples"], EXAMPLE).ok()?;
        Some((model_settings(model), (count_samples(samples?).numbers, 1)))
    };
    check_estimate(body, server, training())
}

fn check_estimate(
    body: &[u8],
    server: &RegistryConfig,
    training: Option<(ModelSettings, (usize, usize))>,
) -> Result<TrainingEstimate, ApiError> {
    let parsing = (body.len() as u64).saturating_mul(PARSE_NANOS_PER_BYTE);
    let training = match training {
        Some((settings, shape)) if settings.params(&server.params).check_ref().is_ok() => {
            check_cost(&settings, server, shape)?
        }
        _ => 0,
    };
    Ok(TrainingEstimate {
        nanos: parsing.saturating_add(training),
        numbers: most_numbers(body),
    })
}

fn model_settings(model: Option<&ServedModel>) -> ModelSettings {
    model.map_or_else(ModelSettings::default, |model| model.settings.clone())
}

/// The model's settings with those that are given.
fn parse_settings(
    given: [Option<&RawValue>; SETTINGS.len()],
    model: Option<&ServedModel>,
) -> Result<ModelSettings, ApiError> {
    let mut settings = model_settings(model);
    for ((field, parse), raw) in SETTINGS.iter().zip(given) {
        if let Some(raw) = raw {
            parse(&mut settings, field, raw)?;
        }
    }
    let is_given = |name: &str| {
        let mut fields = SETTINGS.iter().zip(given);
        fields.any(|(&(field, _), raw)| field == name && raw.is_some_and(|raw| raw.get() != "null"))
    };
    if is_given("contamination") {
        if is_given("false_alarm_rate") || settings.window.is_some() {
            let other = if is_given("false_alarm_rate") {
                "false_alarm_rate"
            } else {
                "window"
            };
            return Err(conflict(
                "contamination",
                &format!(
                    "must not be given with {other}, whose threshold comes from readings that are held \
                 back"
                ),
            ));
        }
        // The threshold comes from one of the two, and the one that is given counts.
        settings.false_alarm_rate = None;
    }
    Ok(settings)
}

/// Refuses settings that contradict each other.
fn check_settings(settings: &ModelSettings, server: &RegistryConfig) -> Result<(), ApiError> {
    let has_margin = settings
        .out_of_range_margin
        .is_some_and(|margin| margin > 0.0);
    if has_margin && settings.out_of_range(server.out_of_range) == OutOfRange::Distance {
        return Err(conflict(
            "out_of_range_margin",
            "must not be given where out_of_range is \"distance\", because there the score grows from \
             the training range on; set it to null",
        ));
    }
    if settings.drift.is_some() && settings.window.is_none() {
        return Err(conflict("drift", "needs a window"));
    }
    Ok(())
}

fn conflict(field: &'static str, problem: &str) -> ApiError {
    ApiError::unprocessable(ErrorCode::Conflict, format!("{field} {problem}")).at(field)
}

/// The names of the features, and their number where it is known.
fn parse_features(
    feature_names: Option<&RawValue>,
    model: Option<&ServedModel>,
) -> Result<(Vec<String>, Option<usize>), ApiError> {
    let names = match feature_names {
        Some(raw) => parse_feature_names(raw)?,
        None => model.map_or_else(Vec::new, |model| model.feature_names.clone()),
    };
    let features = if feature_names.is_some() && !names.is_empty() {
        // Only naming the features changes their number.
        Some(names.len())
    } else {
        model.map(ServedModel::features)
    };
    Ok((names, features))
}

/// Parses the body of server.py's /retrain, `{"samples": …}`, into one row per number. Also returns
/// the settings in it, which have no effect.
pub(in crate::http) fn parse_flask_retrain(
    body: &[u8],
) -> Result<(Array2<f64>, Vec<&'static str>), ApiError> {
    let text = json::decode(body)?;
    let [raw, others @ ..] = json::fields(&text, FIELDS, EXAMPLE)?;
    let raw = raw.ok_or_else(|| json::missing("samples", EXAMPLE))?;
    let ignored = FIELDS[1..]
        .iter()
        .zip(others)
        .filter_map(|(field, value)| value.map(|_| *field))
        .collect();
    Ok((parse_flat_samples(raw)?, ignored))
}

/// Sets what a field says; `null` goes back to the server's setting.
fn set<T>(
    setting: &mut Option<T>,
    field: &'static str,
    raw: &RawValue,
    parse: impl Fn(&'static str, &RawValue) -> Result<T, ApiError>,
) -> Result<(), ApiError> {
    *setting = match raw.get() {
        "null" => None,
        _ => Some(parse(field, raw)?),
    };
    Ok(())
}

fn finite_number(field: &'static str, raw: &RawValue) -> Result<f64, ApiError> {
    json::number(raw).map_err(|error| error.at(field.into(), raw))
}

/// A number whose range, which is for the message, is checked later.
fn whole_number<T: TryFrom<u32>>(
    field: &'static str,
    raw: &RawValue,
    least: usize,
    greatest: usize,
) -> Result<T, ApiError> {
    raw.get()
        .parse::<u32>()
        .ok()
        .and_then(|number| number.try_into().ok())
        .ok_or_else(|| {
            let expected = format!("expected a whole number from {least} to {greatest}");
            json::unexpected(json::number_code(raw), field, &expected, raw)
        })
}

fn max_samples(field: &'static str, raw: &RawValue) -> Result<MaxSamples, ApiError> {
    raw.get()
        .trim_matches('"')
        .parse()
        .map_err(|expected: String| json::unexpected(json::number_code(raw), field, &expected, raw))
}

fn out_of_range(field: &'static str, raw: &RawValue) -> Result<OutOfRange, ApiError> {
    serde_json::from_str(raw.get()).map_err(|_| {
        let code = if raw.get().starts_with('"') {
            ErrorCode::OutOfBounds
        } else {
            ErrorCode::WrongType
        };
        let expected = r#"expected "score", "anomaly" or "distance""#;
        json::unexpected(code, field, expected, raw)
    })
}

fn false_alarm_rate(field: &'static str, raw: &RawValue) -> Result<f64, ApiError> {
    let rate = finite_number(field, raw)?;
    if is_false_alarm_rate(rate) {
        return Ok(rate);
    }
    let expected = "expected a share of normal readings, greater than 0 and at most 0.5";
    Err(json::unexpected(
        ErrorCode::OutOfBounds,
        field,
        expected,
        raw,
    ))
}

fn window(field: &'static str, raw: &RawValue) -> Result<u32, ApiError> {
    match raw.get().parse() {
        Ok(window @ MIN_WINDOW..=MAX_WINDOW) => Ok(window),
        _ => {
            let expected =
                format!("expected a whole number of readings from {MIN_WINDOW} to {MAX_WINDOW}");
            Err(json::unexpected(
                json::number_code(raw),
                field,
                &expected,
                raw,
            ))
        }
    }
}

fn drift(field: &'static str, raw: &RawValue) -> Result<Drift, ApiError> {
    serde_json::from_str(raw.get()).map_err(|_| {
        let code = if raw.get().starts_with('"') {
            ErrorCode::OutOfBounds
        } else {
            ErrorCode::WrongType
        };
        json::unexpected(code, field, r#"expected "keep" or null"#, raw)
    })
}

/// Parses the lengths of the runs that `rows` readings consist of.
fn parse_run_lengths(
    raw: &RawValue,
    settings: &ModelSettings,
    rows: usize,
) -> Result<Vec<usize>, ApiError> {
    const FIELD: &str = "run_lengths";
    if settings.window.is_none() && settings.false_alarm_rate.is_none() {
        return Err(conflict(FIELD, "needs a window or a false_alarm_rate"));
    }
    let lengths: Vec<usize> = serde_json::from_str(raw.get()).map_err(|_| {
        let expected = "expected a list of whole numbers, one for each run";
        json::unexpected(ErrorCode::WrongType, FIELD, expected, raw)
    })?;
    let sum = lengths.iter().copied().fold(0, usize::saturating_add);
    if sum != rows {
        let message = format!("{FIELD} must add up to the {rows} samples, got {sum}");
        return Err(ApiError::unprocessable(ErrorCode::OutOfBounds, message).at(FIELD));
    }
    Ok(lengths)
}

fn share(field: &'static str, raw: &RawValue) -> Result<f64, ApiError> {
    let expected = "expected a share of the training range, 0 or greater";
    match json::number(raw) {
        Ok(share) if share >= 0.0 => Ok(share),
        Ok(_) => Err(json::unexpected(
            ErrorCode::OutOfBounds,
            field,
            expected,
            raw,
        )),
        Err(error @ NumberError::TooLarge) => Err(error.at(field.into(), raw)),
        Err(NumberError::NotFinite) => {
            Err(json::unexpected(ErrorCode::NotFinite, field, expected, raw))
        }
        Err(NumberError::WrongType) => {
            Err(json::unexpected(ErrorCode::WrongType, field, expected, raw))
        }
    }
}

fn parse_feature_names(raw: &RawValue) -> Result<Vec<String>, ApiError> {
    const FIELD: &str = "feature_names";
    if raw.get() == "null" {
        return Ok(Vec::new());
    }
    let expected = "expected a list of 1 to 1024 different names, each of 1 to 128 bytes";
    let unexpected = |code| json::unexpected(code, FIELD, expected, raw);
    let names: Vec<String> =
        serde_json::from_str(raw.get()).map_err(|_| unexpected(ErrorCode::WrongType))?;
    if names.is_empty() {
        return Err(unexpected(ErrorCode::TooFew));
    }
    if names.len() > MAX_FEATURES {
        return Err(unexpected(ErrorCode::TooMany));
    }
    let mut known = HashSet::new();
    for (i, name) in names.iter().enumerate() {
        if !(1..=MAX_FEATURE_NAME).contains(&name.len()) || !known.insert(name.as_str()) {
            let place = Place::item(FIELD, i);
            let message = format!("{place}: {expected}, got {:?}", excerpt(name));
            return Err(ApiError::unprocessable(ErrorCode::OutOfBounds, message).at(place));
        }
    }
    Ok(names)
}
