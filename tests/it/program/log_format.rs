//! The log as JSON.

use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use crate::support::http::request;
use crate::support::server::{BINARY, Server};

/// The objects of a log. Each line must be one, and no character may steer a terminal.
fn objects(log: &str) -> Vec<Value> {
    let parse = |line: &str| -> Value {
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let timestamp = object["timestamp"].as_str().expect("a time");
        chrono::DateTime::parse_from_rfc3339(timestamp).expect("RFC 3339");
        assert!(timestamp.ends_with('Z'), "{line}");
        assert!(
            object["level"].is_string() && object["message"].is_string(),
            "{line}"
        );
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(
            !line.contains(['\u{200e}', '\u{2028}', '\u{202e}', '\u{2066}', '\u{feff}']),
            "{line:?}"
        );
        object
    };
    log.lines().map(parse).collect()
}

#[test]
fn json_lines_hold_what_text_lines_hold_and_text_of_clients_is_safe() {
    let server = Server::start(&["--log-format", "json", "--log-level", "debug"]);
    let evil = "\\u001b[2J\u{7f}\u{85}\u{9b}31m\u{200e}\u{2028}\u{202e}\u{2066}\u{feff}\\n2026 ERROR forged \\\" }";
    // The first feature is constant, so that a warning names it.
    let body = format!(
        r#"{{"feature_names": ["{evil}", "b"], "samples": [[7, 1], [7, 2], [7, 3], [7, 4], [7, 5]]}}"#
    );
    server.post("/models/press-1/retrain", body).ok();
    server.post("/models/press-1/retrain", format!(r#"{{"{evil}": 1}}"#));
    request(&server.address, "GET", "/models/none", "").expect("a response");
    let log = objects(&server.kill());
    let find = |message: &str| {
        let object = log.iter().find(|object| {
            object["message"]
                .as_str()
                .is_some_and(|text| text.contains(message))
        });
        object.unwrap_or_else(|| panic!("no line has {message:?}: {log:?}"))
    };
    assert_eq!(find("listening on ")["level"], "INFO");
    assert_eq!(find("trained")["readings"], 500);
    let audit = find("audit");
    assert_eq!(audit["change"], "retrain");
    assert_eq!(audit["model"], "press-1");
    assert_eq!(audit["outcome"], "done");
    assert!(log.iter().any(|object| object["level"] == "WARN"));
    assert!(log.iter().any(|object| object["level"] == "DEBUG"));
    assert!(
        log.iter()
            .any(|object| object.to_string().contains("forged"))
    );
}

#[test]
fn a_failed_start_is_an_object_too() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let in_use = format!("cannot listen on 127.0.0.1:{port}");
    for (variable, options, expected) in [
        (
            None,
            &[
                "--log-format",
                "json",
                "--host",
                "127.0.0.1",
                "--port",
                &port,
            ][..],
            in_use.as_str(),
        ),
        (
            None,
            &["--log-format=json", "--port", "x"],
            "invalid value 'x' for '--port <PORT>': expected a whole",
        ),
        (
            None,
            &["--prot", "1", "--log-format", "json"],
            "unexpected argument '--prot' found; tip: a similar argument exists: '--port'",
        ),
        (
            Some(("IFOREST_LOG_FORMAT", "json")),
            &["--config", "none.toml"],
            "cannot read the settings none.toml",
        ),
        (
            Some(("IFOREST_PROT", "1")),
            &["--log-format", "json"],
            "unknown environment variable IFOREST_PROT",
        ),
    ] {
        let output = Command::new(BINARY)
            .env("IFOREST_STORE", "memory:")
            .envs(variable)
            .args(options)
            .output()
            .expect("the program starts");
        let log = objects(&String::from_utf8_lossy(&output.stderr));
        let error = log.last().expect("a line");
        assert_eq!(error["level"], "ERROR", "{log:?}");
        let message = error["message"].as_str().expect("text");
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains("--help"), "{message}");
        assert!(!output.status.success());
    }
}
