//! Loading models when they are first asked for, and unloading them within the memory limit.

use std::time::{Duration, Instant};

use iforest_server::detector::Detector;
use serde_json::{Value, json};

use crate::support::data::{encoded, fit, is_from, readings, samples};
use crate::support::folder::{Folder, version_path, write};
use crate::support::http::{Response, request};
use crate::support::object_store::ObjectStore;
use crate::support::server::Server;
use crate::support::wait_until;

const ROW: [f64; 1] = [6.5];

/// The smallest limit that the server takes. A quarter is for bodies, so models have 24 MiB.
const LIMIT: [&str; 2] = ["--memory-limit", "32MiB"];

/// Never polls, so that models are loaded for no other reason than a request.
const NO_POLLS: [&str; 2] = ["--refresh-interval", "0s"];

/// Ten models, each of about 200 KB in memory.
fn kinds() -> Vec<Detector> {
    (0..10)
        .map(|i| fit(100, readings(3000 + i, 500, 1)))
        .collect()
}

/// Stores `count` models `m.0000`, `m.0001` and so on; model `i` is of kind `i % 10`.
fn store(folder: &Folder, kinds: &[Detector], count: usize) {
    let files: Vec<_> = kinds.iter().map(|kind| encoded(kind.clone())).collect();
    for i in 0..count {
        write(&folder.version(&name(i), 1), &files[i % files.len()]);
    }
}

fn name(i: usize) -> String {
    format!("m.{i:04}")
}

/// The reading of a model in a request for many.
fn reading(model: &str) -> Value {
    json!({"model": model, "value": ROW[0]})
}

/// More models than fit into the limit, by a factor of about 3.
fn too_many(kinds: &[Detector]) -> usize {
    let mut kind = kinds[0].clone();
    kind.drop_trees();
    3 * (24 << 20) / kind.memory_size()
}

/// A server on more models than fit into its memory, once it has loaded as many as fit.
fn full_server(folder: &Folder) -> Server {
    let mut arguments = LIMIT.to_vec();
    arguments.extend(NO_POLLS);
    let server = Server::on(folder, &arguments);
    server.wait_for_line("are loaded when asked for");
    server
}

fn assert_code(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.json()["code"], code, "{response:?}");
}

// A plant with a model for each sensor is served again a moment after a restart.
#[test]
fn a_start_with_thousands_of_models_serves_any_of_them_at_once() {
    const MODELS: usize = 4000;
    let folder = Folder::new();
    let kinds = kinds();
    store(&folder, &kinds, MODELS);
    let start = Instant::now();
    let server = Server::on(&folder, &NO_POLLS);
    let listening = start.elapsed();
    let last = server.predict(&name(MODELS - 1), &ROW);
    println!(
        "{MODELS} models: listening after {listening:.1?}, the last one answers after {:.1?}",
        start.elapsed()
    );
    assert!(is_from(&last, &kinds[(MODELS - 1) % 10], &ROW));
    let list = server.get("/models").ok_json();
    let models = list["models"].as_array().expect("a list");
    assert_eq!(models.len(), MODELS + 1);
    assert!(models.iter().all(|model| model["samples_used"] == 500));
    assert!(models.is_sorted_by_key(|model| model["name"].to_string()));
    let log = server.log_when_loaded();
    let loaded = format!("loaded {MODELS} of {MODELS} stored models in ");
    assert!(log.contains(&loaded), "{log}");
}

