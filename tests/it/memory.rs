//! The memory limit: trainings that do not fit are refused, and nothing aborts the server.

use serde_json::json;

use crate::support::data::{readings, samples};
use crate::support::http::request;
use crate::support::server::Server;

const SMALL: &str = r#"{"samples": [1, 2, 3, 4, 5, 6, 7, 8]}"#;

// What can never fit is refused at once and for good: a client must not try again.
#[test]
fn a_training_that_can_never_fit_is_refused() {
    let server = Server::start(&["--memory-limit", "32MiB"]);
    // Readings of 16 bytes each with their share of the fit, in 24 MiB.
    let body = format!("{{\"samples\":[{}1]}}", "1,2,3,4,5,".repeat(400_000));
    for path in ["/retrain", "/models/motor/retrain"] {
        let response = server.post(path, &body);
        assert_eq!(response.status, 422, "{response:?}");
        assert_eq!(response.json()["code"], "too_large");
        assert!(response.error().contains("--memory-limit"), "{response:?}");
        server.post(path, SMALL).ok();
    }
    // A small body may ask for a large forest.
    let large = json!({
        "samples": samples(&readings(1, 300, 2)), "n_estimators": 2000, "max_samples": 300
    });
    let response = server.post("/models/fan/retrain", large.to_string());
    assert_eq!(response.status, 422, "{response:?}");
    assert_eq!(response.json()["code"], "too_large");
}

// Small bodies that ask for large forests aborted a server that kept all of them in memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_flood_of_large_models_neither_aborts_the_server_nor_delays_honest_requests() {
    const MODELS: usize = 16;
    let mut command = std::process::Command::new("sh");
    command
        .args([
            "-c",
            r#"ulimit -v 1500000 && exec "$0" --port 0 --memory-limit 400MiB"#,
        ])
        .arg(crate::support::server::BINARY)
        .env("IFOREST_HOST", "127.0.0.1")
        .env("IFOREST_STORE", "memory:");
    let server = Server::spawn(command);
    // Padded, each of these trees takes 16 KiB, and the model 33 MB.
    let large = json!({
        "samples": samples(&readings(1, 400, 2)), "n_estimators": 2000, "max_samples": 400
    });
    let large = large.to_string();
    let address = &server.address;
    std::thread::scope(|scope| {
        let retrains: Vec<_> = (0..MODELS)
            .map(|i| {
                let path = format!("/models/large-{i}/retrain");
                let large = &large;
                scope.spawn(move || request(address, "POST", &path, large).expect("a response"))
            })
            .collect();
        for retrain in retrains {
            server.post("/predict", r#"{"value": 2.5}"#).ok();
            let response = retrain.join().expect("no panic");
            assert!(
                [200, 503].contains(&response.status.as_u16()),
                "{response:?}"
            );
        }
    });
    let mut answers = std::collections::BTreeSet::new();
    for i in 0..MODELS {
        let path = format!("/models/large-{i}/predict");
        let response = server.post(&path, r#"{"value": [2.5, 2.5]}"#);
        assert!(
            [200, 404].contains(&response.status.as_u16()),
            "{response:?}"
        );
        answers.insert(response.status.as_u16());
    }
    println!(
        "answers {answers:?}, {} bytes held",
        server.memory("RssAnon")
    );
    assert!(answers.contains(&200));
    server.post("/models/motor/retrain", SMALL).ok();
}
