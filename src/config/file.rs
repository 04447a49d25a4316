//! The file of settings, in TOML. Its keys are the names of the options.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Arg, ArgAction};
use iforest_server::encoding;
use iforest_server::excerpt::excerpt;
use iforest_server::forest::MaxSamples;
use iforest_server::reload;
use toml::de::{DeTable, DeValue};

use super::values::{assignments, check_values, name, nearest};

/// Helps with paths of Windows: in double quotes a backslash begins an escape.
const BACKSLASHES: &str = "write backslashes in single quotes, as in 'C:\\readings.csv'";

/// A setting in a file.
pub(super) struct Entry {
    /// The identifier of the option.
    pub(super) id: clap::Id,
    /// Counted from 1.
    pub(super) line: usize,
    /// As on the command line: one, or any number for a list.
    pub(super) arguments: Vec<OsString>,
}

/// Reads a file. The error names it, the line and the key.
pub(super) fn read(path: &Path, command: &clap::Command) -> Result<Vec<Entry>, String> {
    let content = reload::read(path)
        .map_err(|error| format!("cannot read the settings {}: {error}", path.display()))?;
    let text = encoding::decode(&content).map_err(|problem| {
        let path = path.display();
        format!("the settings {path} are {problem}; save the file as UTF-8")
    })?;
    parse(&text, command)
        .map_err(|(line, problem)| format!("{}, line {line}: {problem}", path.display()))
}

/// The error is a line and a problem.
fn parse(text: &str, command: &clap::Command) -> Result<Vec<Entry>, (usize, String)> {
    let line = |offset: usize| 1 + text.bytes().take(offset).filter(|&b| b == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let line = line(error.span().map_or(0, |span| span.start));
        let written = text.lines().nth(line - 1).unwrap_or_default();
        let hint = match written.contains('\\') {
            true => format!("; {BACKSLASHES}"),
            false => String::new(),
        };
        let problem = error.message().replace('\n', ", ");
        (line, format!("invalid TOML: {problem}{hint}"))
    })?;
    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line(key.span().start);
        let is_table = matches!(value.get_ref(), DeValue::Table(_));
        let option = find(command, key.get_ref(), is_table).map_err(|problem| (line, problem))?;
        let written = text.get(value.span()).unwrap_or_default();
        let invalid = |problem: String| {
            let problem = format!(
                "invalid value {} for {}: {problem}",
                excerpt(written),
                name(option)
            );
            (line, problem)
        };
        let values = convert(value.get_ref(), Kind::of(option))
            .ok_or_else(|| invalid(Kind::of(option).expected().to_owned()))?;
        // In double quotes, C:\temp holds a tab.
        if values.iter().any(|value| value.contains(char::is_control)) {
            let problem = format!("expected no control characters; {BACKSLASHES}");
            return Err(invalid(problem));
        }
        let values = || values.iter().map(OsStr::new);
        check_values(option, values()).map_err(invalid)?;
        entries.push(Entry {
            id: option.get_id().clone(),
            line,
            arguments: assignments(option, values()),
        });
    }
    Ok(entries)
}

/// The option that a key sets.
fn find<'a>(command: &'a clap::Command, key: &str, is_table: bool) -> Result<&'a Arg, String> {
    let option = command
        .get_arguments()
        .find(|option| option.get_long() == Some(key));
    match option {
        // Only settings have a variable.
        Some(option) if option.get_env().is_some() && key != "config" => Ok(option),
        Some(_) => Err(format!("{key} must not be in the file of settings")),
        None if is_table => Err(format!(
            "unknown table {}; settings stand outside of tables, such as port = 5000",
            excerpt(key)
        )),
        None => {
            let hint = match nearest(command, key) {
                Some(option) => format!("did you mean {}?", name(option)),
                None => "the keys are the names of the options".to_owned(),
            };
            Err(format!("unknown key {}; {hint}", excerpt(key)))
        }
    }
}

/// Which TOML values an option takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    NumberOrText,
    List,
}

impl Kind {
    pub(super) fn of(option: &Arg) -> Self {
        let value = option.get_value_parser().type_id();
        let numbers = [
            TypeId::of::<u16>(),
            TypeId::of::<u32>(),
            TypeId::of::<f64>(),
        ];
        if matches!(option.get_action(), ArgAction::Append) {
            Self::List
        } else if value == TypeId::of::<MaxSamples>() {
            Self::NumberOrText
        } else if numbers.iter().any(|number| value == *number) {
            Self::Number
        } else {
            Self::Text
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Text => "expected a string in quotes",
            Self::Number => "expected a number without quotes",
            Self::NumberOrText => "expected a number, or a string in quotes",
            Self::List => r#"expected an array of strings, such as ["a", "b"]"#,
        }
    }
}

