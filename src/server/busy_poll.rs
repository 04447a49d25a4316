//! Busy polling between the requests of a lone client.
//!
//! Waking a sleeping thread takes longer than answering a prediction, on virtual machines several
//! times as long. So where a single connection is open and its client sends the next request at
//! once, the thread polls for it for a moment before it sleeps. The moment is short, it is skipped
//! for a while after each time in vain, and with a second connection nothing is polled: then the
//! processors have better things to do.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::service::Service;

/// How long to poll for the next request.
const SPIN_TIME: Duration = Duration::from_micros(50);

/// How many requests to skip after polling in vain.
const SPIN_BACKOFF: usize = 16;

/// The open connections of a server, counted over all its threads.
#[derive(Clone)]
pub(super) struct Connections {
    open: Arc<AtomicUsize>,
    /// Whether there is a processor to spare. On a single one the client would wait for it.
    polls: bool,
}

impl Connections {
    pub(super) fn new(cores: usize) -> Self {
        Self {
            open: Arc::default(),
            polls: cores > 1,
        }
    }

    /// Drives a connection to its end. `requests` counts its requests.
    pub(super) async fn drive<C: Future>(self, connection: C, requests: RequestCount) -> C::Output {
        let open = OpenConnection::new(self);
        let mut connection = pin!(connection);
        let mut spin = Spin::default();
        poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending()
                && open.is_alone()
                && spin.should_spin(requests.0.load(Ordering::Relaxed), Instant::now)
            {
                // The runtime polls for input and comes back here, without sleeping in between.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
            }
            polled
        })
        .await
    }
}

/// Counts a connection while it is open.
struct OpenConnection(Connections);

impl OpenConnection {
    fn new(connections: Connections) -> Self {
        connections.open.fetch_add(1, Ordering::Relaxed);
        Self(connections)
    }

    fn is_alone(&self) -> bool {
        self.0.polls && self.0.open.load(Ordering::Relaxed) == 1
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Decides whether to poll for the next request of a connection.
#[derive(Default)]
struct Spin {
    /// The number of requests at the last call.
    requests: usize,
    /// When polling for the next one began.
    since: Option<Instant>,
    /// The number of requests before which not to poll.
    not_before: usize,
}

impl Spin {
    /// Whether to poll once more, after so many `requests`.
    fn should_spin(&mut self, requests: usize, now: impl Fn() -> Instant) -> bool {
        if requests != self.requests {
            self.requests = requests;
            self.since = (requests >= self.not_before).then(&now);
        }
        let Some(since) = self.since else {
            return false;
        };
        if now() - since < SPIN_TIME {
            return true;
        }
        self.since = None;
        self.not_before = requests + SPIN_BACKOFF;
        false
    }
}

/// The number of requests that a connection has sent.
pub(super) struct RequestCount(Arc<AtomicUsize>);

/// A service that counts its requests.
pub(super) struct CountingService<S>(S, Arc<AtomicUsize>);

impl<S> CountingService<S> {
    pub(super) fn new(service: S) -> (Self, RequestCount) {
        let requests = Arc::default();
        (Self(service, Arc::clone(&requests)), RequestCount(requests))
    }
}

impl<R, S: Service<R>> Service<R> for CountingService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: R) -> S::Future {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A client that pauses must not cost processor time with each of its requests.
    #[test]
    fn polls_only_while_the_next_request_comes_soon() {
        let start = Instant::now();
        let at = |microseconds| move || start + Duration::from_micros(microseconds);
        let mut spin = Spin::default();
        assert!(!spin.should_spin(0, at(0)), "before the first request");
        assert!(spin.should_spin(1, at(100)));
        assert!(spin.should_spin(1, at(149)));
        assert!(spin.should_spin(2, at(149)), "the request came");
        assert!(spin.should_spin(2, at(198)));
        assert!(!spin.should_spin(2, at(199)), "it did not come");
        assert!(!spin.should_spin(2, at(200)));
        let again = 2 + SPIN_BACKOFF;
        for requests in 3..again {
            let now = 1000 * requests;
            assert!(!spin.should_spin(requests, at(now as u64)), "{requests}");
        }
        assert!(spin.should_spin(again, at(1000 * again as u64)));
    }
}
