//! Load and missing resources: memory, the log, sockets, and long batches.

use std::time::Duration;

use super::READING;
use crate::support::http::request;
use crate::support::server::Server;

// The largest retrain must fit a gateway. Beside the body a reading takes 8 bytes for its value,
// scaled in place, and 8 for either its target or its score. Sorted copies took three times that.
#[cfg(target_os = "linux")]
#[test]
fn a_large_retrain_takes_little_memory() {
    let server = Server::start(&[]);
    let readings = 5_000_000;
    let body = format!("{{\"samples\":[{}1]}}", "1,2,3,4,5,".repeat(readings / 5));
    server.post("/retrain", body).ok();
    let each = server.memory("VmHWM") / readings as u64;
    assert!(each < 27, "{each} bytes a reading");
}

// The log may be on a full disk, or go to a program that has exited.
#[cfg(target_os = "linux")]
#[test]
fn the_server_works_when_nothing_can_be_logged() {
    let start = || {
        // The log cannot show the port, so this takes one that was free a moment ago. Nothing
        // else in these tests listens on this address.
        let free = std::net::TcpListener::bind("127.0.0.2:0").expect("a free port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let mut command = std::process::Command::new(crate::support::server::BINARY);
        let full = std::fs::File::options().write(true).open("/dev/full");
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        command
            .args(["--host", &host, "--port", &port, "--store", "memory:"])
            .stderr(full.expect("Linux has /dev/full"));
        Server::spawn_unlogged(command, address.to_string())
    };
    let started = (0..5).find_map(|_| start());
    let mut server = started.expect("it starts although it cannot log");
    for (body, status) in [
        (r#"{"samples": []}"#, 422),
        (r#"{"samples": [1, 2, 3]}"#, 200),
        (r#"{"samples": [1, null]}"#, 422),
        (r#"{"samples": [1, 2, 3]}"#, 200),
    ] {
        let response = server.post("/retrain", body);
        assert_eq!(response.status, status, "{response:?}");
    }
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
}

// An operator finds in the log that clients wait because the system has no more sockets.
#[cfg(target_os = "linux")]
#[test]
fn the_log_says_when_connections_must_wait_for_file_descriptors() {
    let server = Server::start(&[]);
    // All its threads run by then.
    server.post("/predict", READING).ok();
    let files = std::fs::read_dir(format!("/proc/{}/fd", server.id())).expect("it runs");
    // So few that even those kept back for the store do not suffice.
    let files = files.count() + 2;
    drop(server);
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {files} && exec \"$0\" --port 0")])
        .arg(crate::support::server::BINARY)
        .env("IFOREST_HOST", "127.0.0.1")
        .env("IFOREST_STORE", "memory:");
    let server = Server::spawn(command);
    let open: Vec<_> = (0..files).map(|_| server.connect()).collect();
    server.wait_for_line("cannot accept connections");
    drop(open);
    server.post("/predict", READING).ok();
    let count = server.log().matches("cannot accept connections").count();
    assert_eq!(count, 1, "{}", server.log());
}

/// A server with a large model called `wide`, and a batch that keeps it busy for seconds.
pub(super) fn with_long_batches() -> (Server, String) {
    let server = Server::start(&["--random-state", "42"]);
    let rows = |count: usize| {
        let rows = (0..count).map(|i| format!("[{},{},{}]", i % 97, i % 89, i % 83));
        rows.collect::<Vec<_>>().join(",")
    };
    let body = format!(
        "{{\"samples\":[{}],\"n_estimators\":400,\"max_samples\":2500}}",
        rows(3000)
    );
    server.post("/models/wide/retrain", body).ok();
    (server, format!("{{\"values\":[{}]}}", rows(10_000)))
}

// Thousands of readings of several features in a large forest take seconds. Requests for one reading
// do not wait for them, whichever thread serves their connection.
#[test]
fn a_large_batch_does_not_delay_other_requests() {
    let (server, batch) = with_long_batches();
    let (sender, finished) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (address, batch, sender) = (&server.address, &batch, sender.clone());
            scope.spawn(move || {
                let response = request(address, "POST", "/models/wide/predict", batch);
                response.expect("a response").ok();
                let _ = sender.send(());
            });
        }
        // By then the batches have arrived and are far from complete.
        std::thread::sleep(Duration::from_millis(100));
        for _ in 0..8 {
            server.post("/predict", READING).ok();
        }
        assert!(finished.try_recv().is_err(), "the batches must take longer");
    });
}
