//! `iforest-server healthcheck`, against a server of the test's own, so that each answer can be had.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::folder::Folder;
use crate::support::server::BINARY;

const HEALTHY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}";

/// Reads one request and answers it. Returns the request.
fn answer(mut stream: impl Read + Write, answer: &str) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => request.extend_from_slice(&buffer[..read]),
        }
    }
    let _ = stream.write_all(answer.as_bytes());
    let _ = stream.flush();
    String::from_utf8_lossy(&request).into_owned()
}

/// Listens on a free port of an address and serves one connection.
fn serve(
    address: &str,
    serve: impl FnOnce(TcpStream) -> String + Send + 'static,
) -> (String, thread::JoinHandle<String>) {
    let listener = TcpListener::bind((address, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let serve = move || serve(listener.accept().expect("a client").0);
    (port, thread::spawn(serve))
}

fn healthcheck(command: &mut Command) -> Output {
    // A proxy must not be asked about this machine.
    for variable in ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy"] {
        command.env(variable, "http://127.0.0.1:1");
    }
    command.output().expect("the program starts")
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments);
    command
}

/// The check must fail, with one line that has the text.
fn assert_unhealthy(output: &Output, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("unhealthy: ") && said.contains(expected),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn status_200_is_healthy_wherever_the_port_is_set() {
    let folder = Folder::new();
    for way in 0..4 {
        let (port, asked) = serve("127.0.0.1", |stream| answer(stream, HEALTHY));
        let mut command = match way {
            0 => program(&["healthcheck", "--port", &port]),
            1 => program(&["--port", &port, "healthcheck"]),
            2 => program(&["healthcheck"]),
            _ => {
                let file = folder.file("settings.toml", format!("port = {port}\n"));
                program(&["healthcheck", "--config", &file])
            }
        };
        if way == 2 {
            command.env("IFOREST_PORT", &port);
        }
        // By default the server listens on all addresses.
        let output = healthcheck(&mut command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{way}: {said}");
        let request = asked.join().expect("it serves");
        assert!(request.starts_with("GET /health HTTP/1.1\r\n"), "{request}");
        assert!(
            request
                .to_lowercase()
                .contains(&format!("host: 127.0.0.1:{port}\r\n")),
            "{request}"
        );
    }
}

#[test]
fn everything_else_is_unhealthy_and_named() {
    for (response, expected) in [
        (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "expected status 200, got 503; does another program",
        ),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "status 200, got 404",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", "status 200, got 204"),
        (
            "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
            "status 200, got 302",
        ),
        ("SSH-2.0-OpenSSH\r\n", "the answer is not HTTP ("),
        // An alert of TLS, as a server with a certificate sends it.
        (
            "\u{15}\u{3}\u{3}\0\u{2}\u{2}\u{16}",
            "if the server has a certificate, name it with --tls-cert",
        ),
        ("", "/health: "),
    ] {
        let (port, asked) = serve("127.0.0.1", move |stream| answer(stream, response));
        let output = healthcheck(&mut program(&["healthcheck", "--port", &port]));
        assert_unhealthy(&output, expected);
        assert_unhealthy(&output, &format!("GET http://127.0.0.1:{port}/health: "));
        asked.join().expect("it serves");
    }
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("bound").port().to_string();
    drop(free);
    let output = healthcheck(&mut program(&["healthcheck", "--port", &port]));
    assert_unhealthy(&output, "refused");
    let output = healthcheck(&mut program(&["healthcheck", "--port", "0"]));
    assert_unhealthy(&output, "with port 0");
}

#[test]
fn a_server_that_does_not_answer_is_unhealthy() {
    // The system accepts the connection, and no program reads from it.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let output = healthcheck(&mut program(&["healthcheck", "--port", &port]));
    assert_unhealthy(&output, "no answer within 3 seconds");
}

#[test]
fn a_certificate_for_another_name_is_no_fault() {
    let names = vec!["scada.example".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("made");
    let folder = Folder::new();
    let cert_file = folder.file("cert.pem", cert.pem());
    let key_file = folder.file("key.pem", signing_key.serialize_pem());
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("good versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .expect("a good pair");
    let config = Arc::new(config);
    for (response, expected) in [
        (HEALTHY, None),
        (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            Some("503"),
        ),
    ] {
        let config = Arc::clone(&config);
        let (port, asked) = serve("127.0.0.1", move |stream| {
            let connection = ServerConnection::new(config).expect("a good configuration");
            answer(StreamOwned::new(connection, stream), response)
        });
        let mut command = program(&["--tls-cert", &cert_file, "--tls-key", &key_file]);
        let output = healthcheck(command.args(["--port", &port, "healthcheck"]));
        match expected {
            Some(expected) => assert_unhealthy(&output, expected),
            None => assert!(output.status.success(), "{output:?}"),
        }
        let request = asked.join().expect("it serves");
        assert!(request.starts_with("GET /health "), "{request}");
    }
    // A server that speaks no TLS.
    let (port, asked) = serve("127.0.0.1", |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(HEALTHY.as_bytes());
        String::new()
    });
    let mut command = program(&["--tls-cert", &cert_file, "--tls-key", &key_file]);
    let output = healthcheck(command.args(["--port", &port, "healthcheck"]));
    assert_unhealthy(&output, "https://127.0.0.1");
    assert_unhealthy(&output, "if the server has no certificate, leave out");
    asked.join().expect("it serves");
}
