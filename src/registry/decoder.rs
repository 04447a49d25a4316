//! The threads that decode models: one for those that requests wait for, and one for each core for
//! the others after a start.
//!
//! glibc gives each thread memory of its own, of which it keeps up to 64 MB that were freed. So few
//! threads decode, not the whole blocking pool.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::load::{Decoded, Fetched};
use crate::store::{ReadError, StoreError};

type Job = (Fetched, oneshot::Sender<Result<Decoded, ReadError>>);

/// Threads that decode versions in the order in which they come; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Decoder(Sender<Job>);

impl Decoder {
    /// Starts a thread for what requests wait for.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, queue) = channel();
        std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || decode_all(|| queue.recv().ok()))?;
        Ok(Self(sender))
    }

    /// Starts threads for the background. They have the lowest priority, so that predictions need
    /// not wait for them.
    pub(super) fn start_in_background(threads: usize) -> io::Result<Self> {
        let (sender, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name("warm-up".to_owned())
                .spawn(move || {
                    // On Linux each thread has a priority of its own. Elsewhere these are but few.
                    #[cfg(target_os = "linux")]
                    let _ = rustix::process::nice(19);
                    decode_all(|| next(&queue));
                })?;
        }
        Ok(Self(sender))
    }

    /// Decodes a version.
    pub(super) async fn run(&self, fetched: Fetched) -> Result<Decoded, ReadError> {
        let (sender, receiver) = oneshot::channel();
        let interrupted = || StoreError::new("decoding was interrupted");
        self.0.send((fetched, sender)).map_err(|_| interrupted())?;
        receiver.await.map_err(|_| interrupted())?
    }
}

fn next(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.recv().ok()
}

fn decode_all(mut next: impl FnMut() -> Option<Job>) {
    while let Some((fetched, result)) = next() {
        // A panic drops the sender, so that the caller gets an error.
        let decode = AssertUnwindSafe(|| fetched.decode());
        if let Ok(decoded) = catch_unwind(decode) {
            // Fails only when the registry is gone.
            let _ = result.send(decoded.map_err(ReadError::from));
        }
    }
}