// Memory stays within the limit however many models are stored, and no answer depends on it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn models_beyond_the_limit_are_unloaded_and_answer_all_the_same() {
    let folder = Folder::new();
    let kinds = kinds();
    let count = too_many(&kinds);
    store(&folder, &kinds, count);
    let server = full_server(&folder);
    let before = server.memory("RssAnon");
    let list = server.get("/models").ok();
    for round in 0..3 {
        for i in 0..count {
            // In another order each time.
            let i = (i * 7 + round) % count;
            let response = server.predict(&name(i), &ROW);
            assert!(is_from(&response, &kinds[i % 10], &ROW), "{response:?}");
        }
        let now = server.memory("RssAnon");
        println!("{count} models, round {round}: {before} bytes at first, now {now}");
        assert!(now < 48 << 20, "{now} bytes");
    }
    assert_eq!(server.get("/models").ok(), list);
    // One request may ask for more models than fit.
    let all: Vec<_> = (0..count).map(|i| reading(&name(i))).collect();
    let body = json!({ "readings": all }).to_string();
    let answers = server.post("/predict", body).ok_json();
    let answers = answers["predictions"].as_array().expect("a list");
    assert_eq!(answers.len(), count);
    for (i, answer) in answers.iter().enumerate() {
        let score = kinds[i % 10].predict(ROW[0]).expect("finite").anomaly_score;
        assert_eq!(answer["model"], name(i));
        assert_eq!(answer["anomaly_score"], score, "{answer}");
    }
    // A model that was unloaded keeps its settings for its next training.
    let settings = json!({"samples": samples(&readings(1, 50, 1)), "contamination": 0.2});
    let path = |model: &str| format!("/models/{model}/retrain");
    server.post(&path("own"), settings.to_string()).ok();
    for i in 0..count {
        server.predict(&name(i), &ROW).ok();
    }
    server.retrain("own", &readings(2, 60, 1)).ok();
    let own = server.model("own").ok_json();
    assert_eq!(
        (&own["contamination"], &own["version"]),
        (&json!(0.2), &json!(2))
    );
}

// The models that are asked for stay in memory, and answer while the store fails. The others need
// the store; a client learns that it failed, and that the model still exists.
#[cfg(unix)]
#[test]
fn while_the_store_fails_models_in_use_answer_and_the_others_are_refused() {
    let folder = Folder::new();
    let kinds = kinds();
    let count = too_many(&kinds);
    store(&folder, &kinds, count);
    let mut arguments = LIMIT.to_vec();
    arguments.extend(["--refresh-interval", "50ms"]);
    let server = Server::on(&folder, &arguments);
    server.wait_for_line("are loaded when asked for");
    wait_until("it has announced itself", || {
        folder.path().join("changed").exists()
    });
    let in_use = name(count - 1);
    for i in 0..count {
        server.predict(&name(i), &ROW).ok();
        server.predict(&in_use, &ROW).ok();
    }
    let list = server.get("/models").ok();
    std::fs::rename(folder.path(), folder.away()).expect("the folder can be moved");
    let unloaded = name(0);
    for _ in 0..2 {
        assert!(is_from(
            &server.predict(&in_use, &ROW),
            &kinds[(count - 1) % 10],
            &ROW
        ));
        server.post("/predict", r#"{"value": 2.5}"#).ok();
        assert_eq!(server.get("/models").ok(), list);
        assert_code(&server.predict(&unloaded, &ROW), 503, "store_failed");
        assert_code(&server.model(&unloaded), 503, "store_failed");
        assert_code(
            &server.retrain(&unloaded, &readings(1, 50, 1)),
            503,
            "store_failed",
        );
        assert_code(&server.predict("none", &ROW), 404, "no_model");
        let many = [&unloaded, &in_use, "none"].map(reading);
        let many = json!({ "readings": many }).to_string();
        let many = server.post("/predict", many).ok_json();
        assert_eq!(many["predictions"][0]["code"], "store_failed", "{many}");
        assert!(many["predictions"][1]["anomaly_score"].is_f64(), "{many}");
        assert_eq!(many["predictions"][2]["code"], "no_model", "{many}");
    }
    std::fs::rename(folder.away(), folder.path()).expect("the folder can be moved");
    assert!(is_from(&server.predict(&unloaded, &ROW), &kinds[0], &ROW));
}

// Damage that is found only when the model is first asked for is handled as at a start: the version
// before is served, and the log names the file.
#[test]
fn a_model_found_damaged_when_first_asked_for_falls_back_a_version() {
    let folder = Folder::new();
    let kinds = kinds();
    let count = too_many(&kinds);
    store(&folder, &kinds, count);
    let (old, new) = (&kinds[0], encoded(kinds[1].clone()));
    let mut damaged = new.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let newer = [b"iforest-server model 999", &new[22..]].concat();
    for (model, file) in [
        ("z.damaged", &damaged),
        ("z.lost", &damaged),
        ("z.newer", &newer),
    ] {
        write(&folder.version(model, 2), file);
    }
    for model in ["z.damaged", "z.newer"] {
        write(&folder.version(model, 1), &encoded(old.clone()));
    }
    let server = full_server(&folder);
    let response = server.predict("z.damaged", &ROW);
    assert!(is_from(&response, old, &ROW), "{response:?}");
    let line = server.wait_for_line(&version_path("set-aside", "z.damaged", 2));
    assert!(line.contains("cannot be served"), "{line}");
    assert_eq!(server.model("z.damaged").version(), Some(1));
    assert_code(&server.predict("z.lost", &ROW), 404, "no_model");
    server.wait_for_line("none of the stored versions can be served");
    let list = server.get("/models").ok();
    assert!(
        list.contains("z.damaged") && !list.contains("z.lost"),
        "{list}"
    );
    // The checksum of the last is not right either, so it is damaged rather than newer.
    let response = server.predict("z.newer", &ROW);
    assert!(is_from(&response, old, &ROW), "{response:?}");
}

// Who reads the log later must see what was replaced, also where nobody had asked for the model
// since the start.
#[test]
fn audit_lines_name_the_version_before_of_models_that_are_not_in_memory() {
    let folder = Folder::new();
    let kinds = kinds();
    store(&folder, &kinds, too_many(&kinds));
    for model in [
        "default",
        "z.deleted",
        "z.refused",
        "z.restored",
        "z.trained",
    ] {
        for version in [1, 2] {
            write(&folder.version(model, version), &encoded(kinds[0].clone()));
        }
    }
    let server = full_server(&folder);
    let samples = r#"{"samples": [1, 2, 3, 4]}"#;
    for (method, path, body, line) in [
        (
            "DELETE",
            "/models/z.deleted",
            "",
            [
                "deletion model=z.deleted",
                "before=2 after=none outcome=done",
            ],
        ),
        (
            "POST",
            "/models/z.refused/retrain",
            r#"{"samples": []}"#,
            [
                "retrain model=z.refused",
                "before=2 after=2 outcome=refused",
            ],
        ),
        (
            "POST",
            "/models/z.restored/rollback",
            "",
            ["rollback model=z.restored", "before=2 after=3 outcome=done"],
        ),
        (
            "POST",
            "/models/z.trained/retrain",
            samples,
            ["retrain model=z.trained", "before=2 after=3 outcome=done"],
        ),
        (
            "POST",
            "/retrain",
            samples,
            ["retrain model=default", "before=2 after=3 outcome=done"],
        ),
    ] {
        request(&server.address, method, path, body).expect("a response");
        let found = server.wait_for_line(" audit ");
        assert!(line.iter().all(|part| found.contains(part)), "{found}");
    }
}

// Requests for one model at the same time read it once.
#[test]
fn many_requests_for_a_model_that_is_not_in_memory_wait_for_one_load() {
    let folder = Folder::new();
    let kinds = kinds();
    let count = too_many(&kinds);
    store(&folder, &kinds, count);
    let server = full_server(&folder);
    for i in 0..20 {
        // Not in memory: all others were asked for since.
        let (model, kind) = (name(i), &kinds[i % 10]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let response = server_predict(&server.address, &model);
                    assert!(is_from(&response, kind, &ROW), "{response:?}");
                });
            }
        });
    }
}

