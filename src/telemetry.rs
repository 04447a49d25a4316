//! The log, on standard error.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};

use iforest_server::escape::{Escaped, json_escape};
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::config::{LogFormat, LogLevel};
use crate::progress::LogWriter;

/// Starts the log, with colours on a terminal. Where it cannot be written, as to a full disk or an
/// ended program, lines are lost and the server goes on.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        // Reporting a log failure to standard error would panic.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log
            .with_ansi(has_colours())
            .fmt_fields(debug_fn(write_field).delimited(" "))
            .with_writer(|| LogWriter)
            .init(),
        LogFormat::Json => log
            .json()
            .flatten_event(true)
            .with_writer(|| EscapedJson(LogWriter))
            .init(),
    }
}

/// Whether standard error shows colours.
fn has_colours() -> bool {
    // The console of Windows shows them only to programs that ask for them.
    #[cfg(windows)]
    if nu_ansi_term::enable_ansi_support().is_err() {
        return false;
    }
    io::stderr().is_terminal()
}

/// Writes the message or a field of a line. All text from clients passes here.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let mut writer = Escaped(writer);
    match field.name() {
        "message" => write!(writer, "{value:?}"),
        name => write!(writer, "{name}={value:?}"),
    }
}

/// Escapes the characters that JSON allows and that steer terminals. Each line is one write.
struct EscapedJson<W>(W);

impl<W: Write> Write for EscapedJson<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.write_all(json_escape(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
