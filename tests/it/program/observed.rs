//! Probes during the start, and requests in the log.
#![cfg(unix)]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::READING;
use crate::support::folder::Folder;
use crate::support::http::{connect, read_response, request, send};
use crate::support::server::{BINARY, Server};

/// A server whose start waits for its training readings, its address, and the pipe to write them to.
fn starting(folder: &Folder) -> (Server, String, PathBuf) {
    let readings = folder.path().join("readings");
    let made = Command::new("mkfifo").arg(&readings).status();
    assert!(made.expect("mkfifo runs").success());
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a free port");
    let mut command = Command::new(BINARY);
    command
        .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--store", "memory:", "--train"])
        .arg(&readings);
    let server = Server::spawn_only(command);
    server.wait_for_line("take at most");
    let address = address.to_string();
    // The log says that before the server listens.
    for _ in 0..1000 {
        if connect(&address).is_ok() {
            return (server, address, readings);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it does not listen:\n{}", server.log());
}

// A long training must not look like a hang, or a supervisor would start the server again and again.
#[test]
fn probes_are_answered_during_the_start_and_other_requests_wait_for_its_end() {
    let folder = Folder::new();
    let (server, address, readings) = starting(&folder);
    let health = request(&address, "GET", "/health", "").expect("a response");
    assert_eq!(health.ok(), "{\"status\":\"ok\"}\n");
    let ready = request(&address, "GET", "/ready", "").expect("a response");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["code"], "not_ready");
    assert!(ready.error().contains("starting"), "{ready:?}");
    let mut stream = connect(&address).expect("it listens");
    let head = "POST /predict HTTP/1.1\r\nContent-Type: application/json";
    send(&mut stream, head, READING.as_bytes()).expect("the server reads");
    // The request waits on the connection; one on another connection is not held up by it.
    let health = request(&address, "GET", "/health", "").expect("a response");
    assert_eq!(health.status, 200);

    std::fs::write(&readings, "1\n2\n3\n2.5\n").expect("the server reads");
    assert_eq!(read_response(&mut stream).expect("a response").status, 200);
    server.wait_for_line("listening on");
    let ready = request(&address, "GET", "/ready", "").expect("a response");
    assert_eq!(ready.ok(), "{\"status\":\"ready\"}\n");
    server.stop();
}

// A start that fails ends the program, also while a client waits for it.
#[test]
fn a_start_that_fails_ends_the_requests_that_wait_for_it() {
    let folder = Folder::new();
    let (mut server, address, readings) = starting(&folder);
    let mut stream = connect(&address).expect("it listens");
    send(&mut stream, "GET /models HTTP/1.1", b"").expect("the server reads");
    std::fs::write(&readings, "1\nx\n").expect("the server reads");
    let response = read_response(&mut stream);
    assert!(response.is_err() || response.is_ok_and(|response| response.status == 503));
    assert_eq!(server.wait(), Some(1));
    assert!(server.kill().contains("line 2"));
}

#[test]
fn lines_about_a_request_name_its_id_and_its_client() {
    let server = Server::start(&["--log-level", "debug"]);
    let mut stream = server.connect();
    let client = stream.local_addr().expect("it is connected");
    let mut exchange = |path: &str, id: &str, body: &str| {
        let head =
            format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nX-Request-Id: {id}");
        send(&mut stream, &head, body.as_bytes()).expect("the server reads");
        let response = read_response(&mut stream).expect("a response");
        assert_eq!(response.headers["x-request-id"], id);
        response
    };
    exchange("/predict", "r-1", READING).ok();
    let line = server.wait_for_line("request_id=r-1 ");
    for part in [
        &*format!("client={client} "),
        "method=POST",
        "path=\"/predict\"",
        "status=200",
    ] {
        assert!(line.contains(part), "{line}");
    }
    exchange("/predict", "r-2", "{").error();
    let line = server.wait_for_line("request_id=r-2 ");
    assert!(line.contains("status=400"), "{line}");
    assert!(line.contains("error=\""), "{line}");
    exchange("/models/a/retrain", "r-3", r#"{"samples": [1, 2]}"#).ok();
    let line = server.wait_for_line(" audit ");
    assert!(
        line.contains(&format!("client={client} request_id=r-3 ")),
        "{line}"
    );
    // A line of the log cannot be forged.
    exchange("/predict", "x\u{85}y", READING).ok();
    let log = server.kill();
    assert!(!log.contains('\u{85}'), "{log}");
}
