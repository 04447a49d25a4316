//! The command `iforest-server`: parses its settings, loads or trains the models, and serves.

#![forbid(unsafe_code)]

mod config;
mod healthcheck;
mod predict;
mod progress;
mod telemetry;
mod verify;

use std::error::Error;
use std::future::Future;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iforest_server::http::{Api, ApiConfig, ApiKeys, KeyFileError, StartingApi};
use iforest_server::registry::{DefaultModel, Registry};
use iforest_server::reload::{self, Reload};
use iforest_server::server::{Tls, TlsError};
use iforest_server::store::{Store, StoreError, without_secrets};
use iforest_server::{server, training_data};
use ndarray::Array2;
use tokio::sync::oneshot;

use crate::config::{Command, Config, Listing, Serving, Settings};
use crate::progress::Step;

/// How long a shutdown waits for changes of models to be stored and announced.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(2);

/// How many files, connections included, the server asks to have open at a time.
#[cfg(unix)]
const MAX_OPEN_FILES: u64 = 65_536;

fn main() -> ExitCode {
    #[cfg(unix)]
    keep_files_private();
    let settings = match Settings::load() {
        Ok(settings) => settings,
        Err(error) => return error.report(),
    };
    let general = &settings.config.general;
    telemetry::start(general.log_level, general.log_format);
    let result = if general.check_config {
        check(&settings)
    } else {
        let config = settings.into_config();
        match config.command {
            Some(Command::Healthcheck) => return healthcheck::run(&config),
            Some(Command::Predict(ref args)) => predict::run(&config, args),
            Some(Command::Store(ref args)) => verify::run(&config, args),
            None => serve(&config),
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: &Config) -> Result<(), Box<dyn Error + Send + Sync>> {
    tracing::info!("iforest-server {}", env!("CARGO_PKG_VERSION"));
    // Each connection is a file, and the usual soft limit suits programs with few. Where the system
    // does not allow more, the limit stays.
    #[cfg(unix)]
    let _ = rlimit::increase_nofile_limit(MAX_OPEN_FILES);
    let (stop, serving) = stop_signal()?;
    let options = config.registry_config()?;
    let api_keys = api_keys(config)?.map(Arc::new);
    let tls = tls(config)?.map(Arc::new);
    // Bind before training, so that a port in use is reported at once.
    let listener = bind(&config.serving)?;
    let store = Store::open(&config.storage.store).map_err(|error| store_failed(config, &error))?;
    tracing::info!("models are kept in {store}");
    let memory_limit = options.memory_limit;
    tracing::info!("models, trainings and requests take at most {memory_limit}");
    let keys_file = api_keys.clone().map(|keys| keys as Arc<dyn Reload>);
    let tls_files = tls.clone().map(|tls| tls as Arc<dyn Reload>);
    reload::watch(keys_file.into_iter().chain(tls_files).collect())?;
    let api_config = ApiConfig {
        allowed_origins: config.security.allowed_origins.clone(),
        api_keys: api_keys.clone(),
        body_budget: memory_limit.bodies(),
        ..ApiConfig::default()
    };
    let connections = Arc::clone(&api_config.connections);
    let stopping = Arc::clone(&api_config.stopping);
    let bound = listener.local_addr()?;
    let scheme = if tls.is_some() { "https" } else { "http" };

    let (api, started) = StartingApi::new();
    let start = move || {
        let first = first_model(config)?;
        let step = Step::start(match &first {
            DefaultModel::Retrain(readings) => format!("training on {} readings", readings.nrows()),
            DefaultModel::LoadOrTrain(_) => "loading models".to_owned(),
        });
        let registry = Arc::new(Registry::open(store, options, first)?);
        drop(step);
        // Fails only where the server could not run.
        let _ = started.send(Some(Api::new(Arc::clone(&registry), api_config)));
        log_address(bound, scheme, api_keys.as_deref());
        serving.store(true, Ordering::Relaxed);
        Ok::<_, Box<dyn Error + Send + Sync>>(registry)
    };
    let (failed, failure) = oneshot::channel();
    let shutdown = async move {
        tokio::select! {
            () = stop => {}
            Ok(()) = failure => {}
        }
        stopping.store(true, Ordering::Relaxed);
    };
    // Probes are answered while the first model is trained, which may take long.
    let registry = std::thread::scope(|scope| {
        let start = move || {
            start().inspect_err(|_| {
                let _ = failed.send(());
            })
        };
        let start = std::thread::Builder::new()
            .name("start".to_owned())
            .spawn_scoped(scope, start)?;
        server::run(
            listener,
            api,
            tls,
            shutdown,
            server::GRACE_PERIOD,
            connections,
        )?;
        start.join().map_err(|_| "the start panicked")?
    })?;
    registry.finish(ANNOUNCE_TIMEOUT);
    tracing::info!("stopped");
    Ok(())
}

/// The model that `default` begins with.
fn first_model(config: &Config) -> Result<DefaultModel, training_data::TrainingDataError> {
    let Some(path) = &config.models.train else {
        let random_state = config.models.random_state;
        return Ok(DefaultModel::LoadOrTrain(Box::new(move || {
            synthetic(random_state)
        })));
    };
    let step = Step::start(format!("reading {}", path.display()));
    let readings = training_data::from_file(path)?;
    drop(step);
    tracing::info!(
        "training on {} readings of {}",
        readings.nrows(),
        path.display()
    );
    Ok(DefaultModel::Retrain(readings))
}

/// Says where the server is, and who may call it.
fn log_address(bound: SocketAddr, scheme: &str, api_keys: Option<&ApiKeys>) {
    let address = callable(bound);
    tracing::info!("listening on {bound}, call {scheme}://{address}");
    tracing::info!(
        r#"try: curl -X POST {scheme}://{address}/predict -H "Content-Type: application/json" -d "{{\"value\": 2.5}}""#
    );
    match api_keys {
        Some(keys) => tracing::info!("requests need one of {} API keys", keys.count()),
        None if is_local(bound.ip()) => {}
        None => tracing::warn!(
            "every client that reaches this address may retrain, roll back and delete models; \
             --api-keys FILE asks for keys, --host 127.0.0.1 admits this machine only"
        ),
    }
}

/// Checks the settings and the files that they name, and prints what holds. Nothing is created, bound
/// or trained.
fn check(settings: &Settings) -> Result<(), Box<dyn Error + Send + Sync>> {
    let config = &settings.config;
    let memory_limit = config.registry_config()?.memory_limit;
    let mut checked = vec![format!(
        "models, trainings and requests take at most {memory_limit}"
    )];
    if let Some(keys) = api_keys(config)? {
        checked.push(format!("requests need one of {} API keys", keys.count()));
    }
    if tls(config)?.is_some() {
        checked.push("the certificate and its key belong together".to_owned());
    }
    let Serving { host, port } = &config.serving;
    let addresses = (host.as_str(), *port).to_socket_addrs();
    addresses.map_err(|error| cannot_listen(&config.serving, &error))?;
    Store::check(&config.storage.store).map_err(|error| store_failed(config, &error))?;
    if let Some(path) = &config.models.train {
        let readings = training_data::from_file(path)?;
        checked.push(format!("{} readings to train on", readings.nrows()));
    }
    let mut text = Listing(settings).to_string();
    for line in checked {
        text += &format!("# {line}\n");
    }
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn api_keys(config: &Config) -> Result<Option<ApiKeys>, KeyFileError> {
    let file = config.security.api_keys.as_deref();
    file.map(ApiKeys::load).transpose()
}

fn tls(config: &Config) -> Result<Option<Tls>, TlsError> {
    let files = config.security.tls();
    files.map(|(cert, key)| Tls::load(cert, key)).transpose()
}

fn store_failed(config: &Config, error: &StoreError) -> String {
    let store = without_secrets(&config.storage.store);
    format!("cannot use the store {store}: {error}")
}

/// Keeps the files and folders that are created from users other than the owner: models tell what a
/// plant measures. A umask that keeps others out already, such as a service's `UMask=0027`, stays.
#[cfg(unix)]
fn keep_files_private() {
    use nix::sys::stat::{Mode, umask};

    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    if before.contains(Mode::S_IRWXO) {
        umask(before);
    }
}

/// Whether only this machine reaches an address.
fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The readings of a first start without training data.
fn synthetic(random_state: Option<u32>) -> Array2<f64> {
    let seed = random_state.unwrap_or_else(rand::random);
    tracing::info!(
        "training on synthetic readings, numpy.random.RandomState({seed}).uniform(0, 5, 500); \
         train on your own with --train FILE or POST /retrain"
    );
    training_data::synthetic(seed)
}

fn bind(serving: &Serving) -> Result<TcpListener, String> {
    let bound = server::bind(&serving.host, serving.port);
    bound.map_err(|error| cannot_listen(serving, &error))
}

fn cannot_listen(Serving { host, port }: &Serving, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens there: stop it, or choose another port with --port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this machine does not have the address: --host 0.0.0.0 listens on all that it has"
        }
        // Windows answers so, too, for ports that it keeps for itself, such as those of Hyper-V.
        io::ErrorKind::PermissionDenied if cfg!(windows) => {
            "; another program, or Windows itself, holds the port: choose another one with --port"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports from 1024 on need no rights: choose one with --port"
        }
        _ => "",
    };
    format!("cannot listen on {host}:{port}: {error}{hint}")
}

/// The address to call from this machine, since 0.0.0.0 cannot be called.
fn callable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}

