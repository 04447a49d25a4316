//! The accept loop and its graceful end.

use std::future::{Future, IntoFuture};
use std::io;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;

/// How long requests in flight may take to finish once the server is asked to stop.
pub const GRACE: Duration = Duration::from_secs(10);

/// Serves until `shutdown` completes; then takes no more connections and waits for the requests in
/// flight, for at most [`GRACE`].
///
/// # Errors
///
/// An I/O error of the listener.
pub async fn run(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let serve = axum::serve(listener, router).with_graceful_shutdown(async move {
        shutdown.await;
        let _ = stopping.send(());
    });
    let grace = async {
        // An error means that serving has ended before, which the other branch reports.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serve.into_future() => served,
        () = grace => {
            tracing::warn!("some requests did not finish within {GRACE:?} and are given up");
            Ok(())
        }
    }
}
