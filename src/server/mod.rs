//! The accept loop, the serving threads, and the graceful shutdown.
//!
//! Each processor core gets a thread with its own runtime, and each connection stays on one thread,
//! so that no request moves between cores. One thread accepts connections and hands them out in
//! turn. So no other program can share the port by accident, as it could with `SO_REUSEPORT`, and
//! every platform behaves the same.

mod busy_poll;

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

use self::busy_poll::{Connections, CountingService};

/// How long a shutdown waits for requests in flight.
pub const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// Idle timeout of a connection. Node-RED keeps its connections open, and a reading may come only
/// every few minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long sent data may stay unacknowledged; otherwise a client that vanished, or that reads no
/// responses, pins its connection. Linux only.
#[cfg(any(target_os = "android", target_os = "linux"))]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Delay before the next accept when the system is out of sockets.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Shortest time between two warnings that the system is out of sockets.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Serves until `shutdown` completes. Then accepts no more connections and waits at most `grace` for
/// the requests in flight.
///
/// # Errors
///
/// An I/O error of the listener, or of starting a thread.
pub fn run(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
) -> io::Result<()> {
    let (stop, _) = watch::channel(());
    let mut workers = Vec::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let open = Connections::new(cores);
    for i in 0..cores {
        let (connections, accepted) = mpsc::unbounded_channel();
        let (router, runtime, stop) = (router.clone(), runtime()?, stop.subscribe());
        let open = open.clone();
        let thread = std::thread::Builder::new()
            .name(format!("serve-{i}"))
            .spawn(move || {
                let finished = runtime.block_on(serve(accepted, router, open, stop, grace));
                // Abandoned blocking work must not delay the shutdown.
                runtime.shutdown_background();
                finished
            })?;
        workers.push((connections, thread));
    }
    listener.set_nonblocking(true)?;
    runtime()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut shutdown = pin!(shutdown);
        let mut last_warned = None;
        for (connections, _) in workers.iter().cycle() {
            let stream = tokio::select! {
                stream = accept(&listener, &mut last_warned) => stream,
                () = &mut shutdown => return Ok(()),
            };
            // Should a serving thread have died, the others go on.
            let _ = connections.send(stream);
        }
        Ok::<_, io::Error>(())
    })?;
    drop(stop);
    let mut all_finished = true;
    for (connections, thread) in workers {
        drop(connections);
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

/// Accepts a connection. `last_warned` is when the log last said that the system is out of sockets.
async fn accept(
    listener: &tokio::net::TcpListener,
    last_warned: &mut Option<Instant>,
) -> std::net::TcpStream {
    loop {
        let accepted = listener.accept().await;
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => return stream,
            // The client disconnected before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // Out of sockets; that must not end the server.
            Err(error) => {
                if last_warned.is_none_or(|last_warned| last_warned.elapsed() > WARN_INTERVAL) {
                    tracing::warn!("cannot accept connections, retrying: {error}");
                    *last_warned = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Serves the connections handed to one thread. Returns whether all requests finished within
/// `grace` of the shutdown.
async fn serve(
    mut accepted: mpsc::UnboundedReceiver<std::net::TcpStream>,
    router: Router,
    open: Connections,
    mut stop: watch::Receiver<()>,
    grace: Duration,
) -> bool {
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT);
    // A client may close its sending side and still wait for its response.
    http.half_close(true);
    let service = TowerToHyperService::new(router);
    loop {
        let stream = tokio::select! {
            stream = accepted.recv() => stream,
            // The channel carries no values, so this is its end.
            _ = stop.changed() => None,
        };
        let Some(stream) = stream else {
            break;
        };
        // Responses are small and must not wait to be sent together with more data.
        let _ = stream.set_nodelay(true);
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        let Ok(stream) = TcpStream::from_std(stream) else {
            continue;
        };
        let (service, requests) = CountingService::new(service.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let connection = open.clone().drive(graceful.watch(connection), requests);
        tokio::spawn(async move {
            // A client that disconnects in the middle of a request is no event.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    tokio::time::timeout(grace, graceful.shutdown())
        .await
        .is_ok()
}
