//! Memory for request bodies: one budget for all that arrive or wait.
//!
//! A body that is there with its head needs no memory beyond its connection's buffer, and is not
//! counted unless it has to wait, as that of a retrain does. Where the budget is used up, the body
//! of a client that stalls, or that has been sending longest, makes room.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::error::ApiError;

/// A body that is still arriving may be dropped for another one only after this time, or where
/// nothing of it has come for so long. Over a working network, most bodies are complete by then.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// What is counted for a body that is still arriving, beside its bytes: the buffer in which its
/// connection receives.
const RECEIVE_BUFFER: usize = 16 * 1024;

/// A body is received in chunks of this size, in bytes. As all are of one size, those of one body
/// are used again by the next, where buffers that grow would leave gaps of all sizes.
const CHUNK: usize = 16 * 1024;

/// A body above this size, in bytes, is received in one buffer, so that the memory is not needed
/// twice when its chunks are joined.
const MAX_CHUNKED: usize = 1024 * 1024;

/// How much that buffer grows at a time, in bytes. It is so large that the system moves no bytes.
const GROWTH: usize = 4 * 1024 * 1024;

/// The memory for bodies.
#[derive(Clone)]
pub(super) struct BodyBudget(Arc<Shared>);

struct Shared {
    total: usize,
    started: Instant,
    bodies: Mutex<Bodies>,
}

#[derive(Default)]
struct Bodies {
    /// Of the bodies that arrive and of those that wait.
    reserved: usize,
    next_id: u64,
    arriving: HashMap<u64, Arriving>,
}

struct Arriving {
    reserved: usize,
    body: Arc<PartialBody>,
}

/// A body of which a part has arrived.
struct PartialBody {
    started: Instant,
    /// When bytes came last, in milliseconds since the start of the budget.
    last_received: AtomicU64,
    buffer: Mutex<Buffer>,
    evicted: Notify,
}

/// What has arrived of a body: full chunks and the last one, or else one buffer.
#[derive(Default)]
struct Buffer {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
    is_evicted: bool,
}

impl Buffer {
    fn is_chunked(&self) -> bool {
        self.last.capacity() <= CHUNK
    }

    fn len(&self) -> usize {
        self.full.len() * CHUNK + self.last.len()
    }

    fn capacity(&self) -> usize {
        self.full.len() * CHUNK + self.last.capacity()
    }

    /// The capacity to have for `length` bytes of a body that has at most `limit`.
    fn capacity_for(&self, length: usize, limit: usize) -> usize {
        let capacity = if length <= self.capacity() {
            self.capacity()
        } else if length <= MAX_CHUNKED {
            length.next_multiple_of(CHUNK)
        } else {
            let more = self.capacity().min(GROWTH);
            (self.capacity() + more).min(limit)
        };
        capacity.max(length)
    }

    /// Appends bytes, where `capacity` is what there is to be.
    fn append(&mut self, mut bytes: &[u8], capacity: usize) {
        if self.is_chunked() && capacity <= MAX_CHUNKED {
            while !bytes.is_empty() {
                if self.last.len() == CHUNK {
                    self.full.push(std::mem::take(&mut self.last));
                }
                self.last.reserve_exact(CHUNK - self.last.len());
                let (fits, rest) = bytes.split_at(bytes.len().min(CHUNK - self.last.len()));
                self.last.extend_from_slice(fits);
                bytes = rest;
            }
        } else {
            self.join(capacity);
            self.last.extend_from_slice(bytes);
        }
    }

    /// Makes a single buffer of so many bytes.
    fn join(&mut self, capacity: usize) {
        if self.full.is_empty() {
            self.last.reserve_exact(capacity - self.last.len());
            return;
        }
        let mut joined = Vec::with_capacity(capacity);
        for chunk in self.full.drain(..) {
            joined.extend_from_slice(&chunk);
        }
        joined.extend_from_slice(&self.last);
        self.full = Vec::new();
        self.last = joined;
    }

    fn take(&mut self) -> Self {
        let is_evicted = self.is_evicted;
        std::mem::replace(
            self,
            Self {
                is_evicted,
                ..Self::default()
            },
        )
    }
}

impl BodyBudget {
    /// `total` is in bytes.
    pub(super) fn new(total: usize) -> Self {
        Self(Arc::new(Shared {
            total,
            started: Instant::now(),
            bodies: Mutex::default(),
        }))
    }

    /// The size of the largest body that fits at all.
    pub(super) fn largest_body(&self) -> usize {
        self.0.total.saturating_sub(RECEIVE_BUFFER)
    }

    /// How many bytes are reserved.
    pub(super) fn used(&self) -> usize {
        self.bodies().reserved
    }

    /// Reserves memory for a body that is there, or for what it is parsed to.
    pub(super) fn reserve(&self, bytes: usize) -> Result<Reservation, ApiError> {
        self.make_room(&mut self.bodies(), bytes, None)?;
        Ok(Reservation {
            budget: self.clone(),
            bytes,
        })
    }

