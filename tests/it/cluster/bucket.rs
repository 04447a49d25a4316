//! Several servers on one bucket of an object store.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    COMMON, ROW, TREES, assert_stored, change_among_models_that_are_not_announced,
    change_while_clients_predict, retrain_at_once,
};
use crate::support::data::{encoded, fit, is_from, readings, samples};
use crate::support::folder::{Folder, version_path, write};
use crate::support::http::request;
use crate::support::object_store::{ObjectStore, command_for};
use crate::support::server::Server;

fn server_on(bucket: &ObjectStore, options: &[&str]) -> Server {
    let mut command = bucket.command(&COMMON);
    command.args(options);
    Server::spawn(command)
}

/// Asserts that retrains are refused, soon enough, because the store failed.
fn assert_store_failed(server: &Server, reason: &str) {
    let start = Instant::now();
    for (model, features) in [("motor", 2), ("default", 1), ("new", 2)] {
        let start = Instant::now();
        let answer = server.retrain(model, &readings(42, 60, features));
        let took = start.elapsed();
        assert_eq!(answer.status, 503, "{answer:?}");
        let error = answer.json()["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        println!("{model}: refused after {took:.1?}: {error}");
        assert!(
            error.contains("the store failed, and what is served is as it was"),
            "{error}"
        );
        assert!(error.contains(reason), "{error}");
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(90), "{took:?}");
}

/// Runs a server that must not start and returns its output.
fn failed_start(mut command: Command) -> String {
    let output = command.output().expect("the program starts");
    let log = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{log}");
    log.into_owned()
}

/// The first line of a log with an error.
fn error_line(log: &str) -> &str {
    let line = log.lines().find(|line| line.contains("ERROR"));
    let line = line.unwrap_or_else(|| panic!("the log has no error:\n{log}"));
    println!("{line}");
    line
}

// Servers in different places share a bucket as others share a folder.
#[test]
fn a_change_at_one_server_of_a_bucket_reaches_the_other_and_the_next_start() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let options = ["--refresh-interval", "200ms"];
    let servers = [server_on(&bucket, &options), server_on(&bucket, &options)];
    change_while_clients_predict("bucket", [&servers[0], &servers[1]]);
    let seen = |server: &Server| {
        let mut seen = vec![server.get("/models").ok()];
        for model in ["default", "steady", "changing"] {
            seen.push(server.model(model).ok());
            let row = if model == "default" { &ROW[..1] } else { &ROW };
            seen.push(server.predict(model, row).ok());
        }
        seen
    };
    let before = seen(&servers[0]);
    assert_eq!(seen(&servers[1]), before);
    drop(servers);
    assert_eq!(seen(&server_on(&bucket, &[])), before);
}

#[test]
fn a_change_in_a_bucket_is_taken_over_without_listing_all_models() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let options = ["--refresh-interval", "200ms"];
    let servers = [server_on(&bucket, &options), server_on(&bucket, &options)];
    let store = ObjectStore::folder(&folder);
    change_among_models_that_are_not_announced([&servers[0], &servers[1]], &store);
}

