//! The service of one connection, around the router: what HTTP/1.1 asks of every request and
//! response, whatever its path.
//!
//! A body that the router leaves unread is read and dropped, or else the response says that the
//! connection ends. Without that, a client that keeps its connections sends its next request on one
//! that is about to be closed, and loses it (RFC 9112, section 9.6).

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Request, Response, header};
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::Service;
use pin_project_lite::pin_project;
use tokio::time::timeout;

use super::date;
use super::exchange::{Exchange, Rest};
use crate::http::{ApiError, check_host};

/// Idle timeout while draining a body that nobody read.
const DRAIN_IDLE_TIMEOUT: Duration = Duration::from_millis(500);

/// Maximum time spent on draining a body.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of bytes drained from a body.
const MAX_DRAINED: usize = 64 * 1024 * 1024;

/// The service of one connection.
pub(super) struct ConnectionService<S> {
    router: S,
    exchange: Arc<Exchange>,
    client: Option<SocketAddr>,
}

impl<S> ConnectionService<S> {
    pub(super) fn new(router: S, exchange: Arc<Exchange>, client: Option<SocketAddr>) -> Self {
        Self {
            router,
            exchange,
            client,
        }
    }
}

impl<S> Service<Request<Incoming>> for ConnectionService<S>
where
    S: Service<Request<RequestBody>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let exchange = Arc::clone(&self.exchange);
        let refusal = if exchange.begin() {
            check_host(request.version(), request.headers()).err()
        } else {
            // Nobody reads this. The connection was to be closed before its request was complete, so
            // the request must not take effect.
            Some(ApiError::too_many_connections())
        };
        if let Some(refusal) = refusal {
            let client = self.client.map(tracing::field::display);
            tracing::debug!(client, error = %refusal, "request refused");
            let mut response = refusal.into_response();
            close(&mut response);
            return ResponseFuture {
                router: None,
                drain: None,
                response: Some(response),
                exchange,
            };
        }
        let request = request.map(|body| {
            let tracked = (!body.is_end_stream()).then(|| Arc::clone(&exchange));
            RequestBody::new(body, tracked)
        });
        if !request.body().is_end_stream() {
            exchange.begin_body(request.headers().contains_key(header::EXPECT));
        }
        ResponseFuture {
            router: Some(self.router.call(request)),
            drain: None,
            response: None,
            exchange,
        }
    }
}

pin_project! {
    /// A response on its way.
    pub(super) struct ResponseFuture<F> {
        #[pin]
        router: Option<F>,
        // Reads the rest of the request. Many clients send the whole body before they read the
        // response, and report a broken connection where nobody receives it.
        drain: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        response: Option<Response<Body>>,
        exchange: Arc<Exchange>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for ResponseFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        if this.response.is_none()
            && let Some(router) = this.router.as_mut().as_pin_mut()
        {
            let Ok(mut response) = ready!(router.poll(cx));
            match this.exchange.rest() {
                Rest::Nothing => {}
                Rest::Unknown => close(&mut response),
                Rest::Unread(body) => {
                    let body = RequestBody::new(body, Some(Arc::clone(this.exchange)));
                    *this.drain = Some(Box::pin(drain(body)));
                }
            }
            *this.response = Some(response);
        }
        if let Some(drain) = this.drain {
            ready!(drain.as_mut().poll(cx));
            *this.drain = None;
            if let Some(response) = this.response
                && !matches!(this.exchange.rest(), Rest::Nothing)
            {
                close(response);
            }
        }
        match this.response.take() {
            Some(mut response) => {
                if let Some(date) = date::now() {
                    response.headers_mut().insert(header::DATE, date);
                }
                let size = response.size_hint().upper().unwrap_or(0);
                this.exchange
                    .end(usize::try_from(size).unwrap_or(usize::MAX));
                Poll::Ready(Ok(response))
            }
            // Only where it is polled again after its end.
            None => Poll::Pending,
        }
    }
}

/// Says that the connection ends with this response.
fn close<B>(response: &mut Response<B>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

/// Reads and drops a body.
async fn drain(mut body: RequestBody) {
    let drained = async {
        let mut received = 0;
        while received <= MAX_DRAINED {
            match timeout(DRAIN_IDLE_TIMEOUT, body.frame()).await {
                Ok(Some(Ok(frame))) => received += frame.data_ref().map_or(0, Bytes::len),
                _ => break,
            }
        }
    };
    // At the time-out the response goes out all the same.
    let _ = timeout(DRAIN_TIMEOUT, drained).await;
}

/// The body of a request, which tells the connection how far it is read.
pub(super) struct RequestBody {
    /// There until this is dropped.
    body: Option<Incoming>,
    /// None where the request has no body.
    exchange: Option<Arc<Exchange>>,
}

impl RequestBody {
    fn new(body: Incoming, exchange: Option<Arc<Exchange>>) -> Self {
        Self {
            body: Some(body),
            exchange,
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body, exchange } = &mut *self;
        let Some(body) = body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        if let Some(exchange) = exchange {
            exchange.read_body(polled.is_pending());
            match &polled {
                Poll::Ready(Some(Err(_))) => exchange.end_body(true),
                Poll::Ready(None) => exchange.end_body(false),
                Poll::Ready(Some(Ok(_))) if body.is_end_stream() => exchange.end_body(false),
                _ => {}
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let (Some(body), Some(exchange)) = (self.body.take(), &self.exchange) {
            exchange.keep(body);
        }
    }
}
