//! Not going to sleep between the requests of a lone client.
//!
//! To wake a sleeping thread takes longer than to answer a reading, on virtual machines several
//! times as long. So where one connection is all there is, and its client asks again at once, the
//! thread looks for the next request for a moment before it sleeps. That moment is short, it is
//! skipped for a while whenever it was in vain, and with a second connection there is none: then
//! the processors have something better to do.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::service::Service;

/// How long to look for the next request.
const SPIN_TIME: Duration = Duration::from_micros(50);

/// For how many requests not to look after it was in vain.
const SPIN_BACKOFF: usize = 16;

/// The connections of a server, counted over all its threads.
#[derive(Clone)]
pub(super) struct Connections {
    open: Arc<AtomicUsize>,
    /// Whether there is a processor to spare; on a single one the client would wait for it.
    polls: bool,
}

impl Connections {
    pub(super) fn new(cores: usize) -> Self {
        Self {
            open: Arc::default(),
            polls: cores > 1,
        }
    }

    /// Drives a connection to its end; `requests` are those that it has asked.
    pub(super) async fn drive<C: Future>(self, connection: C, requests: Requests) -> C::Output {
        let open = OpenConnection::new(self);
        let mut connection = pin!(connection);
        let mut next = Spin::default();
        poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending()
                && open.may_spin()
                && next.should_spin(requests.0.load(Ordering::Relaxed), Instant::now)
            {
                // The runtime looks for input and comes back here, without sleeping in between.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
            }
            polled
        })
        .await
    }
}

/// A connection as long as it is open.
struct OpenConnection(Connections);

impl OpenConnection {
    fn new(connections: Connections) -> Self {
        connections.open.fetch_add(1, Ordering::Relaxed);
        Self(connections)
    }

    fn may_spin(&self) -> bool {
        self.0.polls && self.0.open.load(Ordering::Relaxed) == 1
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is known of when the next request comes.
#[derive(Default)]
struct Spin {
    /// The requests when it was last asked.
    requests: usize,
    /// Since when it is being looked for.
    since: Option<Instant>,
    /// Not to be looked for before there were as many requests.
    not_before: usize,
}

impl Spin {
    /// Whether to look for a request once more, after as many as there were.
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

/// How many requests a connection has asked.
pub(super) struct Requests(Arc<AtomicUsize>);

/// A service that counts what it is asked.
pub(super) struct CountedService<S>(S, Arc<AtomicUsize>);

impl<S> CountedService<S> {
    pub(super) fn new(service: S) -> (Self, Requests) {
        let requests = Arc::default();
        (Self(service, Arc::clone(&requests)), Requests(requests))
    }
}

impl<R, S: Service<R>> Service<R> for CountedService<S> {
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

    /// A client that pauses must not cost a moment of a processor with each of its requests.
    #[test]
    fn looks_for_the_next_request_only_as_long_as_it_comes_soon() {
        let start = Instant::now();
        let at = |microseconds| move || start + Duration::from_micros(microseconds);
        let mut next = Spin::default();
        assert!(!next.should_spin(0, at(0)), "before the first request");
        assert!(next.should_spin(1, at(100)));
        assert!(next.should_spin(1, at(149)));
        assert!(next.should_spin(2, at(149)), "it came");
        assert!(next.should_spin(2, at(198)));
        assert!(!next.should_spin(2, at(199)), "it did not");
        assert!(!next.should_spin(2, at(200)));
        let again = 2 + SPIN_BACKOFF;
        for requests in 3..again {
            let now = 1000 * requests;
            assert!(!next.should_spin(requests, at(now as u64)), "{requests}");
        }
        assert!(next.should_spin(again, at(1000 * again as u64)));
    }
}