/// A future that completes at Ctrl-C or SIGTERM, and a flag to set when the server serves. Until then
/// a signal ends the program at once: no client waits for an answer, and a version is stored whole or
/// not at all. A second signal ends the program at once, too.
fn stop_signal() -> Result<(impl Future<Output = ()>, Arc<AtomicBool>), ctrlc::Error> {
    let (stop, stopped) = oneshot::channel();
    let mut stop = Some(stop);
    let serving = Arc::new(AtomicBool::new(false));
    let is_serving = Arc::clone(&serving);
    ctrlc::set_handler(move || match stop.take() {
        Some(_) if !is_serving.load(Ordering::Relaxed) => {
            tracing::info!("stopped before the server was ready");
            std::process::exit(0);
        }
        Some(stop) => {
            tracing::info!("stopping: finishing the requests in flight");
            let _ = stop.send(());
        }
        None => {
            tracing::warn!("stopped by a second signal");
            std::process::exit(130);
        }
    })?;
    let stopped = async move {
        let _ = stopped.await;
    };
    Ok((stopped, serving))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_used_comes_with_advice() {
        for (kind, expected) in [
            (io::ErrorKind::AddrInUse, "another port with --port"),
            (io::ErrorKind::AddrNotAvailable, "--host 0.0.0.0"),
            (
                io::ErrorKind::PermissionDenied,
                if cfg!(windows) {
                    "another one with --port"
                } else {
                    "from 1024 on"
                },
            ),
        ] {
            let host = "10.0.0.7".to_owned();
            let error = cannot_listen(&Serving { host, port: 80 }, &kind.into());
            assert!(
                error.starts_with("cannot listen on 10.0.0.7:80: "),
                "{error}"
            );
            assert!(error.contains(expected), "{error}");
        }
    }

    // The warning that everybody may change models depends on it.
    #[test]
    fn only_loopback_addresses_are_local() {
        for (address, local) in [
            ("127.0.0.1", true),
            ("127.8.8.8", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("10.0.0.7", false),
            ("fe80::1", false),
        ] {
            let parsed = address.parse().expect("an address");
            assert_eq!(is_local(parsed), local, "{address}");
        }
    }
}
