//! Who may do what: web pages, paths that a proxy forbids, API keys, TLS, and the audit log.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use iforest_server::http::{ApiConfig, ApiKeys};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::data::SplitMix;
use crate::support::folder::Folder;
use crate::support::http::{JSON, Response};
use crate::support::router::App;
use crate::support::server::Server;

const SAMPLES: &str = r#"{"samples": [1, 1.1, 1.2, 1.3, 1.4, 1.5]}"#;
const READ_KEY: &str = "read-read-read-read-read";
const ALL_KEY: &str = "all-all-all-all-all-all";

/// A file that is removed when dropped.
struct TempFile {
    folder: Folder,
    path: String,
}

impl TempFile {
    fn new(content: &str) -> Self {
        let folder = Folder::new();
        let path = folder.file("file", content);
        Self { folder, path }
    }

    fn write(&self, content: &str) {
        self.folder.file("file", content);
    }

    fn path(&self) -> &str {
        &self.path
    }
}

fn keys_file() -> TempFile {
    TempFile::new(&format!(
        "# plant 7\nnode-red read {READ_KEY}\n\nscada all {ALL_KEY}\n"
    ))
}

async fn request(
    app: &App,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, JSON);
    }
    let body = Body::from(body.to_owned());
    app.send(request.body(body).expect("a good request")).await
}

fn code(answer: &Response) -> String {
    answer.error();
    answer.json()["code"].as_str().expect("a code").to_owned()
}

/// All requests that change a model, with bodies they take.
fn changes() -> [(Method, &'static str, &'static str); 7] {
    [
        (Method::POST, "/retrain", SAMPLES),
        (Method::POST, "//retrain", SAMPLES),
        (Method::POST, "/%72etrain", SAMPLES),
        (Method::POST, "/models/motor/retrain", SAMPLES),
        (Method::POST, "/models/motor/rollback", ""),
        (Method::POST, "/models/motor/rollback", r#"{"version": 1}"#),
        (Method::DELETE, "/models/motor", ""),
    ]
}

/// A model with two versions.
async fn train_motor(app: &App, headers: &[(&str, &str)]) {
    for _ in 0..2 {
        let answer = request(app, Method::POST, "/models/motor/retrain", headers, SAMPLES).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
}

// Before this, any page that an operator of the plant visited could roll back a model.
#[tokio::test]
async fn foreign_web_pages_change_no_models() {
    let app = App::new();
    train_motor(&app, &[]).await;
    let before = request(&app, Method::GET, "/models", &[], "").await.body;
    for headers in [
        &[
            ("host", "localhost:5000"),
            ("origin", "http://evil.example"),
        ][..],
        &[("host", "localhost:5000"), ("origin", "null")],
        &[("host", "localhost:5000"), ("sec-fetch-site", "cross-site")],
        // DNS rebinding: the page's own name leads here.
        &[
            ("host", "evil.example:5000"),
            ("origin", "http://evil.example:5000"),
            ("sec-fetch-site", "same-origin"),
        ],
    ] {
        for (method, path, body) in changes() {
            let answer = request(&app, method, path, headers, body).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {headers:?}");
            assert_eq!(code(&answer), "forbidden_origin");
        }
        // What changes nothing goes on, as with server.py.
        let predict = request(&app, Method::POST, "/predict", headers, "{\"value\": 1}").await;
        assert_eq!(predict.status, StatusCode::OK);
        assert!(!predict.headers.contains_key("access-control-allow-origin"));
        let after = request(&app, Method::GET, "/models", headers, "").await;
        assert_eq!(after.body, before);
    }
}

#[tokio::test]
async fn programs_and_the_servers_own_pages_change_models() {
    for headers in [
        &[][..],
        // Node-RED in a container.
        &[("host", "iforest:5000")],
        &[
            ("host", "127.0.0.1:5000"),
            ("origin", "http://127.0.0.1:5000"),
        ],
        &[
            ("host", "localhost:5000"),
            ("origin", "http://localhost:5000"),
            ("sec-fetch-site", "same-origin"),
        ],
    ] {
        let app = App::new();
        train_motor(&app, headers).await;
        for (method, path, body) in changes() {
            let answer = request(&app, method, path, headers, body).await;
            // After some rollbacks there is nothing older.
            let is_checked = answer.status == StatusCode::FORBIDDEN;
            assert!(!is_checked, "{path} {headers:?}: {}", answer.body);
        }
        let answer = request(&app, Method::GET, "/models/motor", headers, "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "it is deleted");
    }
}

#[tokio::test]
async fn allowed_origins_may_call_from_browsers() {
    let origin = "https://scada.example";
    let app = App::with(ApiConfig {
        allowed_origins: vec![origin.parse().expect("an origin")],
        ..ApiConfig::default()
    });
    let headers = [("host", "iforest:5000"), ("origin", origin)];
    train_motor(&app, &headers).await;
    let answer = request(&app, Method::GET, "/models", &headers, "").await;
    assert_eq!(answer.headers["access-control-allow-origin"], origin);
    // Errors are read as well.
    let answer = request(&app, Method::POST, "/predict", &headers, "{}").await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.headers["access-control-allow-origin"], origin);

    let preflight = |origin| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "DELETE"),
            (
                "access-control-request-headers",
                "authorization, content-type",
            ),
        ];
        let app = app.clone();
        async move { request(&app, Method::OPTIONS, "/models/motor", &headers, "").await }
    };
    let answer = preflight(origin).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["access-control-allow-origin"], origin);
    assert_eq!(
        answer.headers["access-control-allow-methods"],
        "GET,POST,DELETE"
    );
    assert_eq!(
        answer.headers["access-control-allow-headers"],
        "authorization,content-type,x-request-id"
    );
    let answer = preflight("http://evil.example").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    let evil = [("host", "iforest:5000"), ("origin", "http://evil.example")];
    let answer = request(&app, Method::POST, "/retrain", &evil, SAMPLES).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

