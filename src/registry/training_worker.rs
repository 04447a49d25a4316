//! The thread that fits: one model at a time, in the order in which they come, so that few of them
//! take the processors from predictions, and the memory that a fit takes is used again by the next.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};

use tokio::sync::oneshot;

use super::ChangeError;

type Job = Box<dyn FnOnce() + Send>;

/// Gives work to the thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct TrainingWorker(Sender<Job>);

impl TrainingWorker {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        std::thread::Builder::new()
            .name("fit".to_owned())
            .spawn(move || {
                for job in queue {
                    // Whoever waits is told when the job drops its sender; the next one goes on.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("a training panicked; the model is as it was");
                    }
                }
            })?;
        Ok(Self(jobs))
    }

    /// Waits for work to be done there.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ChangeError> {
        let (tell, told) = oneshot::channel();
        let job = Box::new(move || {
            // Nobody to tell: the server ends.
            let _ = tell.send(work());
        });
        self.0.send(job).map_err(|_| ChangeError::Interrupted)?;
        told.await.map_err(|_| ChangeError::Interrupted)
    }
}
