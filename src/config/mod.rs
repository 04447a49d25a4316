//! The command line and its environment variables as typed settings. Only `main` uses them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use linfa::ParamGuard;

use iforest_server::detector::OutOfRange;
use iforest_server::forest::{
    IsolationForest, IsolationForestParams, MAX_ESTIMATORS, MaxSamples, ParamsError,
};
use iforest_server::http::Origin;
use iforest_server::memory::MemoryLimit;
use iforest_server::registry::RegistryConfig;

/// Shortest interval between two polls of the store.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

/// Detects anomalies in sensor readings, over HTTP.
///
/// A drop-in for the Flask and PyOD server.py: POST /predict says whether a reading is an anomaly,
/// POST /retrain trains on new readings. Every option can also be set by the environment variable
/// named beside it.
#[derive(Debug, Clone, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Config {
    /// Network address to listen on: 0.0.0.0 for all, 127.0.0.1 for this machine only
    #[arg(long, env = "IFOREST_HOST", default_value = "0.0.0.0")]
    pub(crate) host: String,

    /// Port to listen on; 0 takes any free one
    #[arg(long, env = "IFOREST_PORT", default_value_t = 5000)]
    pub(crate) port: u16,

    /// Share of the training readings taken to be anomalies, above 0 and at most 0.5; a larger share
    /// means more alarms
    #[arg(
        long,
        env = "IFOREST_CONTAMINATION",
        default_value_t = 0.05,
        allow_negative_numbers = true
    )]
    contamination: f64,

    /// Number of trees; more trees give steadier scores and take longer
    #[arg(long, env = "IFOREST_N_ESTIMATORS", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=MAX_ESTIMATORS as i64))]
    n_estimators: u32,

    /// Readings per tree: auto (256, or all if fewer), a number such as 128, or a share such as 0.5
    #[arg(long, env = "IFOREST_MAX_SAMPLES", default_value_t = MaxSamples::Auto,
        allow_negative_numbers = true)]
    max_samples: MaxSamples,

    /// Seed of every training: the same readings then give the same model, equal to PyOD's with this
    /// random_state [default: a new seed for each training, shown in the log]
    #[arg(long, env = "IFOREST_RANDOM_STATE", allow_negative_numbers = true)]
    pub(crate) random_state: Option<u32>,

    /// File of readings to train the default model on: one per line, or a CSV with a column called
    /// value [default: load the stored model, or else train on 500 synthetic readings between 0 and
    /// 5, as server.py does]
    #[arg(long, env = "IFOREST_TRAIN", value_name = "FILE")]
    pub(crate) train: Option<PathBuf>,

    /// Where trained models are stored: a folder, s3://bucket/path, az://container/path,
    /// gs://bucket/path, or memory: to lose them when the server stops
    #[arg(
        long,
        env = "IFOREST_STORE",
        value_name = "URL",
        default_value = "./iforest-models"
    )]
    pub(crate) store: String,

    /// How many versions of each model to keep for rollbacks
    #[arg(long, env = "IFOREST_KEEP_VERSIONS", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..))]
    keep_versions: u32,

    /// How often to poll the store for models that other servers stored; 0s polls only before a model
    /// is retrained or rolled back
    #[arg(long, env = "IFOREST_REFRESH_INTERVAL", value_name = "TIME", default_value = "2s",
        value_parser = humantime::parse_duration)]
    refresh_interval: Duration,

    /// How much memory models, trainings and requests may take together, such as 512MiB or 2GB; models
    /// beyond it are unloaded, and loaded again when they are asked for [default: three quarters of
    /// the memory of the container or the machine]
    #[arg(long, env = "IFOREST_MEMORY_LIMIT", value_name = "SIZE")]
    memory_limit: Option<MemoryLimit>,

    /// How to predict a reading outside the range of the training readings: by its score, as PyOD
    /// does, always as an anomaly, or by a score that grows with the distance
    #[arg(long, env = "IFOREST_OUT_OF_RANGE", value_enum, default_value_t = OutOfRangeArg::Score)]
    out_of_range: OutOfRangeArg,

    /// How far outside a reading may lie and still be predicted by its score, as a share of the width
    /// of that range
    #[arg(
        long,
        env = "IFOREST_OUT_OF_RANGE_MARGIN",
        value_name = "SHARE",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        value_parser = parse_margin
    )]
    out_of_range_margin: f64,

    /// File of API keys that requests must carry: lines of NAME read KEY, to predict and read, or NAME
    /// all KEY, to do everything [default: every client may do everything, as with server.py]
    #[arg(long, env = "IFOREST_API_KEYS", value_name = "FILE")]
    pub(crate) api_keys: Option<PathBuf>,

    /// Origins whose web pages may call this server, separated by commas, such as
    /// https://scada.example:8443 [default: only this server's own]
    #[arg(
        long,
        env = "IFOREST_ALLOWED_ORIGINS",
        value_name = "ORIGINS",
        value_delimiter = ','
    )]
    pub(crate) allowed_origins: Vec<Origin>,

    /// File of the certificate for TLS, in PEM form, followed by those that lead to its authority;
    /// the server then speaks https
    #[arg(
        long,
        env = "IFOREST_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,

    /// File of the private key of that certificate, in PEM form
    #[arg(
        long,
        env = "IFOREST_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,

    /// How much to log; debug logs every request
    #[arg(
        long,
        env = "IFOREST_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info"
    )]
    pub(crate) log_level: LogLevel,
}

