//! A serving thread.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tower::Service;

use super::client::WithClient;
use super::connections::OpenConnection;
use super::tls::Tls;
use super::{connection, tls};

/// How long sent data may stay unacknowledged; otherwise a client that vanished, or that reads no
/// responses, holds its connection. Linux only.
#[cfg(any(target_os = "android", target_os = "linux"))]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection on its way to the thread that serves it.
pub(super) type Accepted = (std::net::TcpStream, OpenConnection);

/// Serves the connections handed to one thread. Returns whether all requests finished within
/// `grace` of the shutdown.
pub(super) async fn serve<S>(
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    service: S,
    tls: Option<Arc<Tls>>,
    mut stop: watch::Receiver<()>,
    grace: Duration,
) -> bool
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    // Each connection holds a receiver while it is open.
    let (stop_connections, stopped) = watch::channel(());
    let http = connection::http();
    loop {
        let accepted = tokio::select! {
            accepted = accepted.recv() => accepted,
            // The channel carries no values, so this is its end.
            _ = stop.changed() => None,
        };
        let Some((stream, open)) = accepted else {
            break;
        };
        // Responses are small and must not wait to be sent together with more data.
        let _ = stream.set_nodelay(true);
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        let Ok(stream) = TcpStream::from_std(stream) else {
            continue;
        };
        let client = stream.peer_addr().ok().map(canonical);
        let service = WithClient::new(service.clone(), client);
        let (http, tls, stopped) = (http.clone(), tls.clone(), stopped.clone());
        tokio::spawn(async move {
            match tls::accept(stream, tls.as_deref(), &open, stopped.clone()).await {
                Ok(stream) => {
                    connection::serve(&http, stream, service, open, client, stopped).await;
                }
                Err(error) => {
                    let client = client.map(tracing::field::display);
                    tracing::debug!(client, %error, "TLS handshake failed");
                }
            }
        });
    }
    drop(stopped);
    let _ = stop_connections.send(());
    tokio::time::timeout(grace, stop_connections.closed())
        .await
        .is_ok()
}

/// A socket for both families writes IPv4 addresses as IPv6 ones.
fn canonical(address: SocketAddr) -> SocketAddr {
    (address.ip().to_canonical(), address.port()).into()
}
