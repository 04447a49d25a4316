//! Damaged files, wrong bytes, and files of a newer format.

use std::time::Duration;

use iforest_server::detector::Detector;
use iforest_server::forest::MaxSamples;
use iforest_server::store::{FormatError, decode};

use super::TREES;
use crate::support::data::{encoded, fit, is_from, params, readings};
use crate::support::folder::{Folder, version_path, write};
use crate::support::server::Server;
use crate::support::wait_until;

/// A small model of two features, as the bytes of a stored version.
fn small() -> Vec<u8> {
    let params = params().n_estimators(3).max_samples(MaxSamples::Count(8));
    encoded(Detector::fit(&params, readings(3, 30, 2)).expect("it trains"))
}

/// The bytes with a correct checksum at the end.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 4);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

/// The bytes as a file of a format that this version does not know.
fn in_newer_format(bytes: &[u8], format: u32) -> Vec<u8> {
    let line_end = bytes.iter().position(|&byte| byte == b'\n');
    let rest = &bytes[line_end.expect("a line")..];
    let line = format!("iforest-server model {format}");
    sealed([line.as_bytes(), rest].concat())
}

// A disk may return other bytes than were written, or fewer, without an error. No such file may
// ever serve predictions.
#[test]
fn any_flipped_bit_or_missing_or_added_byte_is_detected() {
    let whole = small();
    assert!(decode(&whole).is_ok());
    let mut damaged = whole.clone();
    for i in 0..whole.len() {
        for bit in 0..8 {
            damaged[i] ^= 1 << bit;
            let refused = matches!(decode(&damaged), Err(FormatError::Damaged(_)));
            assert!(refused, "bit {bit} of byte {i}");
            damaged[i] ^= 1 << bit;
        }
        let refused = matches!(decode(&whole[..i]), Err(FormatError::Damaged(_)));
        assert!(refused, "cut to {i} bytes");
    }
    for added in 0..=u8::MAX {
        damaged.push(added);
        let refused = matches!(decode(&damaged), Err(FormatError::Damaged(_)));
        assert!(refused, "{added} appended");
        damaged.pop();
    }
    // A sector of the disk that was never written.
    for start in (0..whole.len()).step_by(64) {
        let end = whole.len().min(start + 512);
        damaged[start..end].fill(0);
        assert!(decode(&damaged).is_err(), "zeros from {start}");
        damaged.copy_from_slice(&whole);
    }
    println!("every bit of {} bytes", whole.len());
}

// Bytes that were wrong before the checksum was computed, through faulty memory or by hand, may
// give another model, but must not crash the server.
#[test]
fn wrong_bytes_with_a_correct_checksum_neither_panic_nor_hang() {
    let whole = small();
    let (mut refused, mut accepted) = (0, 0);
    let mut try_one = |bytes: Vec<u8>| match decode(&sealed(bytes)) {
        Err(_) => refused += 1,
        Ok(record) => {
            accepted += 1;
            let row = vec![1.0; record.detector.forest().n_features()];
            let _ = record.detector.predict_row(&row);
            let _ = record.detector.normal_ranges();
            let _ = record.detector.blind_sides();
            let _ = iforest_server::store::encode(&record);
        }
    };
    for i in 0..whole.len() - 4 {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[i] ^= 1 << bit;
            try_one(bytes);
        }
        for value in [0, 1, 0x7F, 0x80, 0xFF] {
            let mut bytes = whole.clone();
            bytes[i] = value;
            try_one(bytes);
        }
        let mut shorter = whole.clone();
        shorter.remove(i);
        try_one(shorter);
    }
    println!("{refused} refused, {accepted} accepted as other models");
    assert!(refused > accepted / 10);
}

