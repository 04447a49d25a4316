//! The HTTP client of the tests, over a real socket. It speaks HTTP/1.1 by hand, because tests also
//! send requests that a library would not: half a request, or a body that stops.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;

pub(crate) const JSON: &str = "application/json";

/// A whole response.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// Headers do not count: they hold the date.
impl PartialEq for Response {
    fn eq(&self, other: &Self) -> bool {
        self.status == other.status && self.body == other.body
    }
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The body. Panics unless the status is 200.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// The JSON object in the body. Panics unless the status is 200.
    pub(crate) fn ok_json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        assert!(self.body.ends_with("}\n"), "{}", self.body);
        self.json()
    }

    /// The text of an error response. Panics if the response does not have the documented shape.
    pub(crate) fn error(&self) -> String {
        assert_eq!(self.headers[header::CONTENT_TYPE], JSON);
        assert!(self.body.ends_with("}\n"), "{}", self.body);
        let body = self.json();
        assert!(self.body.starts_with("{\"error\":\""), "{}", self.body);
        assert!(body["code"].is_string(), "{}", self.body);
        let known = ["error", "code", "field", "index", "feature"];
        let mut keys = body.as_object().expect("an object").keys();
        assert!(
            keys.all(|key| known.contains(&key.as_str())),
            "{}",
            self.body
        );
        body["error"].as_str().expect("error is text").to_owned()
    }

    pub(crate) fn version(&self) -> Option<u64> {
        self.json()["version"].as_u64()
    }

    pub(crate) fn samples_used(&self) -> Option<u64> {
        self.json()["samples_used"].as_u64()
    }
}

/// Opens a connection.
pub(crate) fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Sends one request on a new connection. Fails unless the whole response arrives.
pub(crate) fn request(
    address: &str,
    method: &str,
    path: &str,
    body: impl AsRef<[u8]>,
) -> io::Result<Response> {
    let mut stream = connect(address)?;
    let head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Type: {JSON}");
    send(&mut stream, &head, body.as_ref())?;
    read_last_response(&mut stream)
}

/// Writes a POST of JSON to a connection that stays open.
pub(crate) fn send_post(stream: &mut TcpStream, path: &str, body: &str) -> io::Result<()> {
    let head = format!("POST {path} HTTP/1.1\r\nContent-Type: {JSON}");
    send(stream, &head, body.as_bytes())
}

/// Sends the head of a POST, and returns once the server waits for its body. A connection of which
/// the server has read nothing is closed at a stop.
pub(crate) fn begin_post(stream: &mut TcpStream, path: &str, length: usize) {
    let head = format!("POST {path} HTTP/1.1\r\nContent-Type: {JSON}\r\nExpect: 100-continue");
    send_head(stream, &head, length).expect("the server reads");
    let mut response = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut response).expect("a response");
    assert_eq!(&response[..12], b"HTTP/1.1 100");
}

/// Writes a request: the head as given, with `Host` and `Content-Length` added, and the body.
pub(crate) fn send(stream: &mut TcpStream, head: &str, body: &[u8]) -> io::Result<()> {
    send_head(stream, head, body.len())?;
    stream.write_all(body)
}

/// Writes the head of a request whose body has `length` bytes.
pub(crate) fn send_head(stream: &mut TcpStream, head: &str, length: usize) -> io::Result<()> {
    let head = format!("{head}\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes())
}

/// Reads one response and leaves the connection open.
pub(crate) fn read_response(stream: &mut TcpStream) -> io::Result<Response> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..read]);
        match parse(&bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && read > 0 => {}
            parsed => return parsed,
        }
    }
}

/// Reads one response, after which the server must close the connection.
pub(crate) fn read_last_response(stream: &mut TcpStream) -> io::Result<Response> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes)
}

/// Parses exactly one response with a `Content-Length`. `UnexpectedEof` means that bytes are missing.
fn parse(bytes: &[u8]) -> io::Result<Response> {
    let invalid = |what: &str| {
        let text = String::from_utf8_lossy(bytes);
        io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {text}"))
    };
    let missing = || io::Error::new(io::ErrorKind::UnexpectedEof, "the response was cut short");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = bytes.split_at(end.ok_or_else(missing)?);
    let head = std::str::from_utf8(head).map_err(|_| invalid("the head is not text"))?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let code = status_line.split(' ').nth(1).unwrap_or_default();
    let status: StatusCode = code.parse().map_err(|_| invalid("no status"))?;
    if status_line != format!("HTTP/1.1 {status}") {
        return Err(invalid("another status line than expected"));
    }
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("no header"))?;
        let name: HeaderName = name.parse().map_err(|_| invalid("no header name"))?;
        let value: HeaderValue = value.trim().parse().map_err(|_| invalid("no value"))?;
        headers.append(name, value);
    }
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let length = length.ok_or_else(|| invalid("no Content-Length"))?;
    let body = &body[4..];
    if body.len() < length {
        return Err(missing());
    }
    if body.len() > length {
        return Err(invalid("bytes after the response"));
    }
    let body = String::from_utf8(body.to_vec()).map_err(|_| invalid("the body is not text"))?;
    Ok(Response {
        status,
        headers,
        body,
    })
}
