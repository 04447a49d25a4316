//! The settings: options, environment variables and the file of settings as typed values. Only the
//! program uses them.

mod environment;
mod file;
mod listing;
mod settings;
mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use linfa::ParamGuard;

use iforest_server::detector::OutOfRange;
use iforest_server::forest::{IsolationForest, IsolationForestParams, MaxSamples, ParamsError};
use iforest_server::http::Origin;
use iforest_server::memory::MemoryLimit;
use iforest_server::registry::RegistryConfig;

use crate::predict::PredictArgs;
use crate::verify::StoreArgs;

use file::Kind;
pub(crate) use listing::Listing;
pub(crate) use settings::Settings;
use values::{
    parse_contamination, parse_interval, parse_keep_versions, parse_margin, parse_max_samples,
    parse_n_estimators, parse_port, parse_random_state,
};

/// The last group of options in the help, which also has those that clap adds.
const CONFIGURATION: &str = "Configuration and log";

/// Detects anomalies in sensor readings, over HTTP.
///
/// A drop-in for the Flask and PyOD server.py: POST /predict says whether a reading is an anomaly,
/// POST /retrain trains on new readings.
///
/// Every option can also be set by the environment variable named below it, and in the file that
/// --config names. An option overrides the variable, which overrides the file.
#[derive(Debug, Clone, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) serving: Serving,
    #[command(flatten)]
    pub(crate) models: Models,
    #[command(flatten)]
    pub(crate) storage: Storage,
    #[command(flatten)]
    pub(crate) security: Security,
    #[command(flatten)]
    pub(crate) general: General,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Serving")]
pub(crate) struct Serving {
    /// Address to listen on
    ///
    /// Network address to listen on: 0.0.0.0 for all, 127.0.0.1 for this machine only.
    #[arg(
        long,
        env = "IFOREST_HOST",
        default_value = "0.0.0.0",
        value_parser = NonEmptyStringValueParser::new(),
        global = true
    )]
    pub(crate) host: String,

    /// Port to listen on
    ///
    /// Port to listen on; 0 takes any free one.
    #[arg(
        long,
        env = "IFOREST_PORT",
        default_value_t = 5000,
        value_parser = parse_port,
        global = true
    )]
    pub(crate) port: u16,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Models")]
pub(crate) struct Models {
    /// CSV file to train the default model on
    ///
    /// File of readings to train the default model on: one per line, or a CSV with a column called
    /// value [default: load the stored model, or else train on 500 synthetic readings between 0 and
    /// 5, as server.py does].
    #[arg(long, env = "IFOREST_TRAIN", value_name = "FILE")]
    pub(crate) train: Option<PathBuf>,

    /// Share of anomalies in training
    ///
    /// Share of the training readings taken to be anomalies, above 0 and at most 0.5; a larger share
    /// means more alarms.
    #[arg(
        long,
        env = "IFOREST_CONTAMINATION",
        value_name = "SHARE",
        default_value_t = 0.05,
        value_parser = parse_contamination
    )]
    contamination: f64,

    /// Number of trees
    ///
    /// Number of trees; more trees give steadier scores and take longer.
    #[arg(
        long,
        env = "IFOREST_N_ESTIMATORS",
        value_name = "NUMBER",
        default_value_t = 100,
        value_parser = parse_n_estimators,
        hide_short_help = true
    )]
    n_estimators: u32,

    /// Readings per tree
    ///
    /// Readings per tree: auto (256, or all if fewer), a number such as 128, or a share such as 0.5.
    #[arg(
        long,
        env = "IFOREST_MAX_SAMPLES",
        value_name = "NUMBER",
        default_value_t = MaxSamples::Auto,
        value_parser = parse_max_samples,
        hide_short_help = true
    )]
    max_samples: MaxSamples,

    /// Seed of every training [default: a new one]
    ///
    /// Seed of every training: the same readings then give the same model, equal to PyOD's with this
    /// random_state [default: a new seed for each training, shown in the log].
    #[arg(
        long,
        env = "IFOREST_RANDOM_STATE",
        value_name = "SEED",
        hide_short_help = true,
        value_parser = parse_random_state
    )]
    pub(crate) random_state: Option<u32>,

    /// How to predict a reading out of range
    ///
    /// How to predict a reading outside the range of the training readings: by its score, as PyOD
    /// does, always as an anomaly, or by a score that grows with the distance (score, anomaly,
    /// distance).
    #[arg(
        long,
        env = "IFOREST_OUT_OF_RANGE",
        value_name = "HOW",
        value_enum,
        default_value_t = OutOfRangeArg::Score,
        global = true,
        hide_short_help = true
    )]
    out_of_range: OutOfRangeArg,

    /// How far out of range still counts as within
    ///
    /// How far outside a reading may lie and still be predicted by its score, as a share of the width
    /// of that range.
    #[arg(
        long,
        env = "IFOREST_OUT_OF_RANGE_MARGIN",
        global = true,
        value_name = "SHARE",
        default_value_t = 0.0,
        value_parser = parse_margin,
        hide_short_help = true
    )]
    out_of_range_margin: f64,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Storage")]