// One bad file must not stop the server or other models. The log names the file and where it now
// is, and the version before it is served.
#[test]
fn damaged_versions_are_logged_and_set_aside_and_the_older_one_is_served() {
    let folder = Folder::new();
    let (old, new) = (fit(10, readings(11, 50, 2)), fit(10, readings(12, 60, 2)));
    let whole = encoded(new.clone());
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damages: [(&str, Vec<u8>); 7] = [
        ("flipped-first", flipped(0)),
        ("flipped-middle", flipped(whole.len() / 2)),
        ("flipped-last", flipped(whole.len() - 1)),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("longer", [&whole[..], b"\n"].concat()),
        ("zeros", vec![0; whole.len()]),
    ];
    for (model, bytes) in &damages {
        write(&folder.version(model, 1), &encoded(old.clone()));
        write(&folder.version(model, 2), bytes);
    }
    write(&folder.version("whole", 1), &encoded(old.clone()));
    write(&folder.version("whole", 2), &whole);
    write(&folder.version("lost", 1), b"not a model");

    let server = Server::on(&folder, &["--n-estimators", TREES]);
    let log = server.log_when_loaded();
    let row = [1.5, 2.5];
    for (model, bytes) in &damages {
        let named = version_path("models", model, 2);
        let aside = version_path("set-aside", model, 2);
        let line = log.lines().find(|line| line.contains(&named));
        let line = line.unwrap_or_else(|| panic!("the log does not name {named}:\n{log}"));
        assert!(line.contains("cannot be served"), "{line}");
        assert!(line.contains(&aside), "{line}");
        let kept = std::fs::read(folder.path().join(&aside)).expect("set aside");
        assert_eq!(&kept, bytes, "{model}");
        assert_eq!(folder.files(model), ["0000000001.iforest"]);
        assert_eq!(server.model(model).version(), Some(1));
        assert!(is_from(&server.predict(model, &row), &old, &row), "{model}");
    }
    assert_eq!(server.model("whole").version(), Some(2));
    assert!(is_from(&server.predict("whole", &row), &new, &row));
    // No version of this one can be served.
    assert_eq!(server.model("lost").status, 404);
    assert!(log.contains("none of the stored versions can be served"));

    // Numbers of versions set aside are free again, and the next start logs no damage.
    for (model, version) in [("cut", 2), ("lost", 1)] {
        let answer = server.retrain(model, &readings(13, 40, 2));
        assert_eq!(answer.version(), Some(version), "{answer:?}");
    }
    drop(server);
    let server = Server::on(&folder, &[]);
    let log = server.log_when_loaded();
    assert!(!log.contains("cannot be served"), "{log}");
    assert_eq!(server.model("lost").samples_used(), Some(40));
}

// After a downgrade of the program, models of the newer version must be neither taken for damaged
// nor overwritten: after the next upgrade they are there.
#[test]
fn a_newer_format_is_logged_skipped_and_left_in_place() {
    let folder = Folder::new();
    let old = fit(10, readings(21, 50, 2));
    let bytes = encoded(fit(10, readings(22, 60, 2)));
    let first_line = bytes.split(|&byte| byte == b'\n').next();
    let first_line = std::str::from_utf8(first_line.expect("a line")).expect("text");
    let format = first_line.strip_prefix("iforest-server model ");
    let format: u32 = format.expect("a format").parse().expect("a number");
    let newer = format + 1;
    let newer_bytes = in_newer_format(&bytes, newer);
    assert_eq!(decode(&newer_bytes), Err(FormatError::Newer(newer)));
    write(&folder.version("motor", 1), &encoded(old.clone()));
    write(&folder.version("motor", 2), &newer_bytes);
    write(&folder.version("future", 1), &newer_bytes);

    let server = Server::on(&folder, &["--n-estimators", TREES]);
    let log = server.log_when_loaded();
    for (model, version) in [("motor", 2), ("future", 1)] {
        let named = version_path("models", model, version);
        let line = log.lines().find(|line| line.contains(&named));
        let line = line.unwrap_or_else(|| panic!("the log does not name {named}:\n{log}"));
        assert!(line.contains("skipped"), "{line}");
        assert!(line.contains(&format!("format {newer}")), "{line}");
    }
    let row = [1.5, 2.5];
    assert_eq!(server.model("motor").version(), Some(1));
    assert!(is_from(&server.predict("motor", &row), &old, &row));
    assert_eq!(server.model("future").status, 404);

    for (model, version) in [("motor", 3), ("future", 2)] {
        let answer = server.retrain(model, &readings(23, 40, 2));
        assert_eq!(answer.version(), Some(version), "{answer:?}");
    }
    drop(server);
    let server = Server::on(&folder, &[]);
    for (model, version, skipped) in [("motor", 3, 2), ("future", 2, 1)] {
        assert_eq!(server.model(model).version(), Some(version));
        let left = std::fs::read(folder.version(model, skipped)).expect("left in place");
        assert_eq!(left, newer_bytes);
    }
}

