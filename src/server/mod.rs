//! The accept loop, the serving threads, and the graceful shutdown.
//!
//! Each processor core gets a thread with its own runtime, and each connection stays on one thread,
//! so that no request moves between cores. One thread accepts connections and hands them out in
//! turn. So no other program can share the port by accident, as it could with `SO_REUSEPORT`, and
//! every platform behaves the same.
//!
//! * `listener`: the listening socket and the accept loop
//! * `connections`: all open connections, and which to close where there are too many
//! * `worker`: a serving thread
//! * `connection`, `exchange`, `service`: one connection; its timers, its state, its requests
//! * `tls`: encryption, or that this program has none
//! * `client`: the client's address
//! * `date`: the `Date` header
//! * `busy_poll`: polling for the next request of a lone client

mod busy_poll;
mod client;
mod connection;
mod connections;
mod date;
mod exchange;
mod listener;
mod service;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod worker;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tower::Service;

use self::connections::Connections;
use self::listener::Acceptor;
use crate::metrics::ConnectionMetrics;

pub use self::listener::bind;
pub use self::tls::{Tls, TlsError};

/// How long a shutdown waits for requests in flight.
pub const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// Serves `service`, which must always be ready, until `shutdown` completes, over TLS if there is a
/// certificate. Then accepts no more connections and waits at most `grace` for the requests in
/// flight. Counts the connections in `metrics`.
///
/// # Errors
///
/// An I/O error of the listener, or of starting a thread.
pub fn run<S>(
    listener: TcpListener,
    service: S,
    tls: Option<Arc<Tls>>,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
    metrics: Arc<ConnectionMetrics>,
) -> io::Result<()>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let (stop, _) = watch::channel(());
    let mut workers = Vec::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let connections = Connections::new(cores, file_limit(), metrics);
    for i in 0..cores {
        let (sender, accepted) = mpsc::unbounded_channel();
        let (service, runtime, stop) = (service.clone(), runtime()?, stop.subscribe());
        let tls = tls.clone();
        let thread = std::thread::Builder::new()
            .name(format!("serve-{i}"))
            .spawn(move || {
                let finished = runtime.block_on(worker::serve(accepted, service, tls, stop, grace));
                // Abandoned blocking work must not delay the shutdown.
                runtime.shutdown_background();
                finished
            })?;
        workers.push((sender, thread));
    }
    runtime()?.block_on(async {
        let mut acceptor = Acceptor::new(listener, connections.clone())?;
        let mut shutdown = pin!(shutdown);
        for (worker, _) in workers.iter().cycle() {
            let accepted = tokio::select! {
                accepted = acceptor.next() => accepted,
                () = &mut shutdown => return Ok(()),
            };
            // Should a serving thread have died, the others go on.
            let _ = worker.send(accepted);
        }
        Ok::<_, io::Error>(())
    })?;
    connections.stop();
    drop(stop);
    let mut all_finished = true;
    for (worker, thread) in workers {
        drop(worker);
        all_finished &= thread.join().unwrap_or(false);
    }
    if !all_finished {
        tracing::warn!("some requests did not finish within {grace:?} and were cut off");
    }
    Ok(())
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        // Long work shares one thread, which leaves the processors to short requests.
        .max_blocking_threads(1)
        .enable_all()
        .build()
}

/// How many files the process may have open.
fn file_limit() -> Option<u64> {
    #[cfg(unix)]
    return rlimit::Resource::NOFILE.get_soft().ok();
    #[cfg(not(unix))]
    None
}