pub(crate) struct Storage {
    /// Folder, s3://, az:// or gs://
    ///
    /// Where trained models are stored: a folder, s3://bucket/path, az://container/path,
    /// gs://bucket/path, or memory: to lose them when the server stops.
    #[arg(
        long,
        env = "IFOREST_STORE",
        value_name = "URL",
        default_value = "./iforest-models",
        value_parser = NonEmptyStringValueParser::new(),
        global = true
    )]
    pub(crate) store: String,

    /// How many versions of each model to keep
    ///
    /// How many versions of each model to keep for rollbacks.
    #[arg(
        long,
        env = "IFOREST_KEEP_VERSIONS",
        value_name = "NUMBER",
        default_value_t = 5,
        value_parser = parse_keep_versions,
        hide_short_help = true
    )]
    keep_versions: u32,

    /// How often to look for models of other servers
    ///
    /// How often to poll the store for models that other servers stored; 0s polls only before a model
    /// is retrained or rolled back.
    #[arg(
        long,
        env = "IFOREST_REFRESH_INTERVAL",
        value_name = "TIME",
        default_value = "2s",
        value_parser = parse_interval,
        hide_short_help = true
    )]
    refresh_interval: Duration,

    /// Memory for everything, such as 512MiB
    ///
    /// How much memory models, trainings and requests may take together, such as 512MiB or 2GB; models
    /// beyond it are unloaded, and loaded again when they are asked for [default: three quarters of
    /// the memory of the container or the machine].
    #[arg(
        long,
        env = "IFOREST_MEMORY_LIMIT",
        value_name = "SIZE",
        hide_short_help = true
    )]
    memory_limit: Option<MemoryLimit>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Security")]
pub(crate) struct Security {
    /// API keys that requests must carry
    ///
    /// File of API keys that requests must carry: lines of NAME read KEY, to predict and read, or NAME
    /// all KEY, to do everything [default: every client may do everything, as with server.py].
    #[arg(long, env = "IFOREST_API_KEYS", value_name = "FILE")]
    pub(crate) api_keys: Option<PathBuf>,

    /// Web pages that may call this server
    ///
    /// Origins whose web pages may call this server, separated by commas, such as
    /// https://scada.example:8443 [default: only this server's own].
    #[arg(
        long,
        env = "IFOREST_ALLOWED_ORIGINS",
        value_name = "ORIGINS",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub(crate) allowed_origins: Vec<Origin>,

    /// Certificate for https, in PEM form
    ///
    /// File of the certificate for TLS, in PEM form, followed by those that lead to its authority;
    /// the server then speaks https.
    #[arg(long, env = "IFOREST_TLS_CERT", value_name = "FILE", global = true)]
    pub(crate) tls_cert: Option<PathBuf>,

    /// Its private key, in PEM form
    ///
    /// File of the private key of that certificate, in PEM form.
    #[arg(long, env = "IFOREST_TLS_KEY", value_name = "FILE", global = true)]
    pub(crate) tls_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = CONFIGURATION)]
pub(crate) struct General {
    /// Read settings from a TOML file
    ///
    /// File of settings in TOML, whose keys are the names of the options, such as port = 5000.
    #[arg(long, env = "IFOREST_CONFIG", value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,

    /// Check and show all settings, and exit
    ///
    /// Check all settings and the files that they name, show each setting and where it comes from, and
    /// exit.
    #[arg(long)]
    pub(crate) check_config: bool,

    /// error, warn, info or debug
    ///
    /// How much to log: error, warn, info, or debug, which logs every request.
    #[arg(
        long,
        env = "IFOREST_LOG_LEVEL",
        value_name = "LEVEL",
        value_enum,
        default_value_t = LogLevel::Info
    )]
    pub(crate) log_level: LogLevel,

    /// text or json
    ///
    /// How to write the log: as text, or as json with one object per line.
    #[arg(
        long,
        env = "IFOREST_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value_t = LogFormat::Text
    )]
    pub(crate) log_format: LogFormat,
}