// A proxy that forbids /models/motor/retrain must not be got round by another spelling.
#[tokio::test]
async fn paths_of_models_have_one_spelling() {
    let app = App::new();
    train_motor(&app, &[]).await;
    let before = request(&app, Method::GET, "/models", &[], "").await.body;
    let [get, post, delete] = [Method::GET, Method::POST, Method::DELETE];
    for (method, path) in [
        (&get, "/models/mot%6Fr"),
        (&delete, "/models/mot%6Fr"),
        (&delete, "/models/motor%2F"),
        (&get, "/models/%FF"),
        (&get, "/models/%"),
        (&get, "/models/motor/%76ersions"),
        (&post, "/models/%6Dotor/retrain"),
        (&post, "/models/%6Dotor/rollback"),
        (&post, "/models/%6Dotor/predict"),
        (&post, "/models/motor/%72etrain"),
        (&post, "/models/motor/rollback%3F"),
        (&post, "/models//motor/retrain"),
        (&post, "/models/motor//retrain"),
        (&post, "/models/motor/retrain//"),
        (&delete, "/models//motor"),
    ] {
        let answer = request(&app, method.clone(), path, &[], SAMPLES).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{method} {path}");
        assert_eq!(code(&answer), "bad_path", "{method} {path}");
    }
    for path in [
        "//models",
        "//models/motor",
        "//models/motor/retrain",
        "/%6Dodels/motor",
        "/%6Dodels/motor/retrain",
        "/models%2Fmotor",
        "/models%2Fmotor%2Fretrain",
        "/%2Fmodels",
    ] {
        for method in [&get, &post, &delete] {
            let answer = request(&app, method.clone(), path, &[], SAMPLES).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
            assert_eq!(code(&answer), "not_found", "{method} {path}");
        }
    }
    let after = request(&app, Method::GET, "/models", &[], "").await.body;
    assert_eq!(after, before);
}

