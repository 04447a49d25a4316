//! What the parts of one connection tell each other: its socket, its requests, and its timers.
//! All of them run in one task, so plain loads and stores do.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;

use super::connections::Status;

/// The exchange of requests and responses on one connection.
pub(super) struct Exchange {
    status: Arc<Status>,
    requests: AtomicUsize,
    /// A request has begun and its response is not yet made.
    in_flight: AtomicBool,
    /// The request waits for more of its body.
    awaits_body: AtomicBool,
    /// Bytes received since the last request began: the head of the next one.
    head: AtomicUsize,
    /// The socket does not take the response.
    write_blocked: AtomicBool,
    /// The size of the last response.
    response: AtomicUsize,
    body: AtomicU8,
    /// The client waits for `100 Continue` before it sends the body.
    expects_continue: AtomicBool,
    /// What nobody has read of a body.
    unread: Mutex<Option<Incoming>>,
}

/// What has become of the body of a request.
const READ: u8 = 0;
const UNREAD: u8 = 1;
const BROKEN: u8 = 2;

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No request is in flight, and nothing of the next one has arrived.
    Idle,
    /// A part of a request head has arrived.
    Head,
    /// A request waits for more of its body.
    Body,
    /// A request is being worked on.
    Work,
    /// The client does not read its response.
    Unsent,
}

/// What a request leaves of its body.
pub(super) enum Rest {
    /// Nothing: the next request follows.
    Nothing,
    /// The body broke off, or the client was never told to send it: where the next request begins
    /// cannot be known.
    Unknown,
    /// This has not been read.
    Unread(Incoming),
}

impl Exchange {
    pub(super) fn new(status: Arc<Status>) -> Self {
        Self {
            status,
            requests: AtomicUsize::new(0),
            in_flight: AtomicBool::new(false),
            awaits_body: AtomicBool::new(false),
            head: AtomicUsize::new(0),
            write_blocked: AtomicBool::new(false),
            response: AtomicUsize::new(0),
            body: AtomicU8::new(READ),
            expects_continue: AtomicBool::new(false),
            unread: Mutex::new(None),
        }
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn phase(&self) -> Phase {
        if self.write_blocked.load(Ordering::Relaxed) {
            Phase::Unsent
        } else if self.in_flight.load(Ordering::Relaxed) {
            if self.awaits_body.load(Ordering::Relaxed) {
                Phase::Body
            } else {
                Phase::Work
            }
        } else if self.head.load(Ordering::Relaxed) > 0 {
            Phase::Head
        } else {
            Phase::Idle
        }
    }

    /// How many bytes the connection holds, beside bodies, for what its client has not yet done.
    pub(super) fn held(&self) -> usize {
        match self.phase() {
            Phase::Head => self.head.load(Ordering::Relaxed),
            Phase::Unsent => self.response.load(Ordering::Relaxed),
            Phase::Idle | Phase::Body | Phase::Work => 0,
        }
    }

    /// Bytes have arrived. Returns false where the connection has to be closed instead.
    pub(super) fn received(&self, bytes: usize) -> bool {
        if !self.in_flight.load(Ordering::Relaxed) {
            let head = self.head.load(Ordering::Relaxed);
            self.head.store(head + bytes, Ordering::Relaxed);
        }
        self.status.resume()
    }

    pub(super) fn set_write_blocked(&self, blocked: bool) {
        self.write_blocked.store(blocked, Ordering::Relaxed);
    }

    pub(super) fn is_write_blocked(&self) -> bool {
        self.write_blocked.load(Ordering::Relaxed)
    }

    /// A request head has arrived. Returns false where the connection has to be closed instead.
    pub(super) fn begin(&self) -> bool {
        self.requests.store(self.requests() + 1, Ordering::Relaxed);
        self.head.store(0, Ordering::Relaxed);
        self.in_flight.store(true, Ordering::Relaxed);
        self.awaits_body.store(false, Ordering::Relaxed);
        self.body.store(READ, Ordering::Relaxed);
        self.status.resume()
    }

    /// The response is made, and has so many bytes.
    pub(super) fn end(&self, response: usize) {
        self.in_flight.store(false, Ordering::Relaxed);
        self.response.store(response, Ordering::Relaxed);
    }

    /// The request has a body.
    pub(super) fn begin_body(&self, expects_continue: bool) {
        self.body.store(UNREAD, Ordering::Relaxed);
        self.expects_continue
            .store(expects_continue, Ordering::Relaxed);
    }

    /// The body is being read. hyper sends `100 Continue` at the first time.
    pub(super) fn read_body(&self, awaits: bool) {
        self.awaits_body.store(awaits, Ordering::Relaxed);
        self.expects_continue.store(false, Ordering::Relaxed);
    }

    /// The body has ended, or has broken off.
    pub(super) fn end_body(&self, broken: bool) {
        let end = if broken { BROKEN } else { READ };
        self.body.store(end, Ordering::Relaxed);
    }

    /// Keeps a body that was dropped before its end.
    pub(super) fn keep(&self, body: Incoming) {
        if self.body.load(Ordering::Relaxed) == UNREAD {
            *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }

    /// What the request leaves of its body.
    pub(super) fn rest(&self) -> Rest {
        if self.body.load(Ordering::Relaxed) == READ {
            return Rest::Nothing;
        }
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        match unread.take() {
            Some(body) if !self.expects_continue.load(Ordering::Relaxed) => Rest::Unread(body),
            _ => Rest::Unknown,
        }
    }
}
