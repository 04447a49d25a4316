//! What the server does without space, rights or a folder, and how much memory models take.

#[cfg(target_os = "linux")]
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process::Command;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use serde_json::json;

#[cfg(target_os = "linux")]
use crate::support::data::samples;
use crate::support::data::{encoded, fit, is_from, readings};
use crate::support::folder::{Folder, write};
#[cfg(unix)]
use crate::support::http::Response;
use crate::support::server::Server;
#[cfg(unix)]
use crate::support::tools::available;
#[cfg(target_os = "linux")]
use crate::support::tools::in_mount_namespace;
#[cfg(unix)]
use crate::support::wait_until;

/// Asserts that a change was refused because the store failed, for one of these reasons.
#[cfg(unix)]
fn assert_refused(answer: &Response, reasons: &[&str]) {
    assert_eq!(answer.status, 503, "{answer:?}");
    let error = answer.json()["error"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    println!("{error}");
    assert!(error.contains("as it was"), "{error}");
    assert!(
        reasons.iter().any(|reason| error.contains(reason)),
        "{error}"
    );
}

// The quota is reached in the middle of a file. The part that was written must be removed, and
// once there is space the same request must succeed.
#[cfg(target_os = "linux")]
#[test]
fn a_retrain_over_the_quota_is_refused_and_changes_nothing() {
    if !available("prlimit", &["--version"]) {
        return;
    }
    let folder = Folder::new();
    let program = Server::command_on(&folder, &[]);
    // In blocks of 512 bytes. Without the signal, a write beyond the limit fails with an error.
    let mut limited = Command::new("sh");
    limited
        .args(["-c", r#"trap "" XFSZ; ulimit -S -f 40; exec "$0" "$@""#])
        .arg(program.get_program())
        .args(program.get_args());
    let server = Server::spawn(limited);
    let small = r#"{"n_estimators": 5, "samples": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}"#;
    server.post("/models/motor/retrain", small).ok();
    let before = (server.get("/models").ok(), server.predictions("motor", 1));
    let files = folder.files("motor");
    let large = json!({ "n_estimators": 200, "samples": samples(&readings(31, 500, 1)) });
    let large = large.to_string();
    for model in ["motor", "default", "new"] {
        let answer = server.post(&format!("/models/{model}/retrain"), &large);
        assert_refused(&answer, &["File too large"]);
        assert_eq!(server.get("/models").ok(), before.0);
        assert_eq!(server.predictions("motor", 1), before.1);
    }
    assert_eq!(folder.files("motor"), files);
    assert!(folder.files("default").is_empty() && folder.files("new").is_empty());
    assert_eq!(server.model("new").status, 404);
    let log = server.log();
    let line = log.lines().find(|line| line.contains("outcome=refused"));
    assert!(
        line.is_some_and(|line| line.contains("the store failed")),
        "{log}"
    );

    // A second server on the same store serves nothing half-written.
    let other = Server::on(&folder, &[]);
    assert_eq!(other.predictions("motor", 1), before.1);
    assert_eq!(other.model("new").status, 404);
    drop(other);

    let id = server.id().to_string();
    let lifted = Command::new("prlimit")
        .args(["--pid", &id, "--fsize=unlimited:"])
        .status();
    assert!(lifted.expect("prlimit runs").success());
    for (model, version) in [("motor", 2), ("default", 1), ("new", 1)] {
        let answer = server.post(&format!("/models/{model}/retrain"), &large);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.version(), Some(version));
    }
}

/// A server whose store is a file system of 1 MiB, and the path of that file system.
#[cfg(target_os = "linux")]
fn on_small_disk(folder: &Folder, more: &[&str]) -> Option<(Server, PathBuf)> {
    let mount = r#"mount -t tmpfs -o size=1m tmpfs "$0""#;
    let server = Server::spawn(in_mount_namespace(
        mount,
        folder,
        &Server::command_on(folder, more),
    )?);
    let root = PathBuf::from(format!("/proc/{}/root", server.id()));
    let disk = root.join(folder.path().strip_prefix("/").expect("absolute"));
    Some((server, disk))
}

/// Fills a file system to the last byte with one file and returns its path.
#[cfg(target_os = "linux")]
fn fill(disk: &Path) -> PathBuf {
    let ballast = disk.join("ballast");
    let mut file = std::fs::File::create(&ballast).expect("a file");
    let full = loop {
        if let Err(error) = std::io::Write::write_all(&mut file, &[1; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    ballast
}

#[cfg(target_os = "linux")]
#[test]
fn a_retrain_on_a_full_disk_is_refused_until_there_is_space() {
    let folder = Folder::new();
    let Some((server, disk)) = on_small_disk(&folder, &["--refresh-interval", "100ms"]) else {
        return;
    };
    wait_until("the server announces itself", || {
        disk.join("changed").exists()
    });
    server.retrain("motor", &readings(41, 50, 2)).ok();
    let before = (server.get("/models").ok(), server.predictions("motor", 2));
    let ballast = fill(&disk);
    for model in ["motor", "default", "new"] {
        let features = if model == "default" { 1 } else { 2 };
        let answer = server.retrain(model, &readings(42, 500, features));
        assert_refused(&answer, &["No space left on device"]);
        assert_eq!(server.get("/models").ok(), before.0);
        assert_eq!(server.predictions("motor", 2), before.1);
    }
    let motor = disk.join("models/motor");
    let files = std::fs::read_dir(&motor).expect("a folder").count();
    assert_eq!(files, 1, "the partly written file is removed");

    std::fs::remove_file(ballast).expect("the file exists");
    for (model, version) in [("motor", 2), ("new", 1)] {
        let answer = server.retrain(model, &readings(42, 500, 2));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.version(), Some(version));
    }
    assert_ne!(server.predictions("motor", 2), before.1);
}

// The disk has room for one more version and nothing else. If the old version stayed because
// another write failed, no later retrain would find room.
#[cfg(target_os = "linux")]
#[test]
fn old_versions_are_removed_even_when_nothing_else_can_be_written() {
    let folder = Folder::new();
    // Only retrains write.
    let options = ["--keep-versions", "1", "--refresh-interval", "0s"];
    let Some((server, disk)) = on_small_disk(&folder, &options) else {
        return;
    };
    let motor = disk.join("models/motor");
    let file = |version| motor.join(format!("{version:010}.iforest"));
    let data = readings(43, 500, 2);
    server.retrain("motor", &data).ok();
    let size = std::fs::metadata(file(1)).expect("stored").len();
    // The announcement is written after the response.
    wait_until("the change is announced", || disk.join("changed").exists());
    wait_until("the announcement is written", || {
        !disk.join("changed#1").exists()
    });
    let ballast = fill(&disk);
    let ballast = std::fs::File::options().write(true).open(ballast);
    let ballast = ballast.expect("the file exists");
    let length = ballast.metadata().expect("a file").len();
    // Free as many whole blocks as the next version takes.
    let block = std::os::unix::fs::MetadataExt::blksize(&ballast.metadata().expect("a file"));
    ballast
        .set_len(length - size.div_ceil(block) * block)
        .expect("shorter");
    for version in 2..5 {
        let answer = server.retrain("motor", &data);
        assert_eq!(answer.version(), Some(version), "{answer:?}");
        wait_until("the old version is removed", || !file(version - 1).exists());
    }
}

// Somebody makes the folder read-only, or puts a file in its place. The models in memory are still
// served.
#[cfg(unix)]
#[test]
fn a_read_only_or_replaced_folder_refuses_retrains_and_predictions_go_on() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new();
    let program = Server::command_on(&folder, &["--refresh-interval", "50ms"]);
    let motor = folder.path().join("models/motor");
    std::fs::create_dir_all(&motor).expect("the folder can be created");
    let allow = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&motor, permissions).expect("the folder is ours");
    };
    allow(0o500);
    let is_root = std::fs::write(motor.join("probe"), "").is_ok();
    allow(0o700);
    // Permissions do not bind root, except in a user namespace that maps no users.
    let in_namespace = is_root && available("unshare", &["-U", "true"]);
    let server = Server::spawn(if in_namespace {
        std::fs::remove_file(motor.join("probe")).expect("just written");
        let mut command = Command::new("unshare");
        command.arg("-U").arg(program.get_program());
        command.args(program.get_args());
        command
    } else {
        program
    });
    server.retrain("motor", &readings(51, 50, 2)).ok();
    let unchanged = (server.get("/models").ok(), server.predictions("motor", 2));
    let assert_unchanged = |refused: &Response, reasons: &[&str]| {
        assert_refused(refused, reasons);
        // The server polls the store several times meanwhile.
        std::thread::sleep(Duration::from_millis(500));
        let now = (server.get("/models").ok(), server.predictions("motor", 2));
        assert_eq!(now, unchanged);
    };
    let data = readings(52, 60, 2);

    if !is_root || in_namespace {
        allow(0o500);
        assert_unchanged(&server.retrain("motor", &data), &["Permission denied"]);
        allow(0o700);
    }

    let away = folder.away();
    std::fs::rename(folder.path(), &away).expect("the folder can be moved");
    std::fs::write(folder.path(), "not a folder").expect("the file can be written");
    assert_unchanged(&server.retrain("motor", &data), &["Not a directory"]);

    std::fs::remove_file(folder.path()).expect("the file exists");
    std::fs::rename(&away, folder.path()).expect("the folder can be moved");
    let answer = server.retrain("motor", &data);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.version(), Some(2));
    drop(server);
    assert_eq!(Server::on(&folder, &[]).model("motor").version(), Some(2));
}

