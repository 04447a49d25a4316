//! Stopping the server with signals.
#![cfg(unix)]

use std::io::Write;
use std::time::{Duration, Instant};

use super::READING;
use super::load::with_long_batches;
use crate::support::folder::Folder;
use crate::support::http::{begin_post, read_last_response, send_post};
use crate::support::server::Server;

// A service manager stops the server while Node-RED is in the middle of a request. The request is
// answered, new connections are refused, and the exit code is 0.
#[test]
fn a_stop_completes_the_request_in_flight() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&[]);
        let idle = server.connect();
        let mut stream = server.connect();
        begin_post(&mut stream, "/predict", READING.len());
        server.signal(signal);
        server.wait_for_line("stopping");
        stream
            .write_all(READING.as_bytes())
            .expect("the server reads");
        let response = read_last_response(&mut stream).expect("a response");
        assert_eq!(response.status, 200, "{signal}: {response:?}");
        assert_eq!(server.wait(), Some(0), "{signal}");
        drop(idle);
    }
}

// Neither a request that never ends nor a long training keeps the server alive, and a second signal
// stops it at once.
#[test]
fn a_stop_takes_bounded_time_and_a_second_signal_is_immediate() {
    let stalled = |server: &Server| {
        let mut stream = server.connect();
        begin_post(&mut stream, "/predict", 100);
        stream
    };
    let mut patient = Server::start(&["--n-estimators", "100000", "--max-samples", "2"]);
    let mut hasty = Server::start(&[]);
    let streams = [stalled(&patient), stalled(&hasty)];
    let history = vec!["2.5"; 200_000].join(",");
    let body = format!("{{\"samples\":[{history}]}}");
    let mut retraining = patient.connect();
    send_post(&mut retraining, "/retrain", &body).expect("the server reads");

    patient.signal("TERM");
    hasty.signal("TERM");
    hasty.wait_for_line("stopping");
    let start = Instant::now();
    hasty.signal("INT");
    assert_eq!(hasty.wait(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(5));

    patient.wait_for_line("were cut off");
    assert_eq!(patient.wait(), Some(0));
    drop(streams);
}

#[test]
fn a_stop_during_the_first_training_is_clean() {
    let lines: String = (0..100_000).map(|i| format!("{}\n", i % 997)).collect();
    let folder = Folder::new();
    let file = folder.file("long.txt", lines);
    let command = Server::command(&["--train", &file, "--n-estimators", "2000"]);
    let mut server = Server::spawn_only(command);
    server.wait_for_line("training on");
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
}

// Waiting batches must not delay the exit until a service manager kills the server.
#[test]
fn waiting_batches_do_not_delay_a_stop() {
    let (mut server, batch) = with_long_batches();
    let waiting: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = server.connect();
            send_post(&mut stream, "/models/wide/predict", &batch).expect("the server reads");
            stream
        })
        .collect();
    server.post("/predict", READING).ok();
    server.signal("TERM");
    let start = Instant::now();
    assert_eq!(server.wait(), Some(0));
    let grace = iforest_server::server::GRACE_PERIOD;
    assert!(
        start.elapsed() < grace + Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    drop(waiting);
}
