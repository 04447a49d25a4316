//! Brings the settings of the file, the environment and the command line together.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};
use iforest_server::escape::escape;

use super::file::{self, Entry};
use super::values::name;
use super::{Config, LogFormat, LogLevel, command, environment};
use crate::telemetry;

/// All settings, and where they come from.
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(super) command: clap::Command,
    /// With those of the file.
    pub(super) matches: ArgMatches,
    /// Without those of the file.
    given: ArgMatches,
    file: Vec<Entry>,
}

/// Settings that are wrong, or a request for help.
pub(crate) struct SettingsError {
    error: clap::Error,
    format: LogFormat,
}

/// Where a setting comes from.
pub(super) enum Source<'a> {
    Default,
    /// A file, and the line.
    File(Option<&'a Path>, usize),
    Variable(&'a OsStr),
    Option(&'a str),
}

impl Settings {
    /// Reads the command line, the environment and the file that they name.
    pub(crate) fn load() -> Result<Self, SettingsError> {
        let arguments: Vec<OsString> = env::args_os().collect();
        Self::read(&arguments).map_err(|error| SettingsError {
            error,
            format: requested_format(&arguments),
        })
    }

    fn read(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let command = command();
        let given = match command.clone().try_get_matches_from(arguments) {
            Err(error) if !concerns_value(&error) => return Err(error),
            given => given,
        };
        // A wrong value may be that of a variable, which clap does not name.
        environment::check(&command, env::vars_os()).map_err(wrong)?;
        let given = given?;
        let file = match given.get_one::<PathBuf>("config") {
            Some(path) => file::read(path, &command).map_err(wrong)?,
            None => Vec::new(),
        };
        // Settings of the file go in front of the options, which may end in a subcommand.
        let (program, options) = arguments.split_at(arguments.len().min(1));
        let from_file = file
            .iter()
            .filter(|entry| is_default(&given, entry.id.as_str()))
            .flat_map(|entry| &entry.arguments);
        let matches = command
            .clone()
            .try_get_matches_from(program.iter().chain(from_file).chain(options))?;
        let settings = Self {
            config: Config::from_arg_matches(&matches)?,
            command,
            matches,
            given,
            file,
        };
        settings.check_combinations().map_err(wrong)?;
        Ok(settings)
    }

    /// The settings without their sources.
    pub(crate) fn into_config(self) -> Config {
        self.config
    }

    fn check_combinations(&self) -> Result<(), String> {
        let config = &self.config;
        match (&config.security.tls_cert, &config.security.tls_key) {
            (Some(_), None) => Err(format!("{} also needs --tls-key", self.name("tls_cert"))),
            (None, Some(_)) => Err(format!("{} also needs --tls-cert", self.name("tls_key"))),
            _ if config.models.has_idle_margin() => Err(format!(
                "{} must not be given with {} distance, because there the score grows from the \
                 training range on",
                self.name("out_of_range_margin"),
                self.name("out_of_range")
            )),
            _ => Ok(()),
        }
    }

    /// Where a setting comes from, by the identifier of its option.
    pub(super) fn source(&self, id: &str) -> Source<'_> {
        let option = self.command.get_arguments().find(|o| o.get_id() == id);
        match (self.given.value_source(id), option) {
            (Some(ValueSource::CommandLine), Some(option)) => Source::Option(name(option)),
            (Some(ValueSource::EnvVariable), Some(option)) => {
                Source::Variable(option.get_env().unwrap_or_default())
            }
            _ => match self.file.iter().find(|entry| entry.id == id) {
                Some(entry) => Source::File(self.config.general.config.as_deref(), entry.line),
                None => Source::Default,
            },
        }
    }

    /// The name of a setting as the user wrote it, for error messages.
    fn name(&self, id: &str) -> String {
        let key = id.replace('_', "-");
        match self.source(id) {
            source @ Source::File(..) => format!("{key} ({source})"),
            Source::Default => format!("--{key}"),
            source => source.to_string(),
        }
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => {
                let path = path.unwrap_or(Path::new("")).display();
                write!(f, "{path}, line {line}")
            }
            Self::Variable(name) => f.write_str(&name.to_string_lossy()),
            Self::Option(name) => write!(f, "--{name}"),
        }
    }
}

impl SettingsError {
    /// Prints the error, or the help that was asked for, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.error.use_stderr() || self.format == LogFormat::Text {
            // Fails where standard error is closed; the exit code remains.
            let _ = self.error.print();
        } else {
            telemetry::start(LogLevel::Error, self.format);
            let text = self.error.render().to_string();
            // The last paragraphs say how to get help.
            let message = text
                .split("\n\n")
                .take_while(|text| !text.starts_with("Usage:") && !text.starts_with("For more"))
                .map(|text| text.lines().map(str::trim).collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
                .join("; ");
            tracing::error!("{}", message.strip_prefix("error: ").unwrap_or(&message));
        }
        u8::try_from(self.error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

fn concerns_value(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::InvalidUtf8 | ErrorKind::ValueValidation
    )
}

fn wrong(problem: String) -> clap::Error {
    clap::Error::raw(
        ErrorKind::ValueValidation,
        format!("{}\n", escape(&problem)),
    )
}

fn is_default(given: &ArgMatches, id: &str) -> bool {
    !matches!(
        given.value_source(id),
        Some(ValueSource::CommandLine | ValueSource::EnvVariable)
    )
}

/// The format that the command line or the environment asks for, where the settings as a whole are
/// wrong.
fn requested_format(arguments: &[OsString]) -> LogFormat {
    let option = arguments
        .iter()
        .zip(arguments.iter().skip(1).map(Some).chain([None]));
    let option = option.filter_map(|(argument, next)| {
        let argument = argument.to_str()?;
        match argument.strip_prefix("--log-format")? {
            "" => next?.to_str(),
            value => value.strip_prefix('='),
        }
    });
    let variable = env::var("IFOREST_LOG_FORMAT").ok();
    match option.last().or(variable.as_deref()) {
        Some("json") => LogFormat::Json,
        _ => LogFormat::Text,
    }
}