// An unmounted disk leaves an empty folder in its place. That must not count as a deletion of all
// models, and what is written there would be lost once the disk is back, so a change must not be
// acknowledged.
#[cfg(unix)]
#[test]
fn an_unmounted_folder_removes_no_models_and_accepts_no_new_ones() {
    let folder = Folder::new();
    let server = Server::on(&folder, &["--refresh-interval", "50ms"]);
    server.retrain("motor", &readings(61, 50, 2)).ok();
    server.retrain("pump", &readings(62, 50, 2)).ok();
    wait_until("the server announces itself", || {
        folder.path().join("changed").exists()
    });
    // After that it writes nothing on its own.
    std::thread::sleep(Duration::from_secs(1));
    let now = || (server.get("/models").ok(), server.predictions("motor", 2));
    let before = now();
    std::fs::rename(folder.path(), folder.away()).expect("the folder can be moved");
    for empty in [false, true] {
        if empty {
            std::fs::create_dir(folder.path()).expect("the folder can be created");
        }
        for model in ["motor", "default", "new"] {
            let features = if model == "default" { 1 } else { 2 };
            let answer = server.retrain(model, &readings(63, 60, features));
            assert_refused(&answer, &["is the store still at this location?"]);
        }
        assert_eq!(server.post("/models/motor/rollback", "").status, 503);
        assert_eq!(server.delete("/models/pump").status, 503);
        // More than the 64 intervals after which the server lists the whole store.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2500) {
            assert_eq!(now(), before);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    std::fs::remove_dir(folder.path()).expect("nothing was written there");
    std::fs::rename(folder.away(), folder.path()).expect("the folder can be moved");
    let answer = server.retrain("motor", &readings(63, 60, 2));
    assert_eq!(answer.version(), Some(2), "{answer:?}");
    server.delete("/models/pump").ok();
}

// A site may have a model for each of its sensors.
#[test]
fn ten_thousand_models_load_in_seconds_and_the_log_says_so() {
    const MODELS: u64 = 10_000;
    let folder = Folder::new();
    let data = |i: u64| readings(1000 + i, 20 + i as usize % 50, 1);
    for i in 0..MODELS {
        let bytes = encoded(fit(3, data(i)));
        write(&folder.version(&format!("sensor.{i}"), 1), &bytes);
    }
    let began = Instant::now();
    let server = Server::on(&folder, &["--refresh-interval", "0s"]);
    println!("{MODELS} models: listening after {:.1?}", began.elapsed());
    let loaded = format!("loaded {MODELS} of {MODELS} stored models in ");
    println!("{}", server.wait_for_line(&loaded));
    if began.elapsed() > Duration::from_secs(20) {
        let log = server.log();
        assert!(log.contains("loading models: "), "{log}");
    }
    let list = server.get("/models").json();
    let models = list["models"].as_array().expect("a list");
    // With default.
    assert_eq!(models.len() as u64, MODELS + 1);
    for model in models {
        let name = model["name"].as_str().expect("a name");
        if let Some(number) = name.strip_prefix("sensor.") {
            let number: u64 = number.parse().expect("a number");
            assert_eq!(model["samples_used"], 20 + number % 50, "{name}");
        }
    }
    for i in (0..MODELS).step_by(499) {
        let name = format!("sensor.{i}");
        let data = data(i);
        let row = [data[(0, 0)]];
        let answer = server.predict(&name, &row);
        assert!(is_from(&answer, &fit(3, data), &row), "{name}: {answer:?}");
    }
}

// The bounds are a quarter above the measured values.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_model_takes_no_more_memory_than_documented() {
    let base = {
        let folder = Folder::new();
        Server::on(&folder, &[]).memory("VmRSS")
    };
    for (models, features, bound) in [(500, 1, 220_000), (100, 5, 700_000)] {
        let folder = Folder::new();
        let files: Vec<Vec<u8>> = (0..10)
            .map(|i| encoded(fit(100, readings(2000 + i, 500, features))))
            .collect();
        for i in 0..models {
            let bytes = &files[i as usize % files.len()];
            write(&folder.version(&format!("sensor.{i}"), 1), bytes);
        }
        let server = Server::on(&folder, &[]);
        println!("{}", server.wait_for_line("loaded "));
        let per_model = server.memory("VmRSS").saturating_sub(base) / models;
        // The memory limit counts on what the models say of themselves.
        let mut detector = fit(100, readings(2000, 500, features));
        detector.drop_trees();
        let size = detector.memory_size() as f64;
        let ratio = per_model as f64 / size;
        println!("{size} bytes by its own account, a ratio of {ratio:.2}");
        assert!((0.75..1.25).contains(&ratio), "{ratio}");
        println!(
            "{models} models of {features} features: each takes {per_model} bytes of memory, {} on disk",
            files.iter().map(Vec::len).sum::<usize>() / files.len()
        );
        assert!(per_model < bound, "{per_model} bytes");
    }
}
