//! The thread that fits models, one at a time in the order of their requests. Fits so leave
//! processors to predictions, and each reuses the memory of the one before.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};

use tokio::sync::oneshot;

use super::error::ChangeError;

type Job = Box<dyn FnOnce() + Send>;

/// Sends jobs to the thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct TrainingWorker(Sender<Job>);

impl TrainingWorker {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        std::thread::Builder::new()
            .name("fit".to_owned())
            .spawn(move || {
                for job in queue {
                    // A job that panics drops its sender, so its caller gets an error.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("a training panicked; the model is unchanged");
                    }
                }
            })?;
        Ok(Self(jobs))
    }

    /// Runs a job on the thread and waits for its result.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ChangeError> {
        let (sender, receiver) = oneshot::channel();
        let job = Box::new(move || {
            // Fails only when the caller is gone, at shutdown.
            let _ = sender.send(job());
        });
        self.0.send(job).map_err(|_| ChangeError::Interrupted)?;
        receiver.await.map_err(|_| ChangeError::Interrupted)
    }
}
