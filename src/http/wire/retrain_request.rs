//! The body of a retrain: server.py's, and that of models by name.

use std::collections::HashSet;
use std::fmt::{self, Write as _};

use linfa::ParamGuard;
use ndarray::{Array1, Array2, Axis};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{self, NumberError};
use super::predict_request;
use crate::detector::OutOfRange;
use crate::excerpt::excerpt;
use crate::forest::{IsolationForestParams, MaxSamples};
use crate::http::error::ApiError;
use crate::registry::{ServedModel, TrainingRequest};
use crate::store::ModelSettings;

/// numpy's arrays have no more dimensions.
const MAX_NESTING: usize = 64;

/// The most features of a reading.
const MAX_FEATURES: usize = 1024;

/// The most readings that all trees of a model together are grown from, where a request chooses
/// their number: such a model takes up to 100 MB.
const MAX_DRAWN: usize = 1_000_000;

/// The most walks down trees that the threshold of a model of several features may take, one for each
/// reading and tree, where a request chooses the number of trees: some seconds, in which the
/// retrains of all other models wait.
const MAX_WALKS: usize = 2_000_000_000;

/// The longest name of a feature, in bytes.
const MAX_FEATURE_NAME: usize = 128;

/// What a retrain may tell.
const FIELDS: [&str; 8] = [
    "samples",
    "contamination",
    "n_estimators",
    "max_samples",
    "random_state",
    "feature_names",
    "out_of_range",
    "out_of_range_margin",
];

const EXAMPLE: &str = r#"{"samples": [2.4, 2.5, 2.6]}"#;

