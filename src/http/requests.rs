//! Counts and times each request that reaches the API, and logs it at the level debug. Returns the
//! `X-Request-Id` that a client sends, so that the client finds its answer and its lines in the log.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request};
use axum::http::{Extensions, HeaderName, HeaderValue, Method};
use axum::response::Response;
use axum::routing::future::RouteFuture;
use pin_project_lite::pin_project;

use super::error::LoggedError;
use super::paths::{self, PATTERNS};
use crate::metrics::{Exposition, Histogram, Sharded};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The statuses of all responses. Any other status would count as the last one.
const STATUSES: [u16; 13] = [
    200, 422, 400, 401, 403, 404, 405, 408, 409, 413, 415, 503, 500,
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
        let id = find_request_id(request);
        let is_logged = tracing::enabled!(tracing::Level::DEBUG);
        let details = (id.is_some() || is_logged).then(|| {
            let line = || (request.method().clone(), request.uri().path().to_owned());
            Box::new(Details {
                id: id.cloned(),
                line: is_logged.then(line),
            })
        });
        InFlight {
            requests: Arc::clone(self.0.local()),
            route: paths::pattern(request.uri().path()),
            start: Instant::now(),
            client: client(request.extensions()),
            details,
        }
    }
}

/// The address of the client that sent a request; `None` without a connection.
pub(super) fn client(extensions: &Extensions) -> Option<SocketAddr> {
    extensions.get().map(|&ConnectInfo(address)| address)
}

/// The `X-Request-Id` of a request, to be logged.
pub(super) fn request_id(request: &Request) -> Option<Arc<str>> {
    find_request_id(request).map(to_text)
}

/// Compares names, which takes less time than to hash one: requests have few headers.
fn find_request_id(request: &Request) -> Option<&HeaderValue> {
    let mut headers = request.headers().iter();
    headers.find_map(|(name, value)| (name == REQUEST_ID).then_some(value))
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
    /// Boxed, because most requests need none, and each request is moved several times.
    details: Option<Box<Details>>,
}

#[derive(Debug)]
struct Details {
    id: Option<HeaderValue>,
    /// The method and the path, if each request is logged.
    line: Option<(Method, String)>,
}

impl InFlight {
    fn end(&self, response: &mut Response) {
        let duration = self.start.elapsed();
        let status = response.status().as_u16();
        let index = STATUSES.iter().position(|&known| known == status);
        let route = &self.requests.0[self.route];
        route.by_status[index.unwrap_or(STATUSES.len() - 1)].fetch_add(1, Ordering::Relaxed);
        route.durations.observe(duration);
        if status == 500 || self.details.is_some() {
            self.log(status, duration, response);
        }
    }

    #[cold]
    fn log(&self, status: u16, duration: Duration, response: &mut Response) {
        let details = self.details.as_deref();
        let id = details.and_then(|details| details.id.as_ref());
        let client = self.client.map(tracing::field::display);
        let request_id = id.map(to_text).map(tracing::field::display);
        let error = response.extensions().get::<LoggedError>();
        let error = error.map(|LoggedError(message)| message.as_str());
        if let Some(cause) = error.filter(|_| status == 500) {
            let route = PATTERNS[self.route];
            tracing::error!(
                client,
                request_id = request_id.clone(),
                route,
                cause,
                "a request failed"
            );
        }
        if let Some((method, path)) = details.and_then(|details| details.line.as_ref()) {
            tracing::debug!(
                client,
                request_id,
                %method,
                path,
                status,
                ?duration,
                error,
                "request"
            );
        }
        if let Some(id) = id {
            response.headers_mut().insert(REQUEST_ID, id.clone());
        }
    }
}

pin_project! {
    /// The response to a request.
    pub struct ResponseFuture {
        #[pin]
        response: Source,
        request: InFlight,
    }
}

pin_project! {
    #[project = SourceProjection]
    enum Source {
        Router { #[pin] response: RouteFuture<Infallible> },
        Handler { response: Handled },
    }
}

/// The response of a handler that was called without a router.
type Handled = Pin<Box<dyn Future<Output = Response> + Send>>;

impl ResponseFuture {
    pub(super) fn routed(request: InFlight, response: RouteFuture<Infallible>) -> Self {
        Self {
            response: Source::Router { response },
            request,
        }
    }

    pub(super) fn handled(request: InFlight, response: Handled) -> Self {
        Self {
            response: Source::Handler { response },
            request,
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.response.project() {
            SourceProjection::Router { response } => {
                let Ok(response) = ready!(response.poll(cx));
                response
            }
            SourceProjection::Handler { response } => ready!(response.as_mut().poll(cx)),
        };
        this.request.end(&mut response);
        Poll::Ready(Ok(response))
    }
}