#[tokio::test]
async fn keys_say_who_may_do_what() {
    let file = keys_file();
    let keys = ApiKeys::load(Path::new(file.path())).expect("a good file");
    let app = App::with(ApiConfig {
        api_keys: Some(Arc::new(keys)),
        ..ApiConfig::default()
    });
    let read = format!("Bearer {READ_KEY}");
    let all = format!("bearer {ALL_KEY}");
    train_motor(&app, &[("authorization", &all)]).await;

    for (method, path, body) in reads().into_iter().chain(changes()) {
        for authorization in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer wrong-wrong-wrong-wrong"),
            Some(READ_KEY),
            Some("Basic cmVhZDpyZWFk"),
        ] {
            let headers: Vec<_> = authorization
                .map(|value| ("authorization", value))
                .into_iter()
                .collect();
            let answer = request(&app, method.clone(), path, &headers, body).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
            // HEAD has no body.
            assert!(method == Method::HEAD || code(&answer) == "unauthorized");
        }
    }
    for (method, path, body) in reads() {
        let headers = [("authorization", read.as_str())];
        let answer = request(&app, method, path, &headers, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
    }
    for (method, path, body) in changes() {
        let headers = [("authorization", read.as_str())];
        let answer = request(&app, method, path, &headers, body).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(code(&answer), "forbidden");
    }
    for (method, path, body) in changes() {
        let headers = [("authorization", all.as_str())];
        let answer = request(&app, method, path, &headers, body).await;
        let refused = [StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED];
        assert!(!refused.contains(&answer.status), "{path}: {}", answer.body);
    }
    // Supervisors have no key, and the description is the same on every server.
    for path in ["/health", "/ready", "/docs", "/openapi.json"] {
        let answer = request(&app, Method::GET, path, &[], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
    // Which methods a path takes is open, to the byte as without keys.
    for path in ["/predict", "/retrain"] {
        let with = request(&app, Method::OPTIONS, path, &[], "").await;
        let without = request(&App::new(), Method::OPTIONS, path, &[], "").await;
        assert_eq!(with.status, StatusCode::OK);
        assert_eq!(
            (with.headers, with.body),
            (without.headers, without.body),
            "{path}"
        );
    }
    // A page of another origin is refused, whatever key it has.
    let headers = [
        ("authorization", all.as_str()),
        ("host", "localhost"),
        ("origin", "http://evil.example"),
    ];
    let answer = request(&app, Method::POST, "/retrain", &headers, SAMPLES).await;
    assert_eq!(code(&answer), "forbidden_origin");
}

// A page reads why it was refused only where the answer names its origin, and a browser sends a
// preflight request without a key.
#[tokio::test]
async fn refusals_for_want_of_a_key_reach_allowed_origins() {
    let origin = "https://scada.example";
    let file = keys_file();
    let keys = ApiKeys::load(Path::new(file.path())).expect("a good file");
    let app = App::with(ApiConfig {
        allowed_origins: vec![origin.parse().expect("an origin")],
        api_keys: Some(Arc::new(keys)),
        ..ApiConfig::default()
    });
    let read = format!("Bearer {READ_KEY}");
    for (key, status) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some(read.as_str()), StatusCode::FORBIDDEN),
    ] {
        let mut headers = vec![("host", "iforest:5000"), ("origin", origin)];
        headers.extend(key.map(|key| ("authorization", key)));
        let answer = request(&app, Method::POST, "/retrain", &headers, SAMPLES).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.headers["access-control-allow-origin"], origin);
    }
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let answer = request(&app, Method::OPTIONS, "/retrain", &headers, "").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["access-control-allow-origin"], origin);
}

/// Requests that change nothing.
fn reads() -> [(Method, &'static str, &'static str); 11] {
    let value = r#"{"value": 1}"#;
    [
        (Method::POST, "/predict", value),
        (
            Method::POST,
            "/predict",
            r#"{"readings": [{"model": "motor", "value": 1}]}"#,
        ),
        (Method::POST, "//predict", value),
        (Method::POST, "/%70redict", value),
        (Method::POST, "/models/motor/predict", value),
        (Method::GET, "/models", ""),
        (Method::GET, "/version", ""),
        (Method::GET, "/metrics", ""),
        (Method::HEAD, "/models", ""),
        (Method::GET, "/models/motor", ""),
        (Method::GET, "/models/motor/versions", ""),
    ]
}