/// The values as on the command line, or `None` if they are of another kind.
fn convert(value: &DeValue<'_>, kind: Kind) -> Option<Vec<String>> {
    let texts = match (kind, value) {
        (Kind::Text | Kind::NumberOrText, DeValue::String(text)) => vec![text.to_string()],
        (Kind::Number | Kind::NumberOrText, DeValue::Integer(number)) => match number.radix() {
            10 => vec![number.as_str().to_owned()],
            radix => vec![
                u64::from_str_radix(number.as_str(), radix)
                    .ok()?
                    .to_string(),
            ],
        },
        (Kind::Number | Kind::NumberOrText, DeValue::Float(number)) => {
            vec![number.as_str().to_owned()]
        }
        (Kind::List, DeValue::Array(values)) => {
            let texts = values.iter().map(|value| value.get_ref().as_str());
            texts
                .map(|text| text.map(str::to_owned))
                .collect::<Option<_>>()?
        }
        _ => return None,
    };
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Result<Vec<OsString>, (usize, String)> {
        let entries = parse(text, &crate::config::command())?;
        let arguments = entries.into_iter().flat_map(|entry| entry.arguments);
        Ok(arguments.collect())
    }

    #[test]
    fn values_are_those_of_the_command_line() {
        for (text, expected) in [
            ("n-estimators = 1_000", "--n-estimators=1000"),
            ("n-estimators = 0xff", "--n-estimators=255"),
            ("contamination = 5e-2", "--contamination=5e-2"),
            ("max-samples = 0.5", "--max-samples=0.5"),
            // One reading and all readings, as the command line tells them apart.
            ("max-samples = 1", "--max-samples=1"),
            ("max-samples = 1.0", "--max-samples=1.0"),
            ("max-samples = \"auto\"", "--max-samples=auto"),
            ("train = 'C:\\readings.csv'", "--train=C:\\readings.csv"),
            ("\"port\" = 5000 # plain HTTP", "--port=5000"),
        ] {
            assert_eq!(arguments(text), Ok(vec![expected.into()]), "{text}");
        }
        let origins = "allowed-origins = [\n\"http://a\",\n\"http://b\"]";
        let expected = ["--allowed-origins=http://a", "--allowed-origins=http://b"];
        assert_eq!(
            arguments(origins),
            Ok(expected.map(OsString::from).to_vec())
        );
    }

    #[test]
    fn errors_name_the_line_the_key_and_what_is_allowed() {
        for (text, line, expected) in [
            ("port = \"5000\"", 1, "expected a number without quotes"),
            ("\n\nhost = 5", 3, "5 for host: expected a string"),
            ("# a\nport = 70000\n", 2, "from 0 to 65535"),
            ("port = true", 1, "invalid value true for port"),
            ("port = [1]", 1, "invalid value [1] for port"),
            ("port.tls = 1", 1, "expected a number"),
            ("host = \"a\"\nport = 0xfffff", 2, "from 0 to 65535"),
            ("allowed-origins = \"http://a\"", 1, "expected an array"),
            ("allowed-origins = [1]", 1, "expected an array"),
            ("allowed-origins = [\"scada\"]", 1, "expected an origin"),
            ("log-level = \"loud\"", 1, "one of error, warn, info, debug"),
            ("train = \"\"", 1, "expected a value, got none"),
            ("refresh-interval = \"2\"", 1, "expected a time such as 2s"),
            (
                "refresh-interval = \"1ms\"",
                1,
                "expected 0s, or at least 50ms",
            ),
            ("contamination = nan", 1, "at most 0.5, got NaN"),
            ("random_state = 1", 1, "did you mean random-state?"),
            ("LOG_LEVEL = \"info\"", 1, "did you mean log-level?"),
            ("Port = 5000", 1, "unknown key Port; did you mean port?"),
            ("[server]\nport = 1", 1, "unknown table server;"),
            ("\"\" = 1", 1, "unknown key"),
            ("\"port=1\" = 1", 1, "unknown key"),
            ("config = \"a.toml\"", 1, "config must not be"),
            ("check-config = true", 1, "check-config must not be"),
            ("help = true", 1, "help must not be"),
            ("port = 1\nport = 2", 2, "duplicate key"),
            ("port 5000", 1, "invalid TOML: "),
            ("port: 5000", 1, "invalid TOML: "),
            ("\nstore = \"C:\\plant\"", 2, "write backslashes in single"),
            ("train = \"C:\\temp\"", 1, "write backslashes in single"),
            ("host = \"\"", 1, "expected a value, got none"),
            ("store = \"\"", 1, "expected a value, got none"),
            ("port = 1\nhost = \"a", 2, "invalid basic string"),
        ] {
            let (at, problem) = arguments(text).expect_err(text);
            assert!(problem.contains(expected), "{text:?}: {problem}");
            assert_eq!(at, line, "{text:?}: {problem}");
            assert!(!problem.contains('\n'), "{text:?}: {problem}");
        }
    }
}
