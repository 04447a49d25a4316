//! Connections as real clients use them: kept alive, half closed, with large bodies.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use super::{READING, predict};
use crate::support::http::{Response, read_last_response, send};
use crate::support::server::Server;

const TYPE_JSON: &str = "\r\nContent-Type: application/json";

// Observed: server.py merges leading slashes and decodes percent-encoding.
#[test]
fn paths_are_accepted_in_the_spellings_that_server_py_accepts() {
    let server = Server::start(&["--random-state", "42"]);
    let expected = server.post("/predict", READING).ok();
    for path in ["//predict", "/%70redict"] {
        assert_eq!(server.post(path, READING).ok(), expected, "{path}");
    }
}

// The HTTP agent of Node-RED keeps its connection for reading after reading.
#[test]
fn one_connection_carries_many_requests() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    for _ in 0..100 {
        predict(&mut stream).expect("a response").ok();
    }
}

// After a response the server polls for the next request for a moment before it sleeps. An idle
// gateway must not spend a processor on that.
#[cfg(target_os = "linux")]
#[test]
fn an_idle_server_uses_no_processor_time() {
    let server = Server::start(&[]);
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.id())).expect("it runs");
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let fields: Vec<_> = fields.split_whitespace().collect();
        let ticks = |i: usize| fields[i].parse::<u64>().expect("a number");
        // User and system time, in hundredths of a second.
        ticks(11) + ticks(12)
    };
    let mut stream = server.connect();
    for _ in 0..1000 {
        predict(&mut stream).expect("a response").ok();
    }
    let before = used();
    std::thread::sleep(Duration::from_secs(1));
    let idle = used() - before;
    assert!(idle <= 10, "{idle} hundredths of a second while idle");
    predict(&mut stream).expect("a response").ok();
}

/// Sends a whole request and closes this side of the connection before it reads, as most clients
/// do not read while they send.
fn send_then_read(server: &Server, head: &str, body: &str) -> Response {
    let mut stream = server.connect();
    send(&mut stream, head, body.as_bytes()).expect("the server reads");
    let closed = stream.shutdown(Shutdown::Write);
    closed.expect("the connection is open");
    read_last_response(&mut stream).expect("a response")
}

#[test]
fn a_client_that_closes_its_side_gets_a_response() {
    let server = Server::start(&[]);
    let head = format!("POST /predict HTTP/1.1{TYPE_JSON}");
    send_then_read(&server, &head, READING).ok();
    send_then_read(&server, "GET /models HTTP/1.1", "").ok();
}

// To many clients, Node.js among them, a response before they have sent the whole body is a broken
// pipe.
#[test]
fn a_refusal_of_a_large_body_reaches_the_client() {
    let server = Server::start(&[]);
    let body = " ".repeat(20_000_000);
    for (path, content_type, status) in [
        ("/predict", TYPE_JSON, "413 Payload Too Large"),
        ("/retrain", "", "415 Unsupported Media Type"),
        ("/models/m/predict", TYPE_JSON, "413 Payload Too Large"),
    ] {
        let head = format!("POST {path} HTTP/1.1{content_type}");
        let response = send_then_read(&server, &head, &body);
        assert_eq!(response.status.to_string(), status, "{path}: {response:?}");
    }
}

// curl sends large bodies like this: it asks for 100 Continue, gets it, and is refused while it
// sends.
#[test]
fn a_refusal_reaches_a_client_that_got_100_continue() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let head = "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("the server reads");
    let expected = "HTTP/1.1 100 Continue\r\n\r\n";
    let mut read = vec![0; expected.len()];
    stream.read_exact(&mut read).expect("an interim response");
    assert_eq!(String::from_utf8_lossy(&read), expected);
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    for _ in 0..20 {
        stream
            .write_all(chunk.as_bytes())
            .expect("the server reads");
        // Slower than the server reads.
        std::thread::sleep(Duration::from_millis(20));
    }
    stream.write_all(b"0\r\n\r\n").expect("the server reads");
    let mut start = vec![0; 12];
    stream.read_exact(&mut start).expect("a response");
    assert_eq!(String::from_utf8_lossy(&start), "HTTP/1.1 413");
}

#[test]
fn a_request_cannot_forge_a_line_of_the_log() {
    let server = Server::start(&[]);
    let body = "{\"samples\": {\"a\":\n1,\n\"2026-01-01T00:00:00Z ERROR forged\": 2}}";
    let response = server.post("/models/m/retrain", body);
    assert_eq!(response.status, 422, "{response:?}");
    let line = server.wait_for_line("change=retrain model=m who=open");
    assert!(line.contains("forged"), "{line}");
}