/// A program that must refuse to start; what it says.
fn refusal(arguments: &[&str]) -> String {
    let output = Server::command(arguments).output().expect("it starts");
    assert!(!output.status.success());
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn bad_keys_and_certificates_refuse_the_start_and_are_named() {
    let empty = TempFile::new("# nothing\n");
    let log = refusal(&["--api-keys", empty.path()]);
    assert!(
        log.contains(empty.path()) && log.contains("no key"),
        "{log}"
    );

    let short = TempFile::new("a all secret-secret-16\nb read secret-15-bytes\n");
    let log = refusal(&["--api-keys", short.path()]);
    assert!(log.contains(&format!("{}, line 2", short.path())), "{log}");
    assert!(!log.contains("secret"), "{log}");

    let log = refusal(&["--api-keys", "/no/such/file"]);
    assert!(log.contains("/no/such/file"), "{log}");

    let (cert, key, _) = certificate();
    let (_, other, _) = certificate();
    let log = refusal(&["--tls-cert", cert.path()]);
    assert!(log.contains("--tls-key"), "{log}");
    let log = refusal(&["--tls-key", key.path()]);
    assert!(log.contains("--tls-cert"), "{log}");
    for (cert_path, key_path, named) in [
        (cert.path(), other.path(), "they do not belong together"),
        (key.path(), key.path(), "there is no certificate"),
        (
            cert.path(),
            cert.path(),
            "there is no unencrypted private key",
        ),
        (empty.path(), key.path(), empty.path()),
        ("/no/such/file", key.path(), "/no/such/file"),
    ] {
        let log = refusal(&["--tls-cert", cert_path, "--tls-key", key_path]);
        assert!(log.contains(named), "{named}: {log}");
        assert!(!log.contains("PRIVATE KEY-"), "{log}");
    }
}

/// Sends a whole request; returns the whole response.
fn exchange(stream: &mut (impl Read + Write), request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut response = String::new();
    // Not every end of a TLS connection is announced.
    let _ = stream.read_to_string(&mut response);
    response
}

fn message(path: &str, authorization: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

// Many clients send all before they read, and would report a broken connection instead of the 401.
#[test]
fn a_large_body_without_a_key_gets_its_refusal() {
    let keys = keys_file();
    let server = Server::start(&["--api-keys", keys.path()]);
    let body = format!("{{\"samples\": [{}1]}}", "1,".repeat(4 * 1024 * 1024));
    for headers in ["", "Origin: http://evil.example\r\n"] {
        let authorization = match headers {
            "" => String::new(),
            _ => format!("Authorization: Bearer {ALL_KEY}\r\n{headers}"),
        };
        let request = message("/retrain", &authorization, &body);
        let response = exchange(&mut server.connect(), &request);
        let status = if headers.is_empty() { "401" } else { "403" };
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{response}"
        );
    }
}

// An operator replaces a key, and later a certificate, while the plant runs.
#[test]
fn keys_and_certificates_are_read_again() {
    let keys = keys_file();
    let (cert, key, roots) = certificate();
    let server = Server::start(&[
        "--api-keys",
        keys.path(),
        "--tls-cert",
        cert.path(),
        "--tls-key",
        key.path(),
    ]);
    server.wait_for_line("requests need one of 2 API keys");
    let status = |roots: &RootCertStore, key: &str| {
        let authorization = format!("Authorization: Bearer {key}\r\n");
        let mut stream = tls(&server.address, roots, &[b"http/1.1"]);
        let response = exchange(
            &mut stream,
            &message("/predict", &authorization, "{\"value\": 1}"),
        );
        response.get(9..12).unwrap_or_default().to_owned()
    };
    assert_eq!(status(&roots, READ_KEY), "200");

    // Bad files are named, and what was read before stays.
    keys.write("node-red read too-short");
    let (new_cert, new_key, new_roots) = certificate();
    cert.write(&std::fs::read_to_string(new_cert.path()).expect("it is there"));
    let line = server.wait_for_line("the API keys stay as they were");
    assert!(line.contains(&format!("{}, line 1", keys.path())), "{line}");
    assert!(!line.contains("too-short"), "{line}");
    let line = server.wait_for_line("the TLS certificate stays as it was");
    assert!(
        line.contains(cert.path()) && line.contains(key.path()),
        "{line}"
    );
    assert_eq!(status(&roots, READ_KEY), "200");

    keys.write("node-red read another-key-another-key\n");
    key.write(&std::fs::read_to_string(new_key.path()).expect("it is there"));
    server.wait_for_line(&format!("read {} again", keys.path()));
    server.wait_for_line("read the certificate");
    assert_eq!(status(&new_roots, READ_KEY), "401");
    assert_eq!(status(&new_roots, "another-key-another-key"), "200");
}

/// A new certificate for localhost, its key, and what a client trusts then.
fn certificate() -> (TempFile, TempFile, RootCertStore) {
    let names = vec!["localhost".to_owned()];
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(names).expect("it can be made");
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("a good certificate");
    (
        TempFile::new(&cert.pem()),
        TempFile::new(&signing_key.serialize_pem()),
        roots,
    )
}

/// A TLS connection that offers protocols.
fn tls(
    address: &str,
    roots: &RootCertStore,
    protocols: &[&[u8]],
) -> StreamOwned<ClientConnection, TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("good versions")
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|&name| name.to_vec()).collect();
    let name = "localhost".try_into().expect("a name");
    let client = ClientConnection::new(Arc::new(config), name).expect("a good configuration");
    let stream = TcpStream::connect(address).expect("it listens");
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).expect("a timeout");
    StreamOwned::new(client, stream)
}