fn server_predict(address: &str, model: &str) -> Response {
    let body = json!({ "value": ROW }).to_string();
    request(address, "POST", &format!("/models/{model}/predict"), body).expect("a response")
}

/// Waits for the end after SIGTERM, which must come soon and with exit code 0.
#[cfg(unix)]
fn assert_stops(mut server: Server, when: &str) {
    let start = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0), "{when}");
    let took = start.elapsed();
    println!("{when}: stopped after {took:.1?}");
    assert!(took < Duration::from_secs(10), "{when}: {took:?}");
}

// A service manager kills a service that does not stop when told.
#[cfg(unix)]
#[test]
fn sigterm_is_heard_while_models_are_listed_and_loaded() {
    let folder = Folder::new();
    store(&folder, &kinds(), 4000);
    let server = Server::spawn_only(Server::command_on(&folder, &NO_POLLS));
    server.wait_for_line("models are kept in");
    assert_stops(server, "while models are listed");
    let server = Server::on(&folder, &NO_POLLS);
    assert!(
        !server.log().contains(" stored models in "),
        "{}",
        server.log()
    );
    assert_stops(server, "while models are loaded");
}

#[cfg(unix)]
#[test]
fn sigterm_is_heard_while_a_store_does_not_answer() {
    let folder = Folder::new();
    let bucket = ObjectStore::start(&folder, 0);
    bucket
        .hangs
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let server = Server::spawn_only(bucket.command(&[]));
    server.wait_for_line("models are kept in");
    std::thread::sleep(Duration::from_millis(200));
    assert_stops(server, "while the store does not answer");
}