    /// Begins to receive a body that is not there as a whole.
    pub(super) fn receive(&self) -> Result<ReceivingBody, ApiError> {
        let body = Arc::new(PartialBody {
            started: Instant::now(),
            last_received: AtomicU64::new(self.milliseconds(Instant::now())),
            buffer: Mutex::default(),
            evicted: Notify::new(),
        });
        let mut bodies = self.bodies();
        self.make_room(&mut bodies, RECEIVE_BUFFER, None)?;
        let id = bodies.next_id;
        bodies.next_id += 1;
        let arriving = Arriving {
            reserved: RECEIVE_BUFFER,
            body: Arc::clone(&body),
        };
        bodies.arriving.insert(id, arriving);
        Ok(ReceivingBody {
            budget: self.clone(),
            id,
            body,
        })
    }

    /// Reserves `bytes`, and drops bodies that are still arriving where there is no room. `asking`
    /// is the body that needs the room, if it is arriving itself.
    fn make_room(
        &self,
        bodies: &mut Bodies,
        bytes: usize,
        asking: Option<u64>,
    ) -> Result<(), ApiError> {
        let room = self.0.total.saturating_sub(bodies.reserved);
        if bytes > room {
            for id in self.victims(bodies, bytes - room, asking)? {
                bodies.evict(id);
            }
        }
        bodies.reserved += bytes;
        Ok(())
    }

    /// The bodies to drop for `missing` bytes: first stalled bodies, the longest
    /// stalled first; then those that have been arriving longest.
    fn victims(
        &self,
        bodies: &Bodies,
        missing: usize,
        asking: Option<u64>,
    ) -> Result<Vec<u64>, ApiError> {
        let now = Instant::now();
        let grace = EVICTION_GRACE.as_millis() as u64;
        let mut candidates: Vec<_> = bodies
            .arriving
            .iter()
            .filter_map(|(&id, arriving)| {
                let last_received = arriving.body.last_received.load(Ordering::Relaxed);
                let stalled = self.milliseconds(now).saturating_sub(last_received);
                let stalled = if stalled >= grace { stalled } else { 0 };
                let age = now.saturating_duration_since(arriving.body.started);
                (age >= EVICTION_GRACE).then_some((Reverse((stalled, age)), id, arriving.reserved))
            })
            .collect();
        candidates.sort_unstable();
        let mut victims = Vec::new();
        let mut freed = 0;
        for (_, id, reserved) in candidates {
            // A body makes no room for itself, nor for one that has been arriving longer.
            if freed >= missing || Some(id) == asking {
                break;
            }
            victims.push(id);
            freed += reserved;
        }
        if freed >= missing {
            Ok(victims)
        } else {
            Err(ApiError::too_many_bodies())
        }
    }

    fn milliseconds(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.0.started).as_millis() as u64
    }

    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        // Nothing that changes them can panic in between.
        self.0.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bodies {
    fn evict(&mut self, id: u64) {
        if let Some(victim) = self.arriving.remove(&id) {
            self.reserved -= victim.reserved;
            let mut buffer = victim.body.buffer();
            buffer.is_evicted = true;
            // The memory is free at once, not only after the response.
            drop(buffer.take());
            drop(buffer);
            victim.body.evicted.notify_one();
        }
    }
}

impl PartialBody {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        // Bytes are appended as a whole.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that is reserved as long as this lives.
pub(super) struct Reservation {
    budget: BodyBudget,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.bodies().reserved -= self.bytes;
    }
}

/// A body that is arriving, and its reservation.
pub(super) struct ReceivingBody {
    budget: BodyBudget,
    id: u64,
    body: Arc<PartialBody>,
}

impl ReceivingBody {
    /// Appends what has arrived. `limit` is the most that the body can have. The memory grows with
    /// what has arrived, never by what is announced.
    pub(super) fn append(&self, bytes: &[u8], limit: usize) -> Result<(), ApiError> {
        let now = self.budget.milliseconds(Instant::now());
        self.body.last_received.store(now, Ordering::Relaxed);
        let mut buffer = self.body.buffer();
        let before = buffer.capacity();
        let capacity = buffer.capacity_for(buffer.len() + bytes.len(), limit);
        if capacity > before {
            // The budget's lock is taken first, always.
            drop(buffer);
            self.grow(capacity - before)?;
            buffer = self.body.buffer();
        }
        if buffer.is_evicted {
            return Err(self.evicted_error());
        }
        buffer.append(bytes, capacity);
        Ok(())
    }

    fn grow(&self, more: usize) -> Result<(), ApiError> {
        let mut bodies = self.budget.bodies();
        if !bodies.arriving.contains_key(&self.id) {
            return Err(self.evicted_error());
        }
        self.budget.make_room(&mut bodies, more, Some(self.id))?;
        if let Some(arriving) = bodies.arriving.get_mut(&self.id) {
            arriving.reserved += more;
        }
        Ok(())
    }

    /// Completes when this body was dropped for another one.
    pub(super) async fn evicted(&self) -> ApiError {
        self.body.evicted.notified().await;
        self.evicted_error()
    }

