//! Stores of each release, which every later one serves with the same answers; and the subcommand
//! `store verify`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::folder::{Folder, write};
use crate::support::server::{BINARY, Server};

/// The folders that `tests/reference/record_store.py` wrote, one for each release.
fn recorded() -> Vec<PathBuf> {
    let stores = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores");
    let entries = std::fs::read_dir(stores).expect("fixtures");
    let mut folders: Vec<_> = entries
        .map(|entry| entry.expect("a folder").path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 2, "{folders:?}");
    folders
}

/// A copy of a store.
fn copy(store: &Path) -> Folder {
    fn copy_into(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).expect("a folder") {
            let (from, name) = entry.map(|e| (e.path(), e.file_name())).expect("an entry");
            let to = to.join(name);
            if from.is_dir() {
                copy_into(&from, &to);
            } else {
                write(&to, &std::fs::read(&from).expect("a file"));
            }
        }
    }
    let folder = Folder::new();
    copy_into(store, folder.path());
    folder
}

fn verify(store: &Folder) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["store", "verify", "--store", store.text()]);
    command.output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn the_store_of_each_release_is_served_with_the_same_answers() {
    for folder in recorded() {
        let store = copy(&folder.join("store"));
        let output = verify(&store);
        let (lines, log) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{lines}{log}");
        assert!(lines.ends_with(" can be served, 0 cannot\n"), "{lines}");
        let server = Server::on(&store, &[]);
        let answers = std::fs::read(folder.join("answers.json")).expect("a fixture");
        let answers: Vec<Value> = serde_json::from_slice(&answers).expect("JSON");
        assert!(answers.len() >= 9);
        for answer in answers {
            let path = answer["path"].as_str().expect("a path");
            let got = match answer.get("body") {
                Some(body) => server.post(path, body.to_string()).ok(),
                None => server.get(path).ok(),
            };
            let place = folder.display();
            assert_eq!(
                got.trim_end(),
                answer["answer"].as_str().expect("text").trim_end(),
                "{place}: {answer}"
            );
        }
        // The next retrain adds to what the older release stored.
        let retrain = server.post("/retrain", r#"{"samples": [1, 2, 3, 4]}"#);
        assert_eq!(retrain.status, 200, "{}", retrain.body);
        server.kill();
        assert_eq!(verify(&store).status.code(), Some(0));
    }
}

#[test]
fn verify_names_every_version_that_cannot_be_served() {
    let store = copy(&recorded()[0].join("store"));
    let sound = std::fs::read(store.version("default", 2)).expect("a version");
    let line_end = sound.iter().position(|&b| b == b'\n').expect("a line");
    let newer = [
        b"iforest-server model 99",
        &sound[line_end..sound.len() - 4],
    ]
    .concat();
    let newer = [&newer[..], &crc32fast::hash(&newer).to_le_bytes()].concat();
    write(&store.version("default", 3), &newer);
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    write(&store.version("default", 4), &flipped);
    write(&store.version("empty", 1), b"");
    let output = verify(&store);
    let (lines, log) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{lines}{log}");
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(
        lines[0],
        "models/default/0000000003.iforest: it has format 99, written by a newer version of this program; \
         this one reads up to format 2"
    );
    assert!(lines[1].starts_with("models/default/0000000004.iforest: it is damaged: "));
    assert!(lines[2].starts_with("models/empty/0000000001.iforest: it is damaged: "));
    assert!(lines[3].ends_with(" can be served, 3 cannot"), "{lines:?}");
    assert!(log.contains("3 problems in folder "), "{log}");
    // Nothing was moved.
    assert!(store.version("default", 4).exists());
    assert!(!store.path().join("set-aside").exists());

    // A server names the newer version too, and serves the one before.
    let server = Server::on(&store, &[]);
    let log = server.wait_for_line("0000000003.iforest");
    assert!(
        log.contains("skipped: it has format 99, written by a newer version"),
        "{log}"
    );
    assert_eq!(server.get("/models/default").ok_json()["version"], 2);
}

#[test]
fn verify_names_a_store_that_is_not_there() {
    let folder = Folder::new();
    let missing = folder.path().join("missing");
    let mut command = Command::new(BINARY);
    command.args(["store", "verify", "--store"]).arg(&missing);
    let output = command.output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    let log = text(&output.stderr);
    assert!(log.contains("cannot use the store"), "{log}");
    assert!(!missing.exists());
}
