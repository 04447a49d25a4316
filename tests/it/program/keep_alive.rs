//! Which connections live on after a response: a client must be able to rely on it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::{MIB, READING, closes, is_closed, post, predict};
use crate::support::http::{Response, begin_post, read_response};
use crate::support::server::Server;

/// After a response that does not close the connection, the connection must work.
fn assert_honest(what: &str, response: &Response, stream: &mut TcpStream) {
    if closes(response) {
        assert!(is_closed(stream), "{what}: {response:?}");
    } else {
        let next = predict(stream).unwrap_or_else(|error| panic!("{what}: {error}; {response:?}"));
        assert_eq!(next.status, 200, "{what}: {next:?}");
    }
}

// A client that keeps its connections loses a request on each connection that ends without a word:
// Python's http.client, which sends head and body apart, lost one in ten.
#[test]
fn a_refusal_says_where_the_connection_ends() {
    let server = Server::start(&[]);
    let json = "Content-Type: application/json\r\n";
    let long = " ".repeat(3 * MIB);
    // What the status is; whether the connection can live on where the client sends the whole body;
    // the head, and the body.
    let with_length: &[(u16, bool, &str, &str, &str)] = &[
        (200, true, "POST /predict", json, READING),
        (400, true, "POST /predict", json, "{"),
        (404, true, "POST /nothing", json, READING),
        (404, true, "POST /nothing", json, &long),
        (404, true, "POST /models/none/predict", json, READING),
        (405, true, "PUT /predict", json, READING),
        (405, true, "GET /predict", "", ""),
        (405, true, "GET /predict", json, &long),
        (413, true, "POST /predict", json, &long),
        (415, true, "POST /predict", "", READING),
        (415, true, "POST /retrain", "", &long),
        (422, true, "POST /predict", json, "{}"),
        (422, true, "POST /models/+/predict", json, READING),
        (200, true, "GET /models", json, READING),
        (
            413,
            false,
            "POST /predict",
            "Expect: 100-continue\r\nContent-Type: application/json\r\n",
            &long,
        ),
        (
            415,
            false,
            "POST /predict",
            "Expect: 100-continue\r\n",
            READING,
        ),
    ];
    for &(status, lives, line, headers, body) in with_length {
        for apart in [false, true] {
            let what = format!("{line} {headers} apart: {apart}");
            let mut stream = server.connect();
            let head = format!(
                "{line} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {}\r\n\r\n",
                body.len()
            );
            let waits = headers.contains("Expect");
            let (first, rest) = if apart || waits {
                (head, body)
            } else {
                (head + body, "")
            };
            stream
                .write_all(first.as_bytes())
                .expect("the server reads");
            if !waits {
                std::thread::sleep(Duration::from_millis(50));
                stream.write_all(rest.as_bytes()).expect("it reads on");
            }
            let response = read_response(&mut stream).expect("a response");
            assert_eq!(response.status, status, "{what}: {response:?}");
            assert_eq!(!closes(&response), lives, "{what}: {response:?}");
            assert_honest(&what, &response, &mut stream);
        }
    }

    let chunked = |path: &str, rest: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\n{json}Transfer-Encoding: chunked\r\n\r\n{rest}")
    };
    // As they stand, and whether the client then closes its side.
    let raw: &[(u16, bool, String, bool)] = &[
        (
            413,
            true,
            chunked("/predict", &format!("300000\r\n{long}\r\n0\r\n\r\n")),
            false,
        ),
        (
            404,
            true,
            chunked("/nothing", "2\r\n{}\r\n0\r\n\r\n"),
            false,
        ),
        // The body breaks off, or does not come.
        (400, false, chunked("/predict", "zz\r\n"), false),
        (400, false, chunked("/predict", "20\r\n{\r\n"), true),
        (400, false, post("/predict", 100) + "{", true),
        (404, false, post("/nothing", 100) + "{", false),
        (413, false, post("/predict", 2 * MIB) + "{", false),
        // hyper refuses these.
        (
            400,
            false,
            "GET /models HTTP/1.1\r\nHost test\r\n\r\n".to_owned(),
            false,
        ),
        (400, false, "nonsense\r\n\r\n".to_owned(), false),
        (
            431,
            false,
            format!(
                "GET /models HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n",
                &long[..100_000]
            ),
            false,
        ),
        // The client wants it.
        (
            200,
            false,
            "GET /models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
            false,
        ),
    ];
    for (status, lives, request, half_closed) in raw {
        let what = &request[..request.len().min(150)];
        let mut stream = server.connect();
        stream
            .write_all(request.as_bytes())
            .expect("the server reads");
        if *half_closed {
            stream.shutdown(Shutdown::Write).expect("it is connected");
        }
        let response = read_response(&mut stream).expect("a response");
        assert_eq!(response.status, *status, "{what}: {response:?}");
        assert_eq!(!closes(&response), *lives, "{what}: {response:?}");
        assert_honest(what, &response, &mut stream);
    }
}

// As a proxy in front may take such a request for another host's. HTTP/1.0 knows no Host.
#[test]
fn a_request_must_have_one_host() {
    let server = Server::start(&[]);
    for (status, request) in [
        (400, "GET /models HTTP/1.1\r\n\r\n"),
        (400, "GET /models HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        (400, "GET /models HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
        (400, "POST /predict HTTP/1.1\r\nContent-Length: 5\r\n\r\n{"),
        (200, "GET /models HTTP/1.0\r\n\r\n"),
        (200, "GET /models HTTP/1.1\r\nHost:\r\n\r\n"),
        (200, "GET /models HTTP/1.1\r\nhost: a\r\n\r\n"),
    ] {
        let mut stream = server.connect();
        stream
            .write_all(request.as_bytes())
            .expect("the server reads");
        stream
            .shutdown(Shutdown::Write)
            .expect("an open connection");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response");
        let version = &request[request.find("HTTP").expect("a version")..][..8];
        let expected = format!("{version} {status} ");
        assert!(response.starts_with(&expected), "{request:?}: {response}");
        if status == 400 {
            assert!(response.contains(r#""code":"bad_host""#), "{response}");
            assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
        }
    }
}

// A service manager stops the server: the client must not send its next request on a connection that
// ends.
#[cfg(unix)]
#[test]
fn a_response_during_the_shutdown_says_that_the_connection_ends() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    assert!(!closes(&predict(&mut stream).expect("a response")));
    begin_post(&mut stream, "/predict", READING.len());
    server.signal("TERM");
    server.wait_for_line("stopping");
    std::thread::sleep(Duration::from_millis(100));
    stream
        .write_all(READING.as_bytes())
        .expect("the server reads");
    let response = read_response(&mut stream).expect("a response");
    assert_eq!(response.status, 200, "{response:?}");
    assert!(closes(&response), "{response:?}");
}
