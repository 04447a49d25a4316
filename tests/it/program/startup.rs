//! The start: what the log says, what the first model learns from, and what stops the start.

use std::net::TcpListener;
use std::process::{Command, Output};

use super::READING;
use crate::support::folder::Folder;
use crate::support::server::{BINARY, Server};

// The first minute of a new user: start, read the log, predict, retrain, predict again. The answers
// are those of server.py with the same seeds.
#[test]
fn the_log_says_how_to_predict_and_the_answers_equal_those_of_server_py() {
    let server = Server::start(&["--random-state", "42"]);
    let hint = server.wait_for_line("try: curl");
    assert!(
        hint.contains(&format!("http://{}/predict", server.address)),
        "{hint}"
    );
    assert!(hint.contains(r#"-d "{\"value\": 2.5}""#), "{hint}");

    let body = server.post("/predict", READING).ok();
    let expected = "{\"anomaly_score\":-0.05813124527712765,\"input_value\":2.5,\"prediction\":0,\
                    \"scaled_value\":0.004820167687263519,\"status\":\"Normal Behaviour\"}\n";
    assert_eq!(body, expected);

    let retrain = |body: &str| server.post("/retrain", body).ok();
    let body = retrain(r#"{"samples": [9, 9.1, 9.2, 9.3]}"#);
    assert!(body.ends_with("\"samples_used\":4}\n"), "{body}");
    // Like server.py, /retrain takes no settings. The log warns those who send some.
    let body =
        retrain(r#"{"samples": [9, 9.1, 9.2, 9.3], "out_of_range": "anomaly", "n_estimators": 9}"#);
    assert!(body.ends_with("\"samples_used\":4}\n"), "{body}");
    server.wait_for_line("it ignored n_estimators, out_of_range;");
    let body = server.post("/predict", READING).ok();
    assert!(body.contains("Anomaly Detected"), "{body}");
}

#[test]
fn train_reads_a_file_of_readings() {
    let lines: String = (0..200)
        .map(|i| format!("{}\n", 20.0 + f64::from(i) * 0.01))
        .collect();
    let folder = Folder::new();
    let file = folder.file("readings.csv", format!("value\n{lines}"));
    // Seeded: a threshold drawn at random may, though rarely, call the anomaly normal.
    let server = Server::start(&["--train", &file, "--random-state", "42"]);
    let normal = server.post("/predict", r#"{"value": 21}"#).ok();
    assert!(normal.contains("Normal Behaviour"), "{normal}");
    let anomaly = server.post("/predict", READING).ok();
    assert!(anomaly.contains("Anomaly Detected"), "{anomaly}");
}

// Windows PowerShell writes such files with `>`.
#[test]
fn train_reads_a_file_in_utf16() {
    let text = "\u{feff}vibration\r\n9\r\n9.1\r\n9.2\r\n9.3\r\n";
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let folder = Folder::new();
    let file = folder.file("utf16.txt", bytes);
    let server = Server::start(&["--train", &file, "--random-state", "42"]);
    let anomaly = server.post("/predict", READING).ok();
    assert!(anomaly.contains("Anomaly Detected"), "{anomaly}");
}

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .env("IFOREST_HOST", "127.0.0.1")
        .env("IFOREST_PORT", "0")
        .env("IFOREST_STORE", "memory:")
        .args(arguments)
        .output()
        .expect("the program starts")
}

#[test]
fn a_failed_start_exits_with_an_error_and_a_line_that_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let folder = Folder::new();
    let bad_line = folder.file("bad.txt", "1.5\n2.5\nabc\n");
    let bad_line_error = format!("{bad_line}, line 3: expected a finite number, got \"abc\"");
    let in_use = format!("cannot listen on 127.0.0.1:{port}");
    for (arguments, expected) in [
        (["--port", port.as_str()], in_use.as_str()),
        (["--train", &bad_line], &bad_line_error),
        (["--train", "no-such-file.csv"], "no-such-file.csv: "),
        (
            ["--contamination", "0.7"],
            "contamination must be greater than 0 and at most 0.5, got 0.7",
        ),
        (
            ["--contamination", "NaN"],
            "contamination must be greater than 0",
        ),
        (
            ["--max-samples", "0"],
            "max_samples must be at least 1 reading, got 0",
        ),
        (
            ["--max-samples", "many"],
            "expected auto, a whole number of readings",
        ),
        (
            ["--n-estimators", "0"],
            "expected a whole number from 1 to 100000",
        ),
        (["--random-state", "-1"], "invalid value '-1'"),
        (
            ["--port", "70000"],
            "expected a whole number from 0 to 65535",
        ),
        (
            ["--host", "no such host"],
            "cannot listen on no such host:0",
        ),
    ] {
        let output = run(&arguments);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.contains(expected), "{arguments:?}: {log}");
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!log.contains("panicked"), "{log}");
    }
    let contradiction = ["--out-of-range", "distance", "--out-of-range-margin", "0.1"];
    let output = run(&contradiction);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(
        log.contains("--out-of-range-margin must not be given"),
        "{log}"
    );
    assert!(!output.status.success());
}

#[test]
fn environment_variables_set_options() {
    let output = Command::new(BINARY)
        .env("IFOREST_HOST", "127.0.0.1")
        .env("IFOREST_PORT", "0")
        .env("IFOREST_CONTAMINATION", "0.9")
        .output()
        .expect("the program starts");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("at most 0.5, got 0.9"), "{log}");
}
