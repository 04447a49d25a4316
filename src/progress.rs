//! Progress on a terminal: a bar while a file is predicted, and what a start waits for.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the mark of a step moves.
const TICK: Duration = Duration::from_millis(100);

/// How often the log says that a step still runs, where there is no terminal.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The bar that the terminal shows now. The log suspends it to write.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// A bar for an input of so many bytes, if known. Hidden unless standard error is a terminal and
/// standard output is not: predictions would run through the bar.
pub(crate) fn bar(size: Option<u64>) -> ProgressBar {
    let target = if io::stdout().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let template = match size {
        Some(_) => "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        None => "{spinner} {bytes}, {bytes_per_sec}, {elapsed}",
    };
    ProgressBar::with_draw_target(size, target).with_style(style(template))
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constant; a wrong one would only look different.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A step of the start that may take long. Dropped when the step is done.
pub(crate) struct Step {
    /// Ends the thread that logs.
    _done: Option<Sender<()>>,
}

impl Step {
    /// Shows the step on a terminal; elsewhere the log repeats it while it lasts.
    pub(crate) fn start(what: String) -> Self {
        if io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner()
                .with_style(style("{spinner} {msg} ({elapsed})"))
                .with_message(what);
            bar.tick();
            bar.enable_steady_tick(TICK);
            *shown() = Some(bar);
            return Self { _done: None };
        }
        let (done, is_done) = channel();
        let start = Instant::now();
        let log = move || {
            while is_done.recv_timeout(LOG_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                tracing::info!("still {what}, for {} s", start.elapsed().as_secs());
            }
        };
        // Without the thread the start is only silent.
        let _ = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(log);
        Self { _done: Some(done) }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = shown().take() {
            bar.finish_and_clear();
        }
    }
}

fn shown() -> std::sync::MutexGuard<'static, Option<ProgressBar>> {
    // It is replaced in one step, so a poisoned lock holds a valid one.
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard error, for the log.
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &*shown() {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
