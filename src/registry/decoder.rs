//! The threads that decode models: one for those that requests wait for, and one for the others.
//!
//! glibc gives each thread memory of its own, of which it keeps up to 64 MB that were freed. So one
//! thread decodes, not the whole blocking pool.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};

use tokio::sync::oneshot;

use super::load::{Decoded, Fetched};
use crate::store::{ReadError, StoreError};

type Job = (Fetched, oneshot::Sender<Result<Decoded, ReadError>>);

/// A thread that decodes versions one after the other; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Decoder(Sender<Job>);

impl Decoder {
    /// Starts the thread. In the background it has the lowest priority, so that predictions need not
    /// wait for it.
    pub(super) fn start(name: &str, background: bool) -> io::Result<Self> {
        let (sender, queue) = channel::<Job>();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // On Linux each thread has a priority of its own. Elsewhere the thread is but one.
                #[cfg(target_os = "linux")]
                if background {
                    let _ = rustix::process::nice(19);
                }
                #[cfg(not(target_os = "linux"))]
                let _ = background;
                for (fetched, result) in queue {
                    // A panic drops the sender, so that the caller gets an error.
                    let decode = AssertUnwindSafe(|| fetched.decode());
                    if let Ok(decoded) = catch_unwind(decode) {
                        // Fails only when the registry is gone.
                        let _ = result.send(decoded.map_err(ReadError::from));
                    }
                }
            })?;
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
