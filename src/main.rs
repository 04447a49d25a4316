//! The command `iforest-server`: reads its settings, trains a first model, serves.

#![forbid(unsafe_code)]

mod config;
mod telemetry;

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use iforest_server::registry::Registry;
use iforest_server::{http, readings, server};
use tokio::net::TcpListener;

use crate::config::Config;

fn main() -> ExitCode {
    let config = Config::parse();
    telemetry::start(config.log_level);
    match serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(config: &Config) -> Result<(), Box<dyn Error>> {
    tracing::info!("iforest-server {}", env!("CARGO_PKG_VERSION"));
    let params = config.forest_params()?;
    // Bound before training, so that a port in use is told at once.
    let listener = bind(&config.host, config.port).await?;
    let readings = match &config.train {
        Some(path) => {
            let readings = readings::from_file(path)?;
            tracing::info!(
                "training on {} readings of {}",
                readings.nrows(),
                path.display()
            );
            readings
        }
        None => {
            let seed = config.random_state.unwrap_or_else(rand::random);
            tracing::info!(
                "training on synthetic readings, numpy.random.RandomState({seed}).uniform(0, 5, \
                 500); train on your own with --train FILE or POST /retrain"
            );
            readings::synthetic(seed)
        }
    };
    let registry = Arc::new(Registry::train(params, readings)?);

    let address = callable(listener.local_addr()?);
    tracing::info!(
        "listening on {}, call http://{address}",
        listener.local_addr()?
    );
    tracing::info!(
        r#"try: curl -X POST http://{address}/predict -H "Content-Type: application/json" -d "{{\"value\": 2.5}}""#
    );
    server::run(listener, http::router(registry), stop_signal()).await?;
    tracing::info!("stopped");
    Ok(())
}

async fn bind(host: &str, port: u16) -> Result<TcpListener, String> {
    TcpListener::bind((host, port)).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another program listens there: stop it, or choose another port with --port"
            }
            _ => "",
        };
        format!("cannot listen on {host}:{port}: {error}{hint}")
    })
}

/// The address to call from this machine: 0.0.0.0 is none.
fn callable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}

/// Completes at SIGINT (Ctrl-C) or, where there is such a thing, SIGTERM.
async fn stop_signal() {
    let interrupt = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(%error, "Ctrl-C cannot be watched");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be watched");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
    tracing::info!("stopping: finishing the requests in flight");
}