#[test]
fn tls_serves_what_plain_connections_serve() {
    let (cert, key, roots) = certificate();
    let arguments = ["--tls-cert", cert.path(), "--tls-key", key.path()];
    let server = Server::start(&[&arguments[..], &["--random-state", "42"]].concat());
    let hint = server.wait_for_line("try: curl");
    assert!(
        hint.contains(&format!("https://{}/predict", server.address)),
        "{hint}"
    );
    let plain = Server::start(&["--random-state", "42"]);
    let expected = plain.post("/predict", r#"{"value": 2.5}"#).ok();

    // A client that says nothing keeps nobody else waiting.
    let start = Instant::now();
    let mut silent = server.connect();
    let request = message("/predict", "", r#"{"value": 2.5}"#);
    let http1: &[u8] = b"http/1.1";
    for protocols in [&[][..], &[http1], &[b"h2", http1]] {
        let mut stream = tls(&server.address, &roots, protocols);
        let response = exchange(&mut stream, &request);
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(
            response.ends_with(&format!("\r\n\r\n{expected}")),
            "{response}"
        );
        let agreed = stream.conn.alpn_protocol();
        assert_eq!(agreed.is_some(), !protocols.is_empty());
    }
    // Large bodies and many requests on one connection.
    let samples = format!("{{\"samples\": [{}1]}}", "1,2,3,4,".repeat(100_000));
    let mut stream = tls(&server.address, &roots, &[b"http/1.1"]);
    let keep = request.replace("Connection: close\r\n", "");
    let mut many = keep.repeat(20);
    many.push_str(&message("/retrain", "", &samples));
    let responses = exchange(&mut stream, &many);
    assert_eq!(responses.matches("HTTP/1.1 200 OK").count(), 21);
    assert!(responses.ends_with("\"samples_used\":400001}\n"));
    // Plain HTTP, and a client that trusts another certificate.
    let response = exchange(&mut server.connect(), &request);
    assert!(!response.starts_with("HTTP/1.1 200"), "{response}");
    let (_, _, others) = certificate();
    let mut stream = tls(&server.address, &others, &[]);
    assert!(stream.write_all(request.as_bytes()).is_err());

    let mut rest = Vec::new();
    let patience = Some(Duration::from_secs(60));
    silent.set_read_timeout(patience).expect("a timeout");
    let end = silent.read_to_end(&mut rest);
    assert!(end.is_ok() || start.elapsed() < Duration::from_secs(60));
    assert!(rest.is_empty());
}

// Stopping a server must not wait for a handshake.
#[cfg(unix)]
#[test]
fn a_handshake_keeps_no_server_from_stopping() {
    let (cert, key, _) = certificate();
    let mut server = Server::start(&["--tls-cert", cert.path(), "--tls-key", key.path()]);
    let _silent = server.connect();
    // The server has accepted it once it has answered the next one.
    drop(exchange(&mut server.connect(), "GET / HTTP/1.1\r\n\r\n"));
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    assert!(!server.log().contains("cut off"), "{}", server.log());
}

#[test]
fn each_change_is_one_audit_line() {
    let keys = keys_file();
    let server = Server::start(&["--api-keys", keys.path()]);
    let send = |method: &str, path: &str, body: &str| {
        let authorization = format!("Authorization: Bearer {ALL_KEY}\r\n");
        let request = message(path, &authorization, body).replacen("POST", method, 1);
        let mut stream = server.connect();
        let client = stream.local_addr().expect("it is connected");
        (client, exchange(&mut stream, &request))
    };
    for (method, path, body, status, line) in [
        (
            "POST",
            "/models/motor/retrain",
            SAMPLES,
            "200",
            "change=retrain model=motor who=scada client=CLIENT before=none after=1 outcome=done",
        ),
        (
            "POST",
            "/models/motor/retrain",
            SAMPLES,
            "200",
            "change=retrain model=motor who=scada client=CLIENT before=1 after=2 outcome=done",
        ),
        (
            "POST",
            "/models/motor/rollback",
            "",
            "200",
            "change=rollback model=motor who=scada client=CLIENT before=2 after=3 outcome=done",
        ),
        (
            "POST",
            "/models/motor/retrain",
            r#"{"samples": []}"#,
            "422",
            "change=retrain model=motor who=scada client=CLIENT before=3 after=3 outcome=refused \
             reason=\"samples",
        ),
        (
            "DELETE",
            "/models/motor",
            "",
            "200",
            "change=deletion model=motor who=scada client=CLIENT before=3 after=none outcome=done",
        ),
        (
            "DELETE",
            "/models/motor",
            "",
            "404",
            "change=deletion model=motor who=scada client=CLIENT before=none after=none \
             outcome=refused reason=\"there is no model motor\"",
        ),
        (
            "POST",
            "/retrain",
            SAMPLES,
            "200",
            "change=retrain model=default who=scada client=CLIENT before=none after=1 outcome=done",
        ),
    ] {
        let (client, response) = send(method, path, body);
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{response}"
        );
        let found = server.wait_for_line(" audit ");
        let expected = line.replace("CLIENT", &client.to_string());
        assert!(found.contains(&expected), "{found}");
    }
    let log = server.kill();
    assert_eq!(log.matches(" audit ").count(), 7, "{log}");
}

#[test]
fn without_keys_the_audit_log_says_open() {
    let server = Server::start(&[]);
    server.post("/retrain", SAMPLES);
    let line = server.wait_for_line(" audit ");
    assert!(
        line.contains("model=default who=open client=127.0.0.1:"),
        "{line}"
    );
}

// A terminal that shows the log would obey, and a reader would see lines that nobody wrote.
#[test]
fn clients_neither_begin_lines_nor_steer_terminals() {
    let server = Server::start(&["--log-level", "debug"]);
    let evil = "\u{7f}\u{85}\u{9b}31m\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}\u{200e}\
                \u{200f}\u{feff}";
    let names = format!(r#"["t\n2026-01-01T00:00:00Z ERROR forged\r\u001b[2J{evil}", "b", "c"]"#);
    // The first feature is constant, so that a warning names it.
    let mut random = SplitMix(5);
    let rows: Vec<_> = (0..300)
        .map(|_| format!("[7, {}, {}]", random.uniform(), random.uniform()))
        .collect();
    let rows = rows.join(",");
    let body = format!(r#"{{"feature_names": {names}, "samples": [{rows}]}}"#);
    let response = server.post("/models/motor/retrain", &body);
    let json = response.ok_json();
    let warning = json["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.contains(r"t\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{7f}\u{85}\u{9b}31m"),
        "{warning}"
    );
    assert!(!warning.contains(is_unsafe), "{warning:?}");
    server.wait_for_line(r"forged\r\u{1b}[2J");

    // Values, unknown fields, paths and headers, in what is refused.
    let refused = format!("{{\"samples\": [\"{evil}\"], \"{evil}\": 1}}");
    server.post("/models/motor/retrain", &refused);
    server.post("/retrain", &refused);
    server.post("/predict", format!("{{\"value\":\n\"{evil}\"}}"));
    server.post(&format!("/models/{}", evil.replace('\u{7f}', "")), "");
    let request = message(
        "/predict",
        &format!("X: {evil}\r\nContent-Type: {evil}\r\n"),
        "{}",
    );
    exchange(&mut server.connect(), &request.replace('\u{7f}', ""));
    server.post("/predict", "{\"value\": 1}");
    let log = server.kill();
    assert!(log.contains("POST"), "{log}");
    let unsafe_character = log.lines().flat_map(str::chars).find(|&c| is_unsafe(c));
    assert_eq!(unsafe_character, None, "{log:?}");
    let forged = log.lines().find(|line| line.starts_with("2026-01-01"));
    assert_eq!(forged, None);
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{feff}')
}
