//! The accept loop, the threads that serve, and the graceful end.
//!
//! Each processor core gets a thread with a runtime of its own, and each connection stays with one
//! thread, so that nothing moves between cores while a request is answered. One thread accepts and
//! deals connections out in turn, so a port cannot be shared with another program by accident, and
//! it works the same on every platform.

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

use busy_poll::{Connections, CountedService};

/// How long requests in flight may take to finish once the server is asked to stop.
pub const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// How long a connection may stay silent. Node-RED keeps its connections, and a reading may come
/// every few minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long an answer may wait for its client to take it, where the system can tell.
#[cfg(any(target_os = "android", target_os = "linux"))]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait before accepting again when the system has no more sockets.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long the log is not last_warned of that again.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Serves until `shutdown` completes; then takes no more connections and waits for the requests in
/// flight, for at most `grace`.
///
/// # Errors
///
/// An I/O error of the listener, or of starting threads.
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
                // Long work that was given up must not hold up the end.
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
            // A thread that is gone serves nothing; the others go on.
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
        tracing::warn!("some requests did not finish within {grace:?} and are given up");
    }
    Ok(())
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        // Work that takes long shares one thread, and so leaves processors to short requests.
        .max_blocking_threads(1)
        .enable_all()
        .build()
}

/// Waits for a connection. `last_warned` is when the log was last_warned that the system has no more.
async fn accept(
    listener: &tokio::net::TcpListener,
    last_warned: &mut Option<Instant>,
) -> std::net::TcpStream {
    loop {
        let accepted = listener.accept().await;
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => return stream,
            // The peer gave up before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // The system is out of sockets, which may not end the server.
            Err(error) => {
                if last_warned.is_none_or(|last_warned| last_warned.elapsed() > WARN_INTERVAL) {
                    tracing::warn!("new connections have to wait: {error}");
                    *last_warned = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Serves the connections dealt out to one thread. Whether all requests were finished in the end.
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
    // A client may say that it has no more to send, and wait for its answer.
    http.half_close(true);
    let service = TowerToHyperService::new(router);
    loop {
        let stream = tokio::select! {
            stream = accepted.recv() => stream,
            // Only ever closed.
            _ = stop.changed() => None,
        };
        let Some(stream) = stream else {
            break;
        };
        // Answers are small and must not wait for more to be sent with them.
        let _ = stream.set_nodelay(true);
        // A client that was cut off without a word, or that reads no answers, would keep them here.
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        let Ok(stream) = TcpStream::from_std(stream) else {
            continue;
        };
        let (service, requests) = CountedService::new(service.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let connection = open.clone().drive(graceful.watch(connection), requests);
        tokio::spawn(async move {
            // A client that hangs up in the middle is nothing to report.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    tokio::time::timeout(grace, graceful.shutdown())
        .await
        .is_ok()
}