    fn evicted_error(&self) -> ApiError {
        ApiError::evicted(self.body.started.elapsed())
    }

    /// The whole body, with the reservation for its bytes alone.
    pub(super) fn finish(self) -> Result<(Vec<u8>, Reservation), ApiError> {
        let mut bodies = self.budget.bodies();
        let Some(arriving) = bodies.arriving.remove(&self.id) else {
            return Err(self.evicted_error());
        };
        let mut buffer = self.body.buffer().take();
        let length = buffer.len();
        buffer.join(length);
        let bytes = buffer.last;
        let kept = bytes.capacity();
        bodies.reserved = bodies.reserved - arriving.reserved + kept;
        drop(bodies);
        let budget = self.budget.clone();
        Ok((
            bytes,
            Reservation {
                budget,
                bytes: kept,
            },
        ))
    }
}

impl Drop for ReceivingBody {
    fn drop(&mut self) {
        let mut bodies = self.budget.bodies();
        if let Some(arriving) = bodies.arriving.remove(&self.id) {
            bodies.reserved -= arriving.reserved;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    /// Receives so many bytes.
    fn receiving(budget: &BodyBudget, bytes: usize) -> ReceivingBody {
        let body = budget.receive().expect("there is room");
        let appended = body.append(&vec![b' '; bytes], bytes);
        appended.expect("there is room");
        body
    }

    #[test]
    fn memory_is_reserved_as_it_arrives_and_given_back() {
        let budget = BodyBudget::new(1024 * KIB);
        let body = receiving(&budget, 100 * KIB);
        assert_eq!(budget.used(), (7 * 16 + 16) * KIB);
        let (bytes, reservation) = body.finish().expect("it was not evicted");
        assert_eq!(bytes, vec![b' '; 100 * KIB]);
        assert_eq!(budget.used(), 100 * KIB);
        let parsed = budget.reserve(924 * KIB).expect("there is room");
        assert_eq!(budget.reserve(1).err(), Some(ApiError::too_many_bodies()));
        drop((reservation, parsed));
        assert_eq!(budget.used(), 0);

        let body = receiving(&budget, KIB);
        let full = body.append(&vec![b' '; 1024 * KIB], 2048 * KIB);
        assert_eq!(full, Err(ApiError::too_many_bodies()));
        drop(body);
        assert_eq!(budget.used(), 0);
    }

    // A body that is announced as large must not take memory that it does not fill; and its bytes
    // stay in order.
    #[test]
    fn memory_grows_with_what_arrives() {
        let budget = BodyBudget::new(usize::MAX);
        let body = budget.receive().expect("there is room");
        let mut expected = Vec::new();
        let parts = [1, 100 * KIB, 16 * KIB, 5, 900 * KIB, 30 * KIB, 3 * KIB];
        for (i, length) in parts.into_iter().chain([99 * KIB; 200]).enumerate() {
            let part: Vec<u8> = (0..length).map(|j| (i + j / 7) as u8).collect();
            expected.extend_from_slice(&part);
            body.append(&part, 64 * 1024 * KIB).expect("there is room");
            let counted = budget.used() - RECEIVE_BUFFER;
            assert_eq!(counted, body.body.buffer().capacity());
            let arrived = expected.len();
            assert!(counted >= arrived);
            assert!(counted <= (2 * arrived).min(arrived + GROWTH).max(CHUNK));
        }
        let (bytes, _reservation) = body.finish().expect("it was not evicted");
        assert!(bytes == expected);
    }

    // Those that stall, and those that take long, must not keep others out.
    #[test]
    fn unfinished_bodies_make_room_after_a_while() {
        let budget = BodyBudget::new(400 * KIB);
        let [oldest, old, stalled] = [(); 3].map(|()| {
            let body = receiving(&budget, 64 * KIB);
            std::thread::sleep(Duration::from_millis(20));
            body
        });
        let refused = budget.reserve(200 * KIB).err();
        assert_eq!(refused, Some(ApiError::too_many_bodies()), "all are young");
        std::thread::sleep(EVICTION_GRACE);
        let goes_on = |body: &ReceivingBody| body.append(b" ", 100 * KIB).is_ok();
        assert!(goes_on(&oldest) && goes_on(&old));

        let first = budget.reserve(190 * KIB).expect("one makes room");
        assert!(!goes_on(&stalled));
        assert!(goes_on(&oldest) && goes_on(&old));
        let second = budget.reserve(100 * KIB).expect("another makes room");
        assert!(goes_on(&old) && !goes_on(&oldest));
        let refused = old.append(&vec![b' '; 100 * KIB], 1024 * KIB);
        assert_eq!(refused, Err(ApiError::too_many_bodies()));
        assert!(goes_on(&old), "it makes no room for itself");
        let evicted = stalled.finish().err().expect("it was evicted");
        assert!(evicted.to_string().contains("not complete"), "{evicted}");
        drop((oldest, old, first, second));
        assert_eq!(budget.used(), 0);
    }
}
