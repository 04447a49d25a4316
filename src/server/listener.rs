//! The listening socket, and the loop that accepts connections.

use std::io;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::connections::{Connections, OpenConnection};

/// How many connections may wait to be accepted. The standard library asks for 128, and Linux drops
/// the handshakes of those beyond, whose clients try again only after a second. The system may allow
/// fewer: Linux has `net.core.somaxconn`, 4,096 by default.
const BACKLOG: i32 = 4096;

/// Delay before the next accept when the system is out of sockets.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Shortest time between two warnings that the system is out of sockets.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Listens on an address.
///
/// # Errors
///
/// An I/O error where the name is unknown or the port is in use.
pub fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((host, port))?;
    // A system that cannot change the backlog of a listening socket keeps the one it has.
    let _ = SockRef::from(&listener).listen(BACKLOG);
    Ok(listener)
}

/// Accepts connections.
pub(super) struct Acceptor {
    listener: tokio::net::TcpListener,
    connections: Connections,
    /// When the log last said that the system is out of sockets.
    last_warned: Option<Instant>,
}

impl Acceptor {
    /// Must be called within a runtime.
    pub(super) fn new(listener: TcpListener, connections: Connections) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: tokio::net::TcpListener::from_std(listener)?,
            connections,
            last_warned: None,
        })
    }

    /// The next connection.
    pub(super) async fn next(&mut self) -> (std::net::TcpStream, OpenConnection) {
        let stream = self.accept().await;
        let open = self.connections.admit().await;
        (stream, open)
    }

    async fn accept(&mut self) -> std::net::TcpStream {
        loop {
            let accepted = self.listener.accept().await;
            match accepted.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => return stream,
                // The client disconnected before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Out of sockets; that must not end the server.
                Err(error) => {
                    if self
                        .last_warned
                        .is_none_or(|last_warned| last_warned.elapsed() > WARN_INTERVAL)
                    {
                        tracing::warn!("cannot accept connections, retrying: {error}");
                        self.last_warned = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }
}