/// [`OutOfRange`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutOfRangeArg {
    Score,
    Anomaly,
    Distance,
}

fn parse_margin(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(margin) if margin.is_finite() && margin >= 0.0 => Ok(margin),
        _ => Err("expected a share of the training range, 0 or greater".to_owned()),
    }
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
    pub(crate) fn registry_config(&self) -> Result<RegistryConfig, String> {
        if self.out_of_range == OutOfRangeArg::Distance && self.out_of_range_margin > 0.0 {
            return Err(
                "--out-of-range-margin must not be given with --out-of-range distance, because there \
                 the score grows from the training range on"
                    .to_owned(),
            );
        }
        Ok(RegistryConfig {
            params: self.forest_params().map_err(|error| error.to_string())?,
            out_of_range: match self.out_of_range {
                OutOfRangeArg::Score => OutOfRange::Score,
                OutOfRangeArg::Anomaly => OutOfRange::Anomaly,
                OutOfRangeArg::Distance => OutOfRange::Distance,
            },
            out_of_range_margin: self.out_of_range_margin,
            keep_versions: self.keep_versions as usize,
            refresh_interval: Some(self.refresh_interval)
                .filter(|interval| !interval.is_zero())
                .map(|interval| interval.max(SHORTEST_INTERVAL)),
            memory_limit: self.memory_limit.unwrap_or_else(MemoryLimit::detect),
        })
    }

    /// The files of the certificate and its key.
    pub(crate) fn tls(&self) -> Option<(&Path, &Path)> {
        Some((self.tls_cert.as_deref()?, self.tls_key.as_deref()?))
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Config::command().debug_assert();
    }

    // Containers and service files set variables, not arguments, so every option needs one.
    #[test]
    fn every_option_has_an_environment_variable_and_a_help_line() {
        for option in Config::command().get_opts() {
            let name = option.get_long().expect("every option has a long name");
            let variable = format!("IFOREST_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(option.get_env(), Some(variable.as_ref()), "{name}");
            assert!(option.get_help().is_some(), "{name}");
        }
    }

    // The defaults are server.py's and the library's.
    #[test]
    fn defaults_are_those_of_server_py() {
        let config = Config::parse_from(["iforest-server"]);
        assert_eq!((config.host.as_str(), config.port), ("0.0.0.0", 5000));
        let expected = RegistryConfig::new(IsolationForest::params().contamination(0.05));
        assert_eq!(config.registry_config(), Ok(expected));
    }
}
