//! How many connections there may be, and how long each may take for a request.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{READING, closes, is_closed, post, predict};
use crate::support::folder::Folder;
use crate::support::http::read_response;
use crate::support::server::{BINARY, Server};

// Clients that begin a request and never end it give their connections back; those between two
// readings keep them.
#[test]
fn unfinished_requests_time_out_and_idle_connections_do_not() {
    let server = Server::start(&[]);
    let mut idle = server.connect();
    predict(&mut idle).expect("a response");
    let mut silent = server.connect();
    let start = Instant::now();
    let parts = post("/predict", 5000);
    let mut slow: Vec<TcpStream> = [
        "GET /mod",
        "GET /models HTTP/1.1\r\nHost: a\r\n",
        &parts,
        &(parts.clone() + "{"),
    ]
    .into_iter()
    .map(|begin| {
        let mut stream = server.connect();
        predict(&mut stream).expect("a response");
        stream
            .write_all(begin.as_bytes())
            .expect("the server reads");
        stream
    })
    .collect();
    // A header line, or a byte of the body, now and then.
    while start.elapsed() < Duration::from_secs(25) {
        std::thread::sleep(Duration::from_secs(5));
        for (stream, more) in slow[1..].iter_mut().zip(["A: b\r\n", " ", " "]) {
            stream.write_all(more.as_bytes()).expect("the server reads");
        }
    }
    for (i, stream) in slow.iter_mut().enumerate() {
        let response = read_response(stream).expect("a response");
        assert_eq!(response.status, 408, "{i}: {response:?}");
        assert!(
            response.body.contains(r#""code":"timeout""#),
            "{response:?}"
        );
        assert!(closes(&response), "{i}: {response:?}");
        assert!(is_closed(stream), "{i}");
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(29), "{i}: {waited:?}");
    }
    assert_eq!(predict(&mut idle).expect("an open connection").status, 200);
    assert_eq!(
        predict(&mut silent).expect("an open connection").status,
        200
    );
}

/// A server that may have so few files open that it takes few connections.
#[cfg(unix)]
fn with_few_files(folder: &Folder) -> (Server, usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let connections = 40;
    let files = 64 + 4 * cores + connections;
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {files} && exec \"$0\" --port 0")])
        .arg(BINARY)
        .env("IFOREST_HOST", "127.0.0.1")
        .env("IFOREST_STORE", folder.path());
    (Server::spawn(command), connections)
}

// Sockets that nobody uses must not lock anybody out, nor take the files that a retrain needs.
#[cfg(unix)]
#[test]
fn the_longest_idle_connection_makes_room_for_a_new_one() {
    let folder = Folder::new();
    let (server, most) = with_few_files(&folder);
    let mut busy = server.connect();
    let begun = post("/predict", READING.len()) + "{";
    busy.write_all(begun.as_bytes()).expect("the server reads");
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..3 * most {
        let mut stream = server.connect();
        assert_eq!(predict(&mut stream).expect("a response").status, 200);
        idle.push(stream);
    }
    server.wait_for_line("connections are in use");
    server.post("/retrain", r#"{"samples": [1, 2, 3]}"#).ok();
    busy.write_all(&READING.as_bytes()[1..])
        .expect("the server reads");
    assert_eq!(read_response(&mut busy).expect("a response").status, 200);
    // The newest ones are there, the oldest ones are not.
    for stream in idle.iter_mut().rev().take(most / 2) {
        assert_eq!(predict(stream).expect("an open connection").status, 200);
    }
    for stream in &mut idle[..most] {
        assert!(predict(stream).is_err());
    }
    // A connection that is not even used once is idle too.
    let unused: Vec<TcpStream> = (0..2 * most).map(|_| server.connect()).collect();
    assert_eq!(
        predict(&mut server.connect()).expect("a response").status,
        200
    );
    drop(unused);
    let warnings = server.log().matches("connections are in use").count();
    assert_eq!(warnings, 1, "{}", server.log());
}

// Nor may requests that are begun and never ended.
#[cfg(unix)]
#[test]
fn unfinished_requests_make_room_for_new_connections() {
    let folder = Folder::new();
    let (server, most) = with_few_files(&folder);
    let partial_body = post("/predict", 100) + "{";
    for begin in ["GET /models HTTP", &partial_body] {
        let begun: Vec<TcpStream> = (0..3 * most)
            .map(|_| {
                let mut stream = server.connect();
                stream
                    .write_all(begin.as_bytes())
                    .expect("the server reads");
                stream
            })
            .collect();
        // Well before they time out.
        let start = Instant::now();
        assert_eq!(
            predict(&mut server.connect()).expect("a response").status,
            200
        );
        assert!(start.elapsed() < Duration::from_secs(20));
        drop(begun);
    }
}

/// Lets this process have many connections.
#[cfg(unix)]
pub(super) fn allow_many_files() {
    rlimit::increase_nofile_limit(8192).expect("the system allows it");
}

// All sensors of a site connect at once after a power cut; Linux drops the handshakes that find no
// room, and their clients wait a second for another one.
#[cfg(target_os = "linux")]
#[test]
fn a_thousand_connections_wait_to_be_accepted() {
    allow_many_files();
    let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux has it");
    let allowed: usize = allowed.trim().parse().expect("a number");
    let server = Server::start(&[]);
    server.signal("STOP");
    let address = server.address.parse().expect("an address");
    let waiting: Vec<TcpStream> = (0..allowed.min(1024))
        .map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(900)))
        .collect::<io::Result<_>>()
        .expect("each finds room at once");
    server.signal("CONT");
    for mut stream in waiting.into_iter().rev().take(10) {
        assert_eq!(predict(&mut stream).expect("a response").status, 200);
    }
}

// Clients that ask much and read nothing leave the responses to the server. 600 of them held 290 MB.
#[cfg(target_os = "linux")]
#[test]
fn unread_responses_are_bounded_together() {
    let server = Server::start(&[]);
    let batch = format!("{{\"values\":[{}1]}}", "2.123456789,".repeat(9_999));
    let request = post("/predict", batch.len()) + &batch;
    let clients: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut stream = server.connect();
            let timeout = Some(Duration::from_millis(200));
            stream.set_write_timeout(timeout).expect("a connection");
            socket2::SockRef::from(&stream)
                .set_recv_buffer_size(4096)
                .expect("a connection");
            // It stops reading, or closes the connection, where too many responses are unread.
            let _ = (0..8).try_for_each(|_| stream.write_all(request.as_bytes()));
            stream
        })
        .collect();
    let held = server.memory("RssAnon") >> 20;
    assert!(held < 160, "{held} MiB");
    predict(&mut server.connect()).expect("a response").ok();
    drop(clients);
}
