//! Parses the values of settings. Each error says what is allowed.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::Arg;
use clap::error::{ContextKind, ContextValue};
use iforest_server::forest::{IsolationForest, IsolationForestParams, MAX_ESTIMATORS, MaxSamples};
use linfa::ParamGuard;

pub(super) fn parse_port(text: &str) -> Result<u16, String> {
    whole_number(text, 0, u16::MAX)
}

pub(super) fn parse_n_estimators(text: &str) -> Result<u32, String> {
    whole_number(text, 1, u32::try_from(MAX_ESTIMATORS).unwrap_or(u32::MAX))
}

pub(super) fn parse_random_state(text: &str) -> Result<u32, String> {
    whole_number(text, 0, u32::MAX)
}

pub(super) fn parse_keep_versions(text: &str) -> Result<u32, String> {
    whole_number(text, 1, u32::MAX)
}

fn whole_number<T: TryFrom<u64> + Into<u64> + Copy>(
    text: &str,
    least: T,
    greatest: T,
) -> Result<T, String> {
    let (least, greatest) = (least.into(), greatest.into());
    let number = text.parse::<u64>().ok();
    number
        .filter(|number| (least..=greatest).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("expected a whole number from {least} to {greatest}"))
}

pub(super) fn parse_contamination(text: &str) -> Result<f64, String> {
    let expected = "expected a share such as 0.05, above 0 and at most 0.5";
    let contamination = text.parse().map_err(|_| expected.to_owned())?;
    check(&IsolationForest::params().contamination(contamination))?;
    Ok(contamination)
}

pub(super) fn parse_max_samples(text: &str) -> Result<MaxSamples, String> {
    let max_samples = text.parse::<MaxSamples>()?;
    check(&IsolationForest::params().max_samples(max_samples))?;
    Ok(max_samples)
}

/// The forest knows the ranges.
fn check(params: &IsolationForestParams) -> Result<(), String> {
    let checked = params.check_ref();
    checked.map(|_| ()).map_err(|error| error.to_string())
}

pub(super) fn parse_margin(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(margin) if margin.is_finite() && margin >= 0.0 => Ok(margin),
        _ => Err("expected a share of the training range, 0 or greater".to_owned()),
    }
}

/// The shortest interval between two looks at the store.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text)
        .map_err(|error| format!("expected a time such as 2s or 500ms: {error}"))?;
    if interval.is_zero() || interval >= SHORTEST_INTERVAL {
        Ok(interval)
    } else {
        Err("expected 0s, or at least 50ms".to_owned())
    }
}

/// Checks a value of an option that was not given on the command line. The error is a part of a
/// sentence.
pub(super) fn check_values<'a>(
    option: &Arg,
    values: impl IntoIterator<Item = &'a OsStr>,
) -> Result<(), String> {
    let command = clap::Command::new("settings")
        .no_binary_name(true)
        .disable_help_flag(true)
        .arg(option.clone().global(false));
    let checked = command.try_get_matches_from(assignments(option, values));
    checked.map(|_| ()).map_err(|error| problem(&error))
}

/// Values of an option as arguments of a command line.
pub(super) fn assignments<'a>(
    option: &Arg,
    values: impl IntoIterator<Item = &'a OsStr>,
) -> Vec<OsString> {
    let assign = |value| {
        let mut argument = OsString::from(format!("--{}=", name(option)));
        argument.push(value);
        argument
    };
    values.into_iter().map(assign).collect()
}

/// The name of an option, which is also its key in a file.
pub(super) fn name(option: &Arg) -> &str {
    option.get_long().unwrap_or_default()
}

fn problem(error: &clap::Error) -> String {
    if let Some(problem) = error.source() {
        return problem.to_string();
    }
    let is_empty = matches!(
        error.get(ContextKind::InvalidValue),
        Some(ContextValue::String(value)) if value.is_empty()
    );
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => {
            format!("expected one of {}", values.join(", "))
        }
        _ if is_empty => "expected a value, got none".to_owned(),
        _ => error.kind().to_string(),
    }
}

/// The setting whose name is most like a wrong one, if one is like it.
pub(super) fn nearest<'a>(command: &'a clap::Command, wrong: &str) -> Option<&'a Arg> {
    let wrong = wrong.to_lowercase();
    let find = |called: &str| {
        let mut options = command.get_arguments();
        options.find(|option| option.get_env().is_some() && name(option) == called)
    };
    if let Some(option) = find(&wrong) {
        return Some(option);
    }
    let asked = command
        .clone()
        .try_get_matches_from(["iforest-server".to_owned(), format!("--{wrong}")]);
    let error = asked.err()?;
    let ContextValue::String(suggested) = error.get(ContextKind::SuggestedArg)? else {
        return None;
    };
    find(suggested.trim_start_matches('-'))
}
