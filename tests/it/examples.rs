//! The examples, run as a user runs them.

use std::process::Command;

use axum::http::header;

use crate::support::http::JSON;
use crate::support::server::{Server, example};

fn printed(command: &mut Command) -> String {
    let output = command.output().expect("the example starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

// The first script of the tutorial prints the same for these readings.
#[test]
fn first_script_prints_what_the_tutorial_prints() {
    assert_eq!(printed(&mut example("first_script")), "Anomaly detected!\n");
    assert_eq!(printed(example("first_script").arg("0.25")), "Normal\n");
}

#[test]
fn server_v1_answers_in_the_shape_of_the_tutorial() {
    let mut command = example("server_v1");
    command.arg("127.0.0.1:0");
    let server = Server::spawn(command);
    // A value is a number or text, and a body ends in a newline, as in Flask.
    for (value, status, prediction) in [
        ("0.45", "Anomaly", 1),
        (r#""0.45""#, "Anomaly", 1),
        (r#"" 0.4_5\n""#, "Anomaly", 1),
        ("0.25", "Normal", 0),
        (r#""0.25""#, "Normal", 0),
    ] {
        let response = server.post("/predict", format!("{{\"value\": {value}}}"));
        let number = if prediction == 1 { "0.45" } else { "0.25" };
        let body =
            format!("{{\"prediction\":{prediction},\"status\":\"{status}\",\"value\":{number}}}\n");
        assert_eq!(response.headers[header::CONTENT_TYPE], JSON, "{value}");
        assert_eq!(response.ok(), body, "{value}");
    }
    for value in [r#""abc""#, r#""_1""#, r#""nan""#, "null", "[0.45]"] {
        let response = server.post("/predict", format!("{{\"value\": {value}}}"));
        assert_eq!(response.status, 422, "{value}: {response:?}");
    }
}

#[test]
fn linfa_pipeline_separates_anomalies_from_normal_readings() {
    let text = printed(&mut example("linfa_pipeline"));
    let labels: Vec<_> = text
        .lines()
        .filter_map(|line| line.split(' ').next_back())
        .collect();
    assert_eq!(labels, ["normal", "normal", "anomaly", "anomaly"], "{text}");
}