// While some servers of a store are upgraded, the others must not fill their logs.
#[test]
fn a_newer_format_is_not_logged_again_after_every_change() {
    let folder = Folder::new();
    let newer = in_newer_format(&encoded(fit(10, readings(22, 60, 2))), 999);
    write(
        &folder.version("motor", 1),
        &encoded(fit(10, readings(21, 50, 2))),
    );
    write(&folder.version("motor", 2), &newer);
    write(&folder.version("future", 1), &newer);
    let options = ["--n-estimators", TREES, "--refresh-interval", "50ms"];
    let server = Server::on(&folder, &options);
    let times_logged = || server.log().matches("skipped").count();
    server.log_when_loaded();
    assert_eq!(times_logged(), 2);
    for seed in 0..6 {
        server.retrain("other", &readings(seed, 40, 1));
        std::thread::sleep(Duration::from_millis(100));
    }
    // Once at the start and once at the first poll, for each of the two.
    assert!(times_logged() <= 4, "{}", server.log());
    // A further version in a newer format is logged.
    write(&folder.version("future", 2), &newer);
    server.retrain("other", &readings(9, 40, 1));
    server.wait_for_line(&version_path("models", "future", 2));
    write(
        &folder.version("future", 3),
        &encoded(fit(10, readings(21, 50, 2))),
    );
    server.retrain("other", &readings(9, 40, 1));
    server.wait_for_line("synced a version that another server stored");
    assert_eq!(server.model("future").version(), Some(3));
    // The server also looks again at older versions once the newer ones are gone.
    write(&folder.version("future", 4), &newer);
    server.retrain("other", &readings(9, 40, 1)).ok();
    server.wait_for_line(&version_path("models", "future", 4));
    let answer = server.retrain("future", &readings(9, 40, 2));
    assert_eq!(answer.version(), Some(5), "{answer:?}");
    std::fs::remove_file(folder.version("future", 5)).expect("the file exists");
    server.retrain("other", &readings(9, 40, 1)).ok();
    wait_until("the version before is served", || {
        server.model("future").version() == Some(3)
    });
}

// The synthetic model must not silently replace a stored default that cannot be read: its answers
// would look like those of the machine's own model. `--train` replaces it on purpose.
#[test]
fn an_unreadable_default_stops_every_start() {
    let bytes = encoded(fit(10, readings(22, 60, 1)));
    let newer = in_newer_format(&bytes, 999);
    for unreadable in [newer.as_slice(), b""] {
        let folder = Folder::new();
        write(&folder.version("default", 1), unreadable);
        for _ in 0..2 {
            let output = Server::command_on(&folder, &[])
                .output()
                .expect("the program starts");
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{log}");
            assert!(log.contains(&version_path("models", "default", 1)), "{log}");
            assert!(
                log.contains("the stored model default cannot be read"),
                "{log}"
            );
        }
        // A training gets the next number and is served from then on.
        let file = folder.file("readings.txt", "1\n2\n3\n");
        let server = Server::on(&folder, &["--train", &file]);
        assert_eq!(server.model("default").version(), Some(2));
        drop(server);
        let server = Server::on(&folder, &[]);
        assert_eq!(server.model("default").samples_used(), Some(3));
        drop(server);
        // An older version that can be read is served.
        write(&folder.version("default", 2), unreadable);
        write(&folder.version("default", 1), &bytes);
        let server = Server::on(&folder, &[]);
        assert_eq!(server.model("default").version(), Some(1));
    }
}

// A version stored below newer, unreadable ones would be acknowledged, but neither kept nor served
// again.
#[test]
fn a_retrain_gets_a_number_above_versions_that_cannot_be_served() {
    let folder = Folder::new();
    let newer = in_newer_format(&encoded(fit(10, readings(22, 60, 1))), 999);
    for version in 7..=11 {
        write(&folder.version("motor", version), &newer);
    }
    let server = Server::on(&folder, &[]);
    let answer = server.retrain("motor", &readings(23, 40, 1));
    assert_eq!(answer.version(), Some(12), "{answer:?}");
    drop(server);
    let server = Server::on(&folder, &[]);
    assert_eq!(server.model("motor").samples_used(), Some(40));
}
