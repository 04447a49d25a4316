//! The log, on standard error.

use std::fmt::{self, Write};
use std::io::{self, IsTerminal};

use iforest_server::escape::Escaped;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::config::LogLevel;

/// Starts the log, with colours on a terminal. Where it cannot be written, as to a full disk or an
/// ended program, lines are lost and the server goes on.
pub(crate) fn start(level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .fmt_fields(debug_fn(write_field).delimited(" "))
        .with_writer(io::stderr)
        // Reporting a log failure to standard error would panic.
        .log_internal_errors(false)
        .init();
}

/// Writes the message or a field of a line. All text from clients passes here.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let mut writer = Escaped(writer);
    match field.name() {
        "message" => write!(writer, "{value:?}"),
        name => write!(writer, "{name}={value:?}"),
    }
}
