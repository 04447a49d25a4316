//! What the server tells its operator: log lines on standard error.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;

/// Starts the log. Colours only on a terminal.
pub(crate) fn start(level: LevelFilter) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}
