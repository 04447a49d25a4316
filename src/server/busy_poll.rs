//! Busy polling between the requests of a lone client.
//!
//! Waking a sleeping thread takes longer than answering a prediction, on virtual machines several
//! times as long. So where a single connection is open and its client sends the next request at
//! once, the thread polls for it for a moment before it sleeps. The moment is short, it is skipped
//! for a while after each time in vain, and with a second connection nothing is polled: then the
//! processors have better things to do.

use std::time::{Duration, Instant};

/// How long to poll for the next request.
const SPIN_TIME: Duration = Duration::from_micros(50);

/// How many requests to skip after polling in vain.
const SPIN_BACKOFF: usize = 16;

/// Decides whether to poll for the next request of a connection.
#[derive(Default)]
pub(super) struct Spin {
    /// The number of requests at the last call.
    requests: usize,
    /// When polling for the next one began.
    since: Option<Instant>,
    /// The number of requests before which not to poll.
    not_before: usize,
}

impl Spin {
    /// Whether to poll once more, after so many `requests`.
    pub(super) fn should_spin(&mut self, requests: usize, now: impl Fn() -> Instant) -> bool {
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