/// The subcommands: without one, the program serves.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Ask the server on this machine whether it is healthy
    ///
    /// Asks the server on this machine for GET /health, with the host, the port and the certificate
    /// that it is configured with. The exit code is 0 if it answers with status 200 within 3 seconds.
    /// Otherwise it is 1, and a line on standard error says why.
    Healthcheck,
    Predict(PredictArgs),
    Store(StoreArgs),
}

/// [`OutOfRange`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutOfRangeArg {
    Score,
    Anomaly,
    Distance,
}

/// How to write the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// How much to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

impl Config {
    /// The settings of models that have none of their own.
    pub(crate) fn registry_config(&self) -> Result<RegistryConfig, ParamsError> {
        let (models, storage) = (&self.models, &self.storage);
        Ok(RegistryConfig {
            params: models.forest_params()?,
            out_of_range: match models.out_of_range {
                OutOfRangeArg::Score => OutOfRange::Score,
                OutOfRangeArg::Anomaly => OutOfRange::Anomaly,
                OutOfRangeArg::Distance => OutOfRange::Distance,
            },
            out_of_range_margin: models.out_of_range_margin,
            keep_versions: storage.keep_versions as usize,
            refresh_interval: Some(storage.refresh_interval).filter(|interval| !interval.is_zero()),
            memory_limit: storage.memory_limit.unwrap_or_else(MemoryLimit::detect),
        })
    }
}

impl Models {
    /// Whether the margin has no meaning: with distances, the score grows from the training range on.
    fn has_idle_margin(&self) -> bool {
        self.out_of_range == OutOfRangeArg::Distance && self.out_of_range_margin > 0.0
    }

    fn forest_params(&self) -> Result<IsolationForestParams, ParamsError> {
        let params = IsolationForest::params()
            .contamination(self.contamination)
            .n_estimators(self.n_estimators as usize)
            .max_samples(self.max_samples)
            .random_state(self.random_state);
        params.check_ref()?;
        Ok(params)
    }
}

impl Security {
    /// The files of the certificate and its key.
    pub(crate) fn tls(&self) -> Option<(&Path, &Path)> {
        Some((self.tls_cert.as_deref()?, self.tls_key.as_deref()?))
    }
}

/// The command line, as it is parsed.
fn command() -> clap::Command {
    let mut command = Config::command();
    // Adds the options for help, too.
    command.build();
    command
        .mut_args(describe)
        .mut_subcommands(|command| command.mut_args(describe))
}

/// Completes an option. A negative number reaches the parser, which says what is allowed. `-h` has its first paragraph; `--help` has the others and names the
/// variable, for which a line of `-h` has no room.
fn describe(option: Arg) -> Arg {
    let option = match option.get_help_heading() {
        Some(_) => option,
        None => option.help_heading(CONFIGURATION),
    };
    let is_number = matches!(Kind::of(&option), Kind::Number | Kind::NumberOrText);
    let option = option
        .allow_negative_numbers(is_number)
        .hide_possible_values(true);
    let long = option.get_long_help().or(option.get_help());
    let Some(long) = long.map(ToString::to_string) else {
        return option;
    };
    let long = long.split_once("\n\n").map_or(&*long, |(_, long)| long);
    let long = match option.get_env() {
        Some(variable) => format!("{long}\n[env: {}]", variable.to_string_lossy()),
        None => long.to_owned(),
    };
    option.hide_env(true).long_help(long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    // Containers and service files set variables, not arguments, so every option needs one.
    #[test]
    fn every_option_has_an_environment_variable_and_a_help_line() {
        for option in Config::command().get_opts() {
            let name = option.get_long().expect("every option has a long name");
            let variable = format!("IFOREST_{}", name.to_uppercase().replace('-', "_"));
            // A check is asked for by hand.
            if name != "check-config" {
                assert_eq!(option.get_env(), Some(variable.as_ref()), "{name}");
            }
            assert!(option.get_help().is_some(), "{name}");
        }
    }

    // The defaults are server.py's and the library's.
    #[test]
    fn defaults_are_those_of_server_py() {
        let config = Config::parse_from(["iforest-server"]);
        let Serving { host, port } = &config.serving;
        assert_eq!((host.as_str(), *port), ("0.0.0.0", 5000));
        let expected = RegistryConfig::new(IsolationForest::params().contamination(0.05));
        assert_eq!(config.registry_config(), Ok(expected));
    }
}
