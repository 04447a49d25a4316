//! Every request that reaches the API is counted and timed. At the level debug, each is logged too.
//! The `X-Request-Id` that a client sends is returned, so that it finds its answer and the lines of
//! the log.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::extract::{ConnectInfo, Request};
use axum::http::{Extensions, HeaderName, HeaderValue, Method};
use axum::response::Response;
use axum::routing::future::RouteFuture;
use pin_project_lite::pin_project;

use super::error::LoggedError;
use super::paths::{self, PATTERNS};
use crate::metrics::{Exposition, Histogram, Sharded};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The statuses of all responses. Others would be counted as the last one.
const STATUSES: [u16; 14] = [
    200, 422, 400, 401, 403, 404, 405, 408, 409, 413, 415, 503, 304, 500,
];

/// How many requests there were, and how long they took.
#[derive(Debug, Default)]
pub(super) struct RequestMetrics(Sharded<Arc<Requests>>);

#[derive(Debug, Default)]
struct Requests([RouteRequests; PATTERNS.len()]);

#[derive(Debug, Default)]
struct RouteRequests {
    by_status: [AtomicU64; STATUSES.len()],
    durations: Histogram,
}

impl RequestMetrics {
    pub(super) fn write(&self, text: &mut Exposition) {
        let mut family = text.counter(
            "iforest_http_requests_total",
            "Requests that were answered, by route and status.",
        );
        for (route, pattern) in PATTERNS.iter().enumerate() {
            for (status, code) in STATUSES.iter().enumerate() {
                let counts = self
                    .0
                    .iter()
                    .map(|requests| requests.0[route].by_status[status].load(Ordering::Relaxed));
                let count: u64 = counts.sum();
                // A series whose first sample is not 0 hides what was counted before it.
                if count > 0 || matches!(code, 200 | 500 | 503) {
                    family.sample(&[("route", pattern), ("status", code)], count);
                }
            }
        }
        let mut family = text.histogram(
            "iforest_http_request_duration_seconds",
            "Time from the head of a request to its response.",
        );
        for (route, pattern) in PATTERNS.iter().enumerate() {
            let durations = self.0.iter().map(|requests| &requests.0[route].durations);
            family.durations(&[("route", pattern)], durations);
        }
    }

    /// A request has arrived.
    pub(super) fn begin(&self, request: &Request) -> InFlight {
        let log = tracing::enabled!(tracing::Level::DEBUG).then(|| {
            let path = request.uri().path();
            Box::new((request.method().clone(), path.to_owned()))
        });
        InFlight {
            requests: Arc::clone(self.0.local()),
            route: paths::pattern(request.uri().path()),
            start: Instant::now(),
            client: client(request.extensions()),
            id: request.headers().get(REQUEST_ID).cloned(),
            log,
        }
    }
}

/// The address of the client that sent a request; `None` without a connection.
pub(super) fn client(extensions: &Extensions) -> Option<SocketAddr> {
    extensions.get().map(|&ConnectInfo(address)| address)
}

/// The `X-Request-Id` of a request, to be logged.
pub(super) fn request_id(request: &Request) -> Option<Arc<str>> {
    request.headers().get(REQUEST_ID).map(to_text)
}

fn to_text(id: &HeaderValue) -> Arc<str> {
    String::from_utf8_lossy(id.as_bytes()).into()
}

/// A request that has no response yet.
#[derive(Debug)]
pub(super) struct InFlight {
    requests: Arc<Requests>,
    route: usize,
    start: Instant,
    client: Option<SocketAddr>,
    id: Option<HeaderValue>,
    /// The method and the path, where each request is logged.
    log: Option<Box<(Method, String)>>,
}

impl InFlight {
    fn end(self, response: &mut Response) {
        let duration = self.start.elapsed();
        let status = response.status().as_u16();
        let index = STATUSES.iter().position(|&known| known == status);
        let route = &self.requests.0[self.route];
        route.by_status[index.unwrap_or(STATUSES.len() - 1)].fetch_add(1, Ordering::Relaxed);
        route.durations.observe(duration);
        let client = self.client.map(tracing::field::display);
        let request_id = || self.id.as_ref().map(to_text).map(tracing::field::display);
        let error = response.extensions().get::<LoggedError>();
        let error = error.map(|LoggedError(message)| message.as_str());
        if let Some(cause) = error.filter(|_| status == 500) {
            let route = PATTERNS[self.route];
            tracing::error!(
                client,
                request_id = request_id(),
                route,
                cause,
                "a request failed"
            );
        }
        if let Some((method, path)) = self.log.as_deref() {
            tracing::debug!(
                client,
                request_id = request_id(),
                %method,
                path,
                status,
                ?duration,
                error,
                "request"
            );
        }
        if let Some(id) = self.id {
            response.headers_mut().insert(REQUEST_ID, id);
        }
    }
}

pin_project! {
    /// The response to a request.
    pub struct ResponseFuture {
        #[pin]
        response: RouteFuture<Infallible>,
        // None once the response is made.
        request: Option<InFlight>,
    }
}

impl ResponseFuture {
    pub(super) fn new(request: InFlight, response: RouteFuture<Infallible>) -> Self {
        Self {
            response,
            request: Some(request),
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(this.response.poll(cx));
        if let Some(request) = this.request.take() {
            request.end(&mut response);
        }
        Poll::Ready(Ok(response))
    }
}