// Neither server knows that the other trained the model too. The store must refuse the version
// that exists.
#[test]
fn two_servers_of_a_bucket_that_do_not_follow_each_other_lose_nothing() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let options = ["--refresh-interval", "0s", "--keep-versions", "1000"];
    let servers = [server_on(&bucket, &options), server_on(&bucket, &options)];
    let (first, second) = (readings(31, 50, 1), readings(32, 60, 1));
    let versions = [
        servers[0].retrain("default", &first).version(),
        servers[1].retrain("default", &second).version(),
    ];
    assert_eq!(versions, [Some(1), Some(2)]);
    // A retrain builds on the version that the other server stored, not on the one served here.
    let body = r#"{"samples": [1, 2, 3, 4], "contamination": 0.25}"#;
    let trained = servers[0].post("/models/shared/retrain", body);
    assert_eq!(trained.version(), Some(1), "{trained:?}");
    let trained = servers[1].post("/models/shared/retrain", r#"{"samples": [1, 2, 3]}"#);
    assert_eq!(trained.version(), Some(2), "{trained:?}");
    assert_eq!(servers[1].model("shared").json()["contamination"], 0.25);
    let back = servers[0].post("/models/shared/rollback", "");
    assert_eq!(back.json()["restored_from"], 1, "{back:?}");
    // Each still serves its own. The store has both, and the next start serves the later one.
    let row = [1.5];
    let detectors = [fit(TREES, first), fit(TREES, second)];
    for (server, detector) in servers.iter().zip(&detectors) {
        assert!(is_from(&server.predict("default", &row), detector, &row));
    }
    let third = server_on(&bucket, &options);
    assert_eq!(third.model("default").version(), Some(2));
    assert!(is_from(
        &third.predict("default", &row),
        &detectors[1],
        &row
    ));
    third
        .post("/models/default/rollback", r#"{"version": 1}"#)
        .ok();
    assert!(is_from(
        &third.predict("default", &row),
        &detectors[0],
        &row
    ));
    drop(third);
    drop(servers);

    let options = ["--refresh-interval", "200ms", "--keep-versions", "1000"];
    let servers = [server_on(&bucket, &options), server_on(&bucket, &options)];
    let by_version = retrain_at_once([&servers[0], &servers[1]], 4, 10);
    assert_stored(&ObjectStore::folder(&folder), &by_version);
}

// The network or the object store fails for a while. Predictions go on, no training is
// acknowledged that was not stored, and nobody has to restart anything afterwards.
#[test]
fn an_unreachable_bucket_refuses_retrains_and_the_server_recovers() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let server = server_on(&bucket, &["--refresh-interval", "200ms"]);
    server.retrain("motor", &readings(41, 50, 2)).ok();
    let seen = || {
        let motor = server.predict("motor", &ROW).ok();
        (server.get("/models").ok(), motor)
    };
    let before = seen();
    let port = bucket.stop();
    assert_store_failed(&server, "Connection refused");
    assert_eq!(seen(), before);
    server.wait_for_line("cannot poll the store for changes");
    // A server that starts now has no models and must not listen.
    let start = Instant::now();
    let log = failed_start(command_for(port, &COMMON));
    println!("the start failed after {:.1?}", start.elapsed());
    let line = error_line(&log);
    assert!(line.contains("the store cannot be used"), "{line}");
    assert!(
        !log.contains("panicked") && !log.contains("listening"),
        "{log}"
    );

    let bucket = ObjectStore::start(&folder, port);
    for (model, version) in [("motor", 2), ("new", 1)] {
        let answer = server.retrain(model, &readings(42, 60, 2));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.version(), Some(version));
    }
    server.wait_for_line("the store answers again");
    let other = server_on(&bucket, &[]);
    assert_eq!(
        other.get("/models").json()["models"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
    assert_eq!(other.predict("motor", &ROW), server.predict("motor", &ROW));
}

// The object store accepts connections and never responds. A retrain must get an answer all the
// same.
#[test]
fn a_bucket_that_does_not_respond_refuses_retrains_in_bounded_time() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let server = server_on(&bucket, &["--refresh-interval", "200ms"]);
    server.retrain("motor", &readings(51, 50, 2)).ok();
    let before = server.predict("motor", &ROW).ok();
    // This is refused only after all work of the change before is complete, so that the store is
    // idle from here on.
    let refused = server.post("/models/motor/rollback", r#"{"version": 9}"#);
    assert_eq!(refused.status, 404, "{refused:?}");
    bucket.hangs.store(true, Ordering::Relaxed);
    let address = &server.address;
    std::thread::scope(|scope| {
        let path = "/models/motor/retrain";
        let body = json!({ "samples": samples(&readings(52, 60, 2)) }).to_string();
        let retrain = scope.spawn(move || {
            let start = Instant::now();
            (request(address, "POST", path, &body), start.elapsed())
        });
        while !retrain.is_finished() {
            let answer = server.predict("motor", &ROW).ok();
            // Until the retrain is answered, the model is the one from before.
            assert_eq!(answer, before);
            std::thread::sleep(Duration::from_millis(20));
        }
        let (answer, took) = retrain.join().expect("no panic");
        let answer = answer.expect("a response");
        println!("refused after {took:.1?}: {}", answer.body.trim_end());
        assert_eq!(answer.status, 503, "{answer:?}");
    });
    bucket.hangs.store(false, Ordering::Relaxed);
    let answer = server.retrain("motor", &readings(53, 70, 2));
    assert_eq!(answer.status, 200, "{answer:?}");
}

// A wrong key is found at the start, not at the first retrain.
#[test]
fn a_wrong_key_stops_the_start_with_a_line_that_says_why() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let mut command = bucket.command(&COMMON);
    command.env("AWS_SECRET_ACCESS_KEY", "wrong");
    let log = failed_start(command);
    let line = error_line(&log);
    assert!(line.contains("SignatureDoesNotMatch"), "{line}");
}

// Objects can be damaged as files can, for example by a copy from one bucket to another.
#[test]
fn a_damaged_object_is_set_aside_and_the_older_version_is_served() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    let site = ObjectStore::folder(&folder);
    let old = fit(TREES, readings(61, 50, 2));
    let damaged = &encoded(fit(TREES, readings(62, 50, 2)))[1..];
    let path = |kind, version| site.join(version_path(kind, "motor", version));
    write(&path("models", 1), &encoded(old.clone()));
    write(&path("models", 2), damaged);
    let server = server_on(&bucket, &[]);
    let log = server.log_when_loaded();
    let named = version_path("models", "motor", 2);
    let line = log.lines().find(|line| line.contains(&named));
    let line = line.unwrap_or_else(|| panic!("the log does not name {named}:\n{log}"));
    assert!(line.contains("cannot be served"), "{line}");
    assert_eq!(server.model("motor").version(), Some(1));
    assert!(is_from(&server.predict("motor", &ROW), &old, &ROW));
    assert!(!path("models", 2).exists());
    let aside = std::fs::read(path("set-aside", 2)).expect("set aside");
    assert_eq!(aside, damaged);
    let answer = server.retrain("motor", &readings(63, 50, 2));
    assert_eq!(answer.version(), Some(2), "{answer:?}");
}
