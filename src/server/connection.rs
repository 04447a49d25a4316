//! One connection, from its first byte to its end: its timers, and how it is closed.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep_until, timeout};

use super::busy_poll::Spin;
use super::connections::{OpenConnection, Waiting};
use super::date;
use super::exchange::{Exchange, Phase, Rest};
use super::service::{ConnectionService, RequestBody};
use crate::http::ApiError;

/// Idle timeout of a connection. Node-RED keeps its connections open, and a reading may come only
/// every few minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Maximum time from the first byte of a request head to its end. Heads are a few hundred bytes, so
/// that suits any network.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Size of the buffer in which a connection receives, and so of the largest request head. Larger
/// ones hold memory, and make long bodies no faster.
const BUFFER_SIZE: usize = 16 * 1024;

/// How long to receive what a client still sends after the response that ends the connection.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// How HTTP is spoken on every connection.
pub(super) fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    // hyper's timer also runs while a connection is idle; there are timers of our own below.
    http.header_read_timeout(None)
        // See `date`.
        .auto_date_header(false)
        .max_buf_size(BUFFER_SIZE)
        // A client may close its sending side and still wait for its response.
        .half_close(true);
    http
}

/// Serves a connection to its end. `stop` changes when the server stops.
pub(super) async fn serve<I, S>(
    http: &http1::Builder,
    socket: I,
    router: S,
    open: OpenConnection,
    client: Option<SocketAddr>,
    mut stop: watch::Receiver<()>,
) where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<RequestBody>, Response = Response<Body>, Error = Infallible>,
{
    let exchange = Arc::new(Exchange::new(Arc::clone(open.status())));
    let socket = Socket {
        socket,
        exchange: Arc::clone(&exchange),
    };
    let service = ConnectionService::new(router, Arc::clone(&exchange), client);
    let mut connection = http.serve_connection(TokioIo::new(socket), service);
    let mut stopped = pin!(stop.changed());
    let mut is_stopping = false;
    let mut watch = ConnectionWatch::new(open, exchange);
    let end = poll_fn(|cx| {
        if watch.open.is_evicted() {
            return Poll::Ready(End::Closed("closed for another connection"));
        }
        // The first poll names the task to wake; later the flag is cheaper to look at.
        if !is_stopping && (watch.is_first_poll() || watch.open.is_stopping()) {
            is_stopping = stopped.as_mut().poll(cx).is_ready();
            if is_stopping {
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
        match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(result) => Poll::Ready(End::Served(result)),
            Poll::Pending => watch.poll(cx),
        }
    })
    .await;
    let mut socket = connection.into_parts().io.into_inner();
    let client = client.map(tracing::field::display);
    match end {
        // A client that disconnects in the middle of a request is no event.
        End::Served(Err(error)) => {
            tracing::debug!(client, %error, "connection ended");
            linger(&mut socket).await;
        }
        End::Served(Ok(())) => {
            if !matches!(watch.exchange.rest(), Rest::Nothing) {
                linger(&mut socket).await;
            }
        }
        End::Refused(error) => {
            tracing::debug!(client, %error, "request refused");
            // The buffers of an idle socket hold a whole response, so one write does.
            let sent = async {
                socket.write_all(&message(&error)).await?;
                socket.shutdown().await
            };
            if let Ok(Ok(())) = timeout(LINGER_TIMEOUT, sent).await {
                linger(&mut socket).await;
            }
        }
        End::Closed(reason) => tracing::debug!(client, reason, "connection closed"),
    }
}

/// How a connection ends.
enum End {
    /// The client has closed it, or a response was the last one.
    Served(hyper::Result<()>),
    /// In the middle of a request head.
    Refused(ApiError),
    /// For this reason, without a response.
    Closed(&'static str),
}

/// Receives and drops what the client still sends after a response that ends the connection.
/// Otherwise the system resets the connection, and the client may lose the response (RFC 9112,
/// section 9.6).
async fn linger<I: AsyncRead + Unpin>(socket: &mut I) {
    let received = async {
        let mut buffer = vec![0; 8 * 1024];
        while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    let _ = timeout(LINGER_TIMEOUT, received).await;
}

/// An error response as it is sent where hyper waits for a request head, and sends none.
fn message(error: &ApiError) -> Vec<u8> {
    let status = error.status();
    let body = error.to_json();
    let date = date::now().and_then(|date| Some(format!("date: {}\r\n", date.to_str().ok()?)));
    let date = date.unwrap_or_default();
    let mut message = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n{date}\r\n",
        status.as_str(),
        status.canonical_reason().unwrap_or_default(),
        body.len()
    )
    .into_bytes();
    message.extend(body);
    message
}

/// Watches over a connection while it waits.
///
/// It has a single timer, which is set anew only once it has elapsed, or where it would be too
/// late. So a request costs no timer operation.
struct ConnectionWatch {
    open: OpenConnection,
    exchange: Arc<Exchange>,
    /// Unknown before the first poll.
    phase: Option<Phase>,
    requests: usize,
    /// When that phase of that request began.
    since: Instant,
    held: usize,
    timer: Option<Pin<Box<Sleep>>>,
    spin: Spin,
}

impl ConnectionWatch {
    fn new(open: OpenConnection, exchange: Arc<Exchange>) -> Self {
        Self {
            open,
            exchange,
            phase: None,
            requests: 0,
            since: Instant::now(),
            held: 0,
            timer: None,
            spin: Spin::default(),
        }
    }

    fn is_first_poll(&self) -> bool {
        self.phase.is_none()
    }

    /// Called where the connection can do no more for now. Ready where it has to end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.is_first_poll() {
            self.open.set_waker(cx.waker());
        }
        let (phase, requests) = (self.exchange.phase(), self.exchange.requests());
        if self.phase != Some(phase) || self.requests != requests {
            self.phase = Some(phase);
            self.requests = requests;
            self.since = Instant::now();
        }
        let (waiting, patience) = match phase {
            Phase::Idle => (Waiting::Idle, Some(IDLE_TIMEOUT)),
            Phase::Head => (Waiting::Client, Some(HEAD_TIMEOUT)),
            // The handlers have timers for bodies, and TCP has one for unsent data.
            Phase::Body | Phase::Unsent => (Waiting::Client, None),
            Phase::Work => (Waiting::No, None),
        };
        self.open.wait(waiting, self.since);
        let held = self.exchange.held();
        if self.held != held {
            self.held = held;
            if !self.open.hold(held) {
                return Poll::Ready(match phase {
                    Phase::Head => End::Refused(ApiError::too_many_connections()),
                    _ => End::Closed("too many responses are unread"),
                });
            }
        }
        if let Some(patience) = patience
            && self.poll_timer(self.since + patience, cx).is_ready()
        {
            return Poll::Ready(match phase {
                Phase::Head if !self.exchange.is_write_blocked() => {
                    End::Refused(ApiError::head_timeout(HEAD_TIMEOUT))
                }
                _ => End::Closed("idle for too long"),
            });
        }
        if self.open.is_alone() && self.spin.should_spin(requests, Instant::now) {
            // The runtime polls for input and comes back here, without sleeping in between.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
        }
        Poll::Pending
    }

    fn poll_timer(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = deadline.into();
        match &mut self.timer {
            // It wakes this task in time, and then the deadline may be a later one.
            Some(timer) if timer.deadline() <= deadline && !timer.is_elapsed() => Poll::Pending,
            Some(timer) => {
                timer.as_mut().reset(deadline);
                timer.as_mut().poll(cx)
            }
            none => none
                .insert(Box::pin(sleep_until(deadline)))
                .as_mut()
                .poll(cx),
        }
    }
}

/// A socket that tells the connection what it receives and sends.
struct Socket<I> {
    socket: I,
    exchange: Arc<Exchange>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Socket<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        let received = buffer.filled().len() - before;
        if received > 0 && !self.exchange.received(received) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Socket<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buffer);
        self.exchange.set_write_blocked(written.is_pending());
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, buffers);
        self.exchange.set_write_blocked(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
