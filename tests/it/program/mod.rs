//! The real binary over a real socket.

mod bodies;
mod capacity;
mod config;
mod connections;
mod healthcheck;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod hostile;
mod keep_alive;
mod load;
mod log_format;
mod observed;
mod shutdown;
mod startup;

use std::io::{self, Read};
use std::net::TcpStream;

use axum::http::header;

use crate::support::http::{Response, read_response, send_post};

const MIB: usize = 1024 * 1024;

/// A body for `/predict`.
const READING: &str = r#"{"value": 2.5}"#;

/// The start of a POST of JSON whose body has `length` bytes.
fn post(path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

/// Predicts on a connection that may have been used before, and leaves it open.
fn predict(stream: &mut TcpStream) -> io::Result<Response> {
    send_post(stream, "/predict", READING)?;
    read_response(stream)
}

/// Whether a response says that the connection ends.
fn closes(response: &Response) -> bool {
    response
        .headers
        .get(header::CONNECTION)
        .is_some_and(|value| value == "close")
}

fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0) | Err(_))
}