/// Reads the body of a model's retrain: rows, and what shall hold for this model. What is not told
/// stays as the model has it.
pub(in crate::http) fn parse_retrain(
    body: &[u8],
    model: Option<&ServedModel>,
    server: &IsolationForestParams,
) -> Result<TrainingRequest, ApiError> {
    let text = json::decode(body)?;
    let [
        samples,
        contamination,
        n_estimators,
        max_samples,
        random_state,
        feature_names,
        out_of_range,
        out_of_range_margin,
    ] = json::only_fields(&text, FIELDS, EXAMPLE)?;
    let mut settings = model.map_or_else(ModelSettings::default, |model| model.settings.clone());
    set(&mut settings.contamination, contamination, |raw| {
        json::number(raw).map_err(|problem| problem.at("contamination", raw))
    })?;
    set(&mut settings.n_estimators, n_estimators, |raw| {
        whole("n_estimators", raw)
    })?;
    set(&mut settings.max_samples, max_samples, |raw| {
        raw.get()
            .trim_matches('"')
            .parse::<MaxSamples>()
            .map_err(|problem| expected("max_samples", &problem, raw))
    })?;
    set(&mut settings.random_state, random_state, |raw| {
        whole("random_state", raw)
    })?;
    set(&mut settings.out_of_range, out_of_range, |raw| {
        serde_json::from_str::<OutOfRange>(raw.get())
            .map_err(|_| expected("out_of_range", r#"expected "score" or "anomaly""#, raw))
    })?;
    set(
        &mut settings.out_of_range_margin,
        out_of_range_margin,
        |raw| match json::number(raw) {
            Ok(margin) if margin >= 0.0 => Ok(margin),
            Err(problem @ NumberError::TooLarge) => Err(problem.at("out_of_range_margin", raw)),
            _ => Err(expected(
                "out_of_range_margin",
                "expected a share of the training range, 0 or greater",
                raw,
            )),
        },
    )?;
    settings
        .params(server)
        .check_ref()
        .map_err(|error| ApiError::unprocessable(error.to_string()))?;

    let old_names = model.map_or(&[][..], |model| &model.feature_names);
    let names = match feature_names {
        None => old_names.to_vec(),
        Some(raw) => names(raw)?,
    };
    let features = match (feature_names, model) {
        // Naming the features is how to say that there shall be others.
        (Some(_), _) if !names.is_empty() => Some(names.len()),
        (_, model) => model.map(|model| model.detector.forest().n_features()),
    };
    let raw = samples.ok_or_else(|| json::missing("samples", EXAMPLE))?;
    let samples = rows(raw, features, &names)?;
    check_size(&settings, server, samples.dim())?;
    Ok(TrainingRequest {
        samples,
        feature_names: names,
        settings,
    })
}

/// Refuses a forest that takes more memory or time than whoever may ask for it should be able to
/// take.
/// What the operator of the server chose is left to them.
pub(in crate::http) fn check_size(
    settings: &ModelSettings,
    server: &IsolationForestParams,
    (samples, features): (usize, usize),
) -> Result<(), ApiError> {
    if settings.n_estimators.is_none() && settings.max_samples.is_none() {
        return Ok(());
    }
    let params = settings.params(server);
    let params = params.check_ref();
    let params = params.map_err(|error| ApiError::unprocessable(error.to_string()))?;
    // Without a row, the fit says so.
    let rows = u32::try_from(samples).map(|samples| params.rows_per_tree(samples));
    let rows = rows.map_or(0, |rows| rows.unwrap_or(0)) as usize;
    // Trees over several features are padded to as many nodes at least.
    let rows = if features > 1 { rows.max(256) } else { rows };
    let trees = params.n_estimators();
    if trees.saturating_mul(rows) > MAX_DRAWN {
        return Err(ApiError::unprocessable(format!(
            "n_estimators times the readings per tree, which max_samples sets, must be at most \
             {MAX_DRAWN}, got {trees} times {rows}"
        )));
    }
    if features > 1 && trees.saturating_mul(samples) > MAX_WALKS {
        return Err(ApiError::unprocessable(format!(
            "n_estimators times samples must be at most {MAX_WALKS}, got {trees} times {samples}"
        )));
    }
    Ok(())
}

/// Reads the body of a rollback: nothing, or `{"version": …}`.
pub(in crate::http) fn parse_rollback(body: &[u8]) -> Result<Option<u64>, ApiError> {
    let text = json::decode(body)?;
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let [version] = json::only_fields(&text, ["version"], r#"{"version": 3}"#)?;
    match version {
        None => Ok(None),
        Some(raw) if raw.get() == "null" => Ok(None),
        Some(raw) => match raw.get().parse() {
            Ok(version) => Ok(Some(version)),
            Err(_) => Err(expected("version", "expected a whole number", raw)),
        },
    }
}

/// Reads rows; the first tells how many features there are, where that is not known.
fn rows(
    raw: &RawValue,
    features: Option<usize>,
    names: &[String],
) -> Result<Array2<f64>, ApiError> {
    let items = json::items(raw).ok_or_else(|| json::not_a_list("samples", raw))?;
    let Some(first) = items.first() else {
        return Err(ApiError::unprocessable(
            "samples must hold at least one reading, got []",
        ));
    };
    let features = features.unwrap_or_else(|| json::items(first).map_or(1, |first| first.len()));
    if features > MAX_FEATURES {
        return Err(ApiError::unprocessable(format!(
            "samples[0] must have at most {MAX_FEATURES} numbers, got {features}"
        )));
    }
    if first.get().starts_with('{') && names.is_empty() {
        return Err(ApiError::unprocessable(format!(
            "samples[0] must be a number or a list of numbers, got {}; to send objects, name the \
             fields that are features in feature_names",
            json::shown(first)
        )));
    }
    // Not more than the body can hold: what it claims to be is not checked yet.
    let numbers = items.len().saturating_mul(features);
    let mut values = Vec::with_capacity(numbers.min(raw.get().len() / 2));
    for (i, item) in items.iter().enumerate() {
        let row = predict_request::parse_row(item, &|| format!("samples[{i}]"), features, names);
        values.extend(row?);
    }
    Array2::from_shape_vec((items.len(), features), values)
        .map_err(|error| ApiError::unprocessable(format!("samples: {error}")))
}

/// Sets what a field says; `null` goes back to the server's setting.
fn set<T>(
    setting: &mut Option<T>,
    field: Option<&RawValue>,
    read: impl Fn(&RawValue) -> Result<T, ApiError>,
) -> Result<(), ApiError> {
    match field {
        None => {}
        Some(raw) if raw.get() == "null" => *setting = None,
        Some(raw) => *setting = Some(read(raw)?),
    }
    Ok(())
}

fn expected(field: &str, expected: &str, raw: &RawValue) -> ApiError {
    ApiError::unprocessable(format!("{field}: {expected}, got {}", json::shown(raw)))
}

fn whole<T: TryFrom<u32>>(field: &str, raw: &RawValue) -> Result<T, ApiError> {
    let number = raw.get().parse::<u32>().ok();
    number
        .and_then(|number| number.try_into().ok())
        .ok_or_else(|| {
            let whole = format!("expected a whole number from 0 to {}", u32::MAX);
            expected(field, &whole, raw)
        })
}

fn names(raw: &RawValue) -> Result<Vec<String>, ApiError> {
    if raw.get() == "null" {
        return Ok(Vec::new());
    }
    let problem = "expected a list of 1 to 1024 different names, each of 1 to 128 bytes";
    let names: Vec<String> =
        serde_json::from_str(raw.get()).map_err(|_| expected("feature_names", problem, raw))?;
    if !(1..=MAX_FEATURES).contains(&names.len()) {
        return Err(expected("feature_names", problem, raw));
    }
    let mut known = HashSet::new();
    let bad = names.iter().position(|name| {
        !(1..=MAX_FEATURE_NAME).contains(&name.len()) || !known.insert(name.as_str())
    });
    match bad {
        None => Ok(names),
        Some(i) => Err(ApiError::unprocessable(format!(
            "feature_names[{i}]: {problem}, got {:?}",
            excerpt(&names[i])
        ))),
    }
}

/// Reads the body of server.py's /retrain: `{"samples": …}`, a number or an array of any even nesting, which
/// is flattened. One row per reading.
pub(in crate::http) fn parse_flask_retrain(body: &[u8]) -> Result<Array2<f64>, ApiError> {
    let text = json::decode(body)?;
    let [raw, settings @ ..] = json::fields(&text, FIELDS, EXAMPLE)?;
    let raw = raw.ok_or_else(|| json::missing("samples", EXAMPLE))?;
    let told = FIELDS[1..].iter().zip(settings);
    let told = told.filter_map(|(field, value)| value.map(|_| *field));
    let told: Vec<_> = told.collect();
    if !told.is_empty() {
        tracing::warn!(
            "/retrain takes samples alone, as server.py does; without effect: {}; \
             /models/default/retrain takes more",
            told.join(", ")
        );
    }
    let mut samples = Samples {
        // As many numbers as the text can hold: grown step by step, millions are copied, and need
        // twice the memory for a moment.
        values: Vec::with_capacity(raw.get().len() / 2),
        shape: vec![None; MAX_NESTING],
        ..Samples::default()
    };
    samples.collect(raw, 0)?;
    if samples.values.is_empty() {
        let shown = json::shown(raw);
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
            let value = json::number(raw).map_err(|problem| match problem {
                NumberError::WrongType if depth == 0 => json::not_a_list("samples", raw),
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
        let length = items.map_err(|error| json::not_json(&error))??;
        match self.shape[depth] {
            Some(known) if known != length => return Err(self.uneven(raw)),
            _ => self.shape[depth] = Some(length),
        }
        Ok(())
    }

    fn uneven(&self, raw: &RawValue) -> ApiError {
        let place = self.place();
        let shown = json::shown(raw);
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
