//! What was learnt stays learnt: through kills at any instant, damaged files, a full disk and
//! restarts, of the real program on a real folder.

mod common;
#[path = "common/stored.rs"]
mod stored;

#[cfg(target_os = "linux")]
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Server, SplitMix};
use iforest_server::detector::Detector;
use iforest_server::store::{FormatError, decode};
#[cfg(target_os = "linux")]
use stored::mounted;
#[cfg(unix)]
use stored::there_is;
use stored::{
    Ask, Folder, ask, fit, is_from, json, params, readings, stored as encoded, version_path,
    wait_until, write,
};

const TREES: &str = "10";

fn start(folder: &Folder, more: &[&str]) -> Server {
    Server::spawn(command(folder, more))
}

fn command(folder: &Folder, more: &[&str]) -> Command {
    let mut command = Server::command(&["--store", folder.text(), "--random-state", "42"]);
    command.args(more);
    command
}

/// What a training of the loop of kills is made of. Many in a row differ in their number of
/// readings, and all of them in the readings.
fn training(number: u64, features: usize) -> ndarray::Array2<f64> {
    readings(number, 20 + number as usize % 97, features)
}

/// A model that is retrained again and again while the server is killed.
struct Trainee {
    name: &'static str,
    features: usize,
    /// The training and version that the server has answered for, or was found to serve.
    acknowledged: Option<(u64, u64)>,
    /// The training that was sent, and not answered.
    sent: Option<u64>,
}

impl Trainee {
    fn new(name: &'static str, features: usize) -> Self {
        Self {
            name,
            features,
            acknowledged: None,
            sent: None,
        }
    }

    /// Whether the training that the kill cut short was stored all the same; what is served must be
    /// it, or the one acknowledged last, and whole.
    fn check(&mut self, server: &Server) -> bool {
        let info = server.model(self.name);
        let version = info.json()["version"].as_u64();
        let acknowledged = self.acknowledged.map(|(_, version)| version);
        let next = acknowledged.unwrap_or(0) + 1;
        let sent = self.sent.take();
        let later = version == Some(next);
        if later {
            let training = sent.expect("nothing is served that was never sent");
            self.acknowledged = Some((training, next));
        } else {
            assert_eq!(version, acknowledged, "{}: {info:?}", self.name);
        }
        let Some((number, _)) = self.acknowledged else {
            return false;
        };
        let data = training(number, self.features);
        assert_eq!(info.samples_used(), Some(data.nrows() as u64), "{info:?}");
        let row = data.row(0).to_vec();
        let expected = fit(TREES.parse().expect("a number"), data);
        let answer = server.predict(self.name, &row);
        assert!(
            is_from(&answer, &expected, &row),
            "{}: {answer:?}",
            self.name
        );
        later
    }

    /// Retrains; false once the server is gone.
    fn retrain(&mut self, address: &str, number: u64) -> bool {
        self.sent = Some(number);
        let body = format!("{{\"samples\":{}}}", json(&training(number, self.features)));
        let path = format!("/models/{}/retrain", self.name);
        let Ok(answer) = ask(address, "POST", &path, &body) else {
            return false;
        };
        assert_eq!(answer.status, 200, "{answer:?}");
        let version = answer.version().expect("stored");
        self.acknowledged = Some((number, version));
        self.sent = None;
        true
    }
}

// A power cut or an impatient operator comes at any instant. Whatever the server was doing, and
// however far, it must start again, without finding anything damaged, and serve what it had
// acknowledged, or the whole of what it was just storing.
#[test]
fn hundreds_of_kills_at_random_instants_lose_nothing_acknowledged() {
    const WHILE_TRAINING: usize = 250;
    const WHILE_STARTING: usize = 80;
    let folder = Folder::new();
    let options = ["--n-estimators", TREES, "--keep-versions", "3"];
    let mut trainees = [Trainee::new("default", 1), Trainee::new("motor.7", 3)];
    let mut random = SplitMix(7);
    let mut number = 0;
    let (mut cut_short, mut stored_all_the_same) = (0, 0);
    let healthy = |log: &str| {
        for sign in ["cannot be served", "passed over", "panicked", "ERROR"] {
            assert!(!log.contains(sign), "{log}");
        }
    };
    for life in 0..WHILE_TRAINING {
        if life * WHILE_STARTING / WHILE_TRAINING != (life + 1) * WHILE_STARTING / WHILE_TRAINING {
            let starting = Server::spawn_until(command(&folder, &options), "");
            let micros = random.next() % 15_000;
            std::thread::sleep(Duration::from_micros(micros));
            healthy(&starting.kill());
        }
        let server = start(&folder, &options);
        for trainee in &mut trainees {
            stored_all_the_same += usize::from(trainee.check(&server));
        }
        let address = server.address.clone();
        let log = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                loop {
                    for trainee in &mut trainees {
                        number += 1;
                        if !trainee.retrain(&address, number) {
                            return;
                        }
                    }
                }
            });
            let micros = 1000 + random.next() % 24_000;
            std::thread::sleep(Duration::from_micros(micros));
            let log = server.kill();
            client.join().expect("every answer was 200");
            log
        });
        healthy(&log);
        cut_short += trainees.iter().filter(|t| t.sent.is_some()).count();
    }
    let server = start(&folder, &options);
    for trainee in &mut trainees {
        stored_all_the_same += usize::from(trainee.check(&server));
        let kept = folder.files(trainee.name);
        let unfinished = kept.iter().filter(|file| file.contains('#')).count();
        println!("{}: {unfinished} unfinished files are left", trainee.name);
    }
    assert!(!folder.path().join("set-aside").exists());
    println!(
        "{number} trainings, {cut_short} of them cut short by {WHILE_TRAINING} kills, \
         {stored_all_the_same} of those stored; {WHILE_STARTING} kills while starting"
    );
    assert!(
        cut_short > WHILE_TRAINING / 4,
        "the kills must hit trainings"
    );
}

// What a kill leaves half-written must neither be served, nor be in the way of the version that it
// was to become, nor stay for ever.
#[test]
fn unfinished_files_are_neither_served_nor_in_the_way_nor_kept_for_ever() {
    let folder = Folder::new();
    let bytes = encoded(fit(10, readings(1, 50, 1)));
    write(&folder.version("default", 1), &bytes);
    let unfinished = ["models/default/0000000002.iforest#1", "changed#1"];
    // Of numbers that the server does not come to, so that it makes no new ones of these names.
    let abandoned = ["models/default/0000000002.iforest#7", "changed#7"];
    for file in unfinished.iter().chain(&abandoned) {
        write(&folder.path().join(file), &bytes[..bytes.len() / 2]);
    }
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
    for file in abandoned {
        let file = std::fs::File::options()
            .write(true)
            .open(folder.path().join(file));
        let file = file.expect("it is there");
        file.set_modified(long_ago).expect("a time");
    }
    let server = start(&folder, &[]);
    assert_eq!(server.model("default").version(), Some(1));
    let versions = server.get("/models/default/versions").ok();
    assert!(versions.contains("\"versions\":[1]"), "{versions}");
    let answer = server.retrain("default", &readings(2, 60, 1));
    assert_eq!(answer.version(), Some(2), "{answer:?}");
    assert!(!server.log().contains("cannot be served"));
    for file in unfinished {
        assert!(folder.path().join(file).exists(), "{file} may be in use");
    }
    for file in abandoned {
        assert!(!folder.path().join(file).exists(), "{file} is abandoned");
    }
}

/// A small model of two features, as it is stored.
fn small() -> Vec<u8> {
    let small = params(3).max_samples(iforest_server::forest::MaxSamples::Count(8));
    encoded(Detector::fit(&small, readings(3, 30, 2)).expect("it trains"))
}

// A disk gives back other bytes than were written, or fewer, and says nothing. No such file may
// ever be taken for a model: it would judge readings, wrongly.
#[test]
fn a_flipped_bit_or_a_missing_or_added_byte_anywhere_is_found() {
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
        let cut = matches!(decode(&whole[..i]), Err(FormatError::Damaged(_)));
        assert!(cut, "cut to {i} bytes");
    }
    for added in 0..=u8::MAX {
        damaged.push(added);
        let refused = matches!(decode(&damaged), Err(FormatError::Damaged(_)));
        assert!(refused, "{added} appended");
        damaged.pop();
    }
    // A sector that was never written.
    for start in (0..whole.len()).step_by(64) {
        let end = whole.len().min(start + 512);
        damaged[start..end].fill(0);
        assert!(decode(&damaged).is_err(), "zeros from {start}");
        damaged.copy_from_slice(&whole);
    }
    println!("{} bytes, each bit of them", whole.len());
}

/// The checksum that the format asks for, at the end.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 4);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

// Bytes that were wrong before they were summed up, by a faulty memory or by hand, pass the
// checksum. They may give another model; they must not take the server with them.
#[test]
fn wrong_bytes_under_a_right_checksum_neither_panic_nor_hang() {
    let whole = small();
    let (mut refused, mut taken) = (0, 0);
    let mut try_one = |bytes: Vec<u8>| match decode(&sealed(bytes)) {
        Err(_) => refused += 1,
        Ok(record) => {
            taken += 1;
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
    println!("{refused} refused, {taken} taken for other models");
    assert!(refused > taken / 10);
}

// One bad file must not keep the server from starting, nor other models from being served; the
// operator must read which file it is, and find it again. Of the damaged model, the version before
// is better than none.
#[test]
fn damaged_versions_are_named_set_aside_and_the_older_one_is_served() {
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
    write(&folder.version("default", 1), b"");

    let server = start(&folder, &["--n-estimators", TREES]);
    let log = server.log();
    let row = [1.5, 2.5];
    for (model, bytes) in &damages {
        let named = version_path("models", model, 2);
        let aside = version_path("set-aside", model, 2);
        let line = log.lines().find(|line| line.contains(&named));
        let line = line.unwrap_or_else(|| panic!("{named} is not named in:\n{log}"));
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
    // Nothing is left of these two; the default one is there all the same.
    assert_eq!(server.model("lost").status, 404);
    assert_eq!(server.model("default").version(), None);
    assert_eq!(server.predict("default", &[1.0]).status, 200);
    assert!(log.contains("none of its stored versions can be served"));

    // The numbers of what was set aside are free again, and the next start has nothing to tell.
    for (model, version) in [("cut", 2), ("lost", 1), ("default", 1)] {
        let features = if model == "default" { 1 } else { 2 };
        let answer = server.retrain(model, &readings(13, 40, features));
        assert_eq!(answer.version(), Some(version), "{answer:?}");
    }
    drop(server);
    let server = start(&folder, &[]);
    assert!(
        !server.log().contains("cannot be served"),
        "{}",
        server.log()
    );
    assert_eq!(server.model("lost").samples_used(), Some(40));
    assert_eq!(server.model("default").samples_used(), Some(40));
}

// After a step back to an older program, models of the newer one must be neither taken for damaged
// nor written over: once the program is updated again, they are there.
#[test]
fn a_newer_format_is_named_left_in_place_and_passed_over() {
    let folder = Folder::new();
    let old = fit(10, readings(21, 50, 2));
    let bytes = encoded(fit(10, readings(22, 60, 2)));
    let line_end = bytes
        .iter()
        .position(|&byte| byte == b'\n')
        .expect("a line");
    let first_line = String::from_utf8_lossy(&bytes[..line_end]).into_owned();
    let (start_of_line, format) = first_line.rsplit_once(' ').expect("a number");
    let newer = format.parse::<u32>().expect("a number") + 1;
    let line = format!("{start_of_line} {newer}");
    let newer_bytes = sealed([line.as_bytes(), &bytes[line_end..]].concat());
    assert_eq!(decode(&newer_bytes), Err(FormatError::Newer(newer)));
    write(&folder.version("motor", 1), &encoded(old.clone()));
    write(&folder.version("motor", 2), &newer_bytes);
    write(&folder.version("future", 1), &newer_bytes);

    let server = start(&folder, &["--n-estimators", TREES]);
    let log = server.log();
    for (model, version) in [("motor", 2), ("future", 1)] {
        let named = version_path("models", model, version);
        let line = log.lines().find(|line| line.contains(&named));
        let line = line.unwrap_or_else(|| panic!("{named} is not named in:\n{log}"));
        assert!(line.contains("passed over"), "{line}");
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
    let server = start(&folder, &[]);
    for (model, version, passed_over) in [("motor", 3, 2), ("future", 2, 1)] {
        assert_eq!(server.model(model).version(), Some(version));
        let left = std::fs::read(folder.version(model, passed_over)).expect("left in place");
        assert_eq!(left, newer_bytes);
    }
}

// While some of the servers of a store are updated, the others must not fill their logs.
#[test]
fn a_newer_format_is_not_named_again_after_every_change() {
    let folder = Folder::new();
    let newer = of_a_newer_format(&encoded(fit(10, readings(22, 60, 2))));
    write(
        &folder.version("motor", 1),
        &encoded(fit(10, readings(21, 50, 2))),
    );
    write(&folder.version("motor", 2), &newer);
    write(&folder.version("future", 1), &newer);
    let options = ["--n-estimators", TREES, "--refresh-interval", "20ms"];
    let server = start(&folder, &options);
    let times_named = || server.log().matches("passed over").count();
    assert_eq!(times_named(), 2);
    for seed in 0..6 {
        server.retrain("other", &readings(seed, 40, 1));
        std::thread::sleep(Duration::from_millis(100));
    }
    // At the start, and at the first look after it.
    assert!(times_named() <= 4, "{}", server.log());
    // A newer one is a new matter.
    write(&folder.version("future", 2), &newer);
    server.retrain("other", &readings(9, 40, 1));
    server.wait_for_line(&version_path("models", "future", 2));
    write(
        &folder.version("future", 3),
        &encoded(fit(10, readings(21, 50, 2))),
    );
    server.retrain("other", &readings(9, 40, 1));
    server.wait_for_line("now served as another server stored it");
    assert_eq!(server.model("future").version(), Some(3));
    // Nor is it forgotten to look again, once what came after it is gone.
    write(&folder.version("future", 4), &newer);
    server.retrain("other", &readings(9, 40, 1)).ok();
    server.wait_for_line(&version_path("models", "future", 4));
    let answer = server.retrain("future", &readings(9, 40, 2));
    assert_eq!(answer.version(), Some(5), "{answer:?}");
    std::fs::remove_file(folder.version("future", 5)).expect("it is there");
    server.retrain("other", &readings(9, 40, 1)).ok();
    wait_until("the one before is served", || {
        server.model("future").version() == Some(3)
    });
}

/// A whole file, but of a format that is not known yet.
fn of_a_newer_format(bytes: &[u8]) -> Vec<u8> {
    let line_end = bytes.iter().position(|&byte| byte == b'\n');
    let rest = &bytes[line_end.expect("a line")..];
    sealed([b"iforest-server model 999", rest].concat())
}

// A default that is there but cannot be read must not be replaced by the synthetic one without a
// word: its answers would look like those of the machine's own model. `--train` does so on purpose.
#[test]
fn a_default_that_cannot_be_read_ends_the_start() {
    let folder = Folder::new();
    let bytes = encoded(fit(10, readings(22, 60, 1)));
    let newer = of_a_newer_format(&bytes);
    write(&folder.version("default", 1), &newer);
    let output = command(&folder, &[]).output().expect("it starts");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{log}");
    assert!(log.contains(&version_path("models", "default", 1)), "{log}");
    assert!(
        log.contains("the stored model default cannot be read"),
        "{log}"
    );
    // Trained anew, it comes after the one that cannot be read, and is served from then on.
    let file = folder.path().join("readings.txt");
    write(&file, b"1\n2\n3\n");
    let train = ["--train", file.to_str().expect("a plain path")];
    let server = start(&folder, &train);
    assert_eq!(server.model("default").version(), Some(2));
    drop(server);
    let server = start(&folder, &[]);
    assert_eq!(server.model("default").samples_used(), Some(3));
    drop(server);
    // With an older version that can be read there is something to serve.
    write(&folder.version("default", 2), &newer);
    write(&folder.version("default", 1), &bytes);
    let server = start(&folder, &[]);
    assert_eq!(server.model("default").version(), Some(1));
}

// Where newer versions are there than can be served, a retrain must not be stored below them: it
// would be acknowledged, and neither kept nor ever served again.
#[test]
fn a_retrain_comes_after_versions_that_cannot_be_served() {
    let folder = Folder::new();
    let newer = of_a_newer_format(&encoded(fit(10, readings(22, 60, 1))));
    for version in 7..=11 {
        write(&folder.version("motor", version), &newer);
    }
    let server = start(&folder, &[]);
    let answer = server.retrain("motor", &readings(23, 40, 1));
    assert_eq!(answer.version(), Some(12), "{answer:?}");
    drop(server);
    let server = start(&folder, &[]);
    assert_eq!(server.model("motor").samples_used(), Some(40));
}

/// What the model answers to several readings.
fn judged(server: &Server, model: &str, features: usize) -> String {
    let rows = json(&readings(99, 40, features).map(|value| 2.0 * value - 2.0));
    let path = format!("/models/{model}/predict");
    server.send(&path, &format!("{{\"values\":{rows}}}")).ok()
}

/// A retrain must be refused for a reason of the store's.
#[cfg(unix)]
fn assert_refused(answer: &stored::Answer, reasons: &[&str]) {
    assert_eq!(answer.status, 503, "{answer:?}");
    let told = answer.json()["error"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    println!("{told}");
    assert!(told.contains("as it was"), "{told}");
    assert!(reasons.iter().any(|reason| told.contains(reason)), "{told}");
}

// A quota is reached in the middle of a file: what was written of it must be gone, the model as it
// was, and once there is space the same request must do.
#[cfg(target_os = "linux")]
#[test]
fn a_retrain_over_the_quota_is_refused_and_leaves_everything_as_it_was() {
    if !there_is("prlimit", &["--version"]) {
        return;
    }
    let folder = Folder::new();
    let program = command(&folder, &[]);
    // Blocks of 512 bytes, and no signal to those that write more.
    let mut limited = Command::new("sh");
    limited
        .args(["-c", r#"trap "" XFSZ; ulimit -S -f 40; exec "$0" "$@""#])
        .arg(program.get_program())
        .args(program.get_args());
    let server = Server::spawn(limited);
    let small = r#"{"n_estimators": 5, "samples": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}"#;
    server.send("/models/motor/retrain", small).ok();
    let before = (server.get("/models").ok(), judged(&server, "motor", 1));
    let files = folder.files("motor");
    let large = format!(
        "{{\"n_estimators\":200,\"samples\":{}}}",
        json(&readings(31, 500, 1))
    );
    for model in ["motor", "default", "new"] {
        let answer = server.send(&format!("/models/{model}/retrain"), &large);
        assert_refused(&answer, &["File too large"]);
        assert_eq!(server.get("/models").ok(), before.0);
        assert_eq!(judged(&server, "motor", 1), before.1);
    }
    assert_eq!(folder.files("motor"), files);
    assert!(folder.files("default").is_empty() && folder.files("new").is_empty());
    assert_eq!(server.model("new").status, 404);
    let log = server.log();
    let told = "a retrain was refused; the model is as it was";
    let told = log.lines().find(|line| line.contains(told));
    assert!(
        told.is_some_and(|line| line.contains("the store failed")),
        "{log}"
    );

    // A second server, on what is there now: nothing half-written is served.
    let other = start(&folder, &[]);
    assert_eq!(judged(&other, "motor", 1), before.1);
    assert_eq!(other.model("new").status, 404);
    drop(other);

    let id = server.id().to_string();
    let lifted = Command::new("prlimit")
        .args(["--pid", &id, "--fsize=unlimited:"])
        .status();
    assert!(lifted.expect("it is there").success());
    for (model, version) in [("motor", 2), ("default", 1), ("new", 1)] {
        let answer = server.send(&format!("/models/{model}/retrain"), &large);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.version(), Some(version));
    }
}

/// A server whose store is a file system of 1 MiB, and that file system as the server sees it.
#[cfg(target_os = "linux")]
fn on_small_disk(folder: &Folder, more: &[&str]) -> Option<(Server, PathBuf)> {
    let mount = r#"mount -t tmpfs -o size=1m tmpfs "$0""#;
    let server = Server::spawn(mounted(mount, folder, &command(folder, more))?);
    let root = PathBuf::from(format!("/proc/{}/root", server.id()));
    let disk = root.join(folder.path().strip_prefix("/").expect("absolute"));
    Some((server, disk))
}

/// Fills a file system to the last byte; returns what fills it.
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

// The same on a file system that is full, which refuses new files, or the writing of them.
#[cfg(target_os = "linux")]
#[test]
fn a_retrain_on_a_full_disk_is_refused_until_there_is_space() {
    let folder = Folder::new();
    let Some((server, disk)) = on_small_disk(&folder, &["--refresh-interval", "100ms"]) else {
        return;
    };
    wait_until("it announces itself", || disk.join("changed").exists());
    server.retrain("motor", &readings(41, 50, 2)).ok();
    let before = (server.get("/models").ok(), judged(&server, "motor", 2));
    let ballast = fill(&disk);
    for model in ["motor", "default", "new"] {
        let features = if model == "default" { 1 } else { 2 };
        let answer = server.retrain(model, &readings(42, 500, features));
        assert_refused(&answer, &["No space left on device"]);
        assert_eq!(server.get("/models").ok(), before.0);
        assert_eq!(judged(&server, "motor", 2), before.1);
    }
    let motor = disk.join("models/motor");
    let files = std::fs::read_dir(&motor).expect("a folder").count();
    assert_eq!(files, 1, "what was written in part is removed");

    std::fs::remove_file(ballast).expect("it is there");
    for (model, version) in [("motor", 2), ("new", 1)] {
        let answer = server.retrain(model, &readings(42, 500, 2));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.version(), Some(version));
    }
    assert_ne!(judged(&server, "motor", 2), before.1);
}

// A disk with room for one more version and nothing else: were the old versions not removed then,
// because something else could not be written, the next retrain would find no room, and none after
// it.
#[cfg(target_os = "linux")]
#[test]
fn old_versions_make_room_even_where_nothing_else_can_be_written() {
    let folder = Folder::new();
    // Nothing but the retrains writes.
    let options = ["--keep-versions", "1", "--refresh-interval", "0s"];
    let Some((server, disk)) = on_small_disk(&folder, &options) else {
        return;
    };
    let motor = disk.join("models/motor");
    let file = |version| motor.join(format!("{version:010}.iforest"));
    let data = readings(43, 500, 2);
    server.retrain("motor", &data).ok();
    let size = std::fs::metadata(file(1)).expect("stored").len();
    // The announcement comes after the answer.
    wait_until("it is announced", || disk.join("changed").exists());
    wait_until("the announcement is over", || {
        !disk.join("changed#1").exists()
    });
    let ballast = fill(&disk);
    let ballast = std::fs::File::options().write(true).open(ballast);
    let ballast = ballast.expect("it is there");
    let length = ballast.metadata().expect("a file").len();
    // As many whole blocks as the next version takes.
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

// Somebody makes the folder read-only, or something else takes its place. The models are in memory,
// and are served on.
#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_refuses_retrains_and_serves_on() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new();
    let program = command(&folder, &["--refresh-interval", "50ms"]);
    let motor = folder.path().join("models/motor");
    std::fs::create_dir_all(&motor).expect("it can be made");
    let allow = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&motor, permissions).expect("it is ours");
    };
    allow(0o500);
    let is_root = std::fs::write(motor.join("probe"), "").is_ok();
    allow(0o700);
    // What is forbidden to root as well, where it is root in no more than name.
    let powerless = is_root && there_is("unshare", &["-U", "true"]);
    let server = Server::spawn(if powerless {
        std::fs::remove_file(motor.join("probe")).expect("just written");
        let mut command = Command::new("unshare");
        command.arg("-U").arg(program.get_program());
        command.args(program.get_args());
        command
    } else {
        program
    });
    server.retrain("motor", &readings(51, 50, 2)).ok();
    let unchanged = (server.get("/models").ok(), judged(&server, "motor", 2));
    let check = |refused: &stored::Answer, reasons: &[&str]| {
        assert_refused(refused, reasons);
        // Long enough for the server to have looked around, several times.
        std::thread::sleep(Duration::from_millis(500));
        let now = (server.get("/models").ok(), judged(&server, "motor", 2));
        assert_eq!(now, unchanged);
    };
    let data = readings(52, 60, 2);

    if !is_root || powerless {
        allow(0o500);
        check(&server.retrain("motor", &data), &["Permission denied"]);
        allow(0o700);
    }

    let away = folder.away();
    std::fs::rename(folder.path(), &away).expect("it can be moved");
    std::fs::write(folder.path(), "not a folder").expect("it can be written");
    check(&server.retrain("motor", &data), &["Not a directory"]);

    std::fs::remove_file(folder.path()).expect("it is there");
    std::fs::rename(&away, folder.path()).expect("it can be moved");
    let answer = server.retrain("motor", &data);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.version(), Some(2));
    drop(server);
    assert_eq!(start(&folder, &[]).model("motor").version(), Some(2));
}

// A disk that is not mounted any more leaves an empty folder in its place. That is not the same as
// every model being deleted by somebody: who predicts must not be left without answers. And what is
// written there would be gone once the disk is back: nobody must be told that it is stored.
#[cfg(unix)]
#[test]
fn a_folder_that_is_gone_takes_no_models_with_it_and_no_new_ones() {
    let folder = Folder::new();
    let server = start(&folder, &["--refresh-interval", "20ms"]);
    server.retrain("motor", &readings(61, 50, 2)).ok();
    server.retrain("pump", &readings(62, 50, 2)).ok();
    wait_until("it announces itself", || {
        folder.path().join("changed").exists()
    });
    // And does nothing more of its own.
    std::thread::sleep(Duration::from_secs(1));
    let now = || (server.get("/models").ok(), judged(&server, "motor", 2));
    let before = now();
    std::fs::rename(folder.path(), folder.away()).expect("it can be moved");
    for empty in [false, true] {
        if empty {
            std::fs::create_dir(folder.path()).expect("it can be made");
        }
        for model in ["motor", "default", "new"] {
            let features = if model == "default" { 1 } else { 2 };
            let answer = server.retrain(model, &readings(63, 60, features));
            assert_refused(&answer, &["is the store still in its place?"]);
        }
        assert_eq!(server.send("/models/motor/rollback", "").status, 503);
        assert_eq!(server.delete("/models/pump").status, 503);
        // More than the 64 intervals after which the server looks through everything.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2500) {
            assert_eq!(now(), before);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    std::fs::remove_dir(folder.path()).expect("nothing was written there");
    std::fs::rename(folder.away(), folder.path()).expect("it can be moved");
    let answer = server.retrain("motor", &readings(63, 60, 2));
    assert_eq!(answer.version(), Some(2), "{answer:?}");
    server.delete("/models/pump").ok();
}

#[cfg(unix)]
fn stop(mut server: Server) {
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
}

// An update of the program or of the machine under it must not be seen from outside: the same
// models with all that was set for them, and the same answers to the last byte.
#[cfg(unix)]
#[test]
fn a_restart_serves_what_was_trained_to_the_last_byte() {
    let folder = Folder::new();
    let server = start(&folder, &[]);
    let models = [
        ("default", 1, ""),
        (
            "Plant-1.line_2.Motor",
            3,
            r#""feature_names": ["current", "speed", "heat"], "contamination": 0.1, "#,
        ),
        (
            "alarm",
            2,
            r#""out_of_range": "anomaly", "out_of_range_margin": 0.1, "#,
        ),
        (
            ".small.",
            1,
            r#""n_estimators": 7, "max_samples": 0.5, "random_state": 5, "#,
        ),
    ];
    for (i, (model, features, settings)) in models.into_iter().enumerate() {
        let samples = json(&readings(70 + i as u64, 200, features));
        let body = format!("{{{settings}\"samples\":{samples}}}");
        server.send(&format!("/models/{model}/retrain"), &body).ok();
    }
    let seen = |server: &Server| {
        let mut seen = vec![server.get("/models").ok()];
        for (model, features, _) in models {
            seen.push(server.model(model).ok());
            seen.push(server.get(&format!("/models/{model}/versions")).ok());
            seen.push(judged(server, model, features));
        }
        let named = r#"{"value": {"heat": 3, "speed": 2.5, "current": 1}}"#;
        let path = "/models/Plant-1.line_2.Motor/predict";
        seen.push(server.send(path, named).ok());
        seen.push(server.send("/predict", r#"{"value": 2.5}"#).ok());
        seen
    };
    let before = seen(&server);
    stop(server);
    // Settings of the server are for trainings to come, not for what was trained.
    let server = start(&folder, &["--contamination", "0.3", "--n-estimators", "9"]);
    assert_eq!(seen(&server), before);
    // And the model's own hold for its next training.
    let answer = server.retrain("Plant-1.line_2.Motor", &readings(79, 100, 3));
    assert_eq!(answer.version(), Some(2), "{answer:?}");
    let info = server.model("Plant-1.line_2.Motor").json();
    assert_eq!(info["contamination"], 0.1);
    assert_eq!(info["n_estimators"], 9);
    assert_eq!(info["feature_names"][2], "heat");
}

// Who starts with --train wants that model, whatever was stored; and can have the other back.
#[cfg(unix)]
#[test]
fn train_replaces_the_stored_default_on_purpose() {
    let folder = Folder::new();
    let server = start(&folder, &[]);
    server.retrain("default", &readings(81, 50, 1)).ok();
    server.retrain("motor", &readings(82, 50, 2)).ok();
    let (before, motor) = (judged(&server, "default", 1), judged(&server, "motor", 2));
    stop(server);

    let lines: Vec<String> = (0..120)
        .map(|i| format!("{}\n", 20.0 + 0.01 * f64::from(i)))
        .collect();
    let file = folder.path().join("readings.csv");
    std::fs::write(&file, lines.concat()).expect("it can be written");
    let server = start(&folder, &["--train", file.to_str().expect("plain")]);
    let info = server.model("default");
    assert_eq!((info.version(), info.samples_used()), (Some(2), Some(120)));
    assert_eq!(judged(&server, "motor", 2), motor);
    let trained = judged(&server, "default", 1);
    assert_ne!(trained, before);
    stop(server);

    let server = start(&folder, &[]);
    assert_eq!(server.model("default").version(), Some(2));
    assert_eq!(judged(&server, "default", 1), trained);
    server.send("/models/default/rollback", "").ok();
    assert_eq!(judged(&server, "default", 1), before);
}

// Versions must not fill the disk, and a rollback must not be undone by a restart.
#[cfg(unix)]
#[test]
fn versions_are_kept_as_many_as_told_and_a_rollback_lasts() {
    let folder = Folder::new();
    let keep = ["--keep-versions", "2"];
    let server = start(&folder, &keep);
    let mut answers = Vec::new();
    for i in 0..5 {
        server.retrain("motor", &readings(90 + i, 50, 2)).ok();
        answers.push(judged(&server, "motor", 2));
    }
    // Older ones are removed after the answer.
    wait_until("two are left", || {
        folder.files("motor") == ["0000000004.iforest", "0000000005.iforest"]
    });
    let answer = server.send("/models/motor/rollback", "");
    assert_eq!(answer.version(), Some(6), "{answer:?}");
    assert_eq!(answer.json()["restored_from"], 4);
    assert_eq!(judged(&server, "motor", 2), answers[3]);
    // A rollback removes nothing: there may be a reason to go still further back.
    assert_eq!(
        folder.files("motor"),
        [
            "0000000004.iforest",
            "0000000005.iforest",
            "0000000006.iforest"
        ]
    );
    let seen = |server: &Server| {
        let info = server.model("motor");
        (info.ok(), judged(server, "motor", 2))
    };
    let before = seen(&server);
    stop(server);
    let server = start(&folder, &keep);
    assert_eq!(seen(&server), before);
    // The one that the rollback left can be had again.
    let answer = server.send("/models/motor/rollback", r#"{"version": 5}"#);
    assert_eq!(answer.version(), Some(7), "{answer:?}");
    assert_eq!(judged(&server, "motor", 2), answers[4]);
    stop(server);
    // Started with fewer to keep, it tidies at the next change.
    let server = start(&folder, &["--keep-versions", "1"]);
    server.retrain("motor", &readings(96, 50, 2)).ok();
    wait_until("one is left", || {
        folder.files("motor") == ["0000000008.iforest"]
    });
}

// A button that is pressed again and again must not fill the disk either, nor take what was trained.
#[test]
fn rollbacks_keep_what_was_trained_and_few_copies() {
    let folder = Folder::new();
    let server = start(&folder, &["--keep-versions", "2", "--n-estimators", TREES]);
    let trained = [90, 91].map(|seed| {
        server.retrain("motor", &readings(seed, 50, 2)).ok();
        judged(&server, "motor", 2)
    });
    for _ in 0..4 {
        for (i, answers) in trained.iter().enumerate() {
            let version = format!("{{\"version\":{}}}", i + 1);
            server.send("/models/motor/rollback", &version).ok();
            assert_eq!(&judged(&server, "motor", 2), answers);
        }
    }
    wait_until("two copies are left", || {
        let numbers = [1, 2, 9, 10].map(|number| format!("{number:010}.iforest"));
        folder.files("motor") == numbers
    });
}

// A site with a model for each of its sensors starts in seconds, tells that it does, and has each
// model under its own name.
#[test]
fn ten_thousand_models_are_loaded_and_told() {
    const MODELS: u64 = 10_000;
    let folder = Folder::new();
    let data = |i: u64| readings(1000 + i, 20 + i as usize % 50, 1);
    for i in 0..MODELS {
        let bytes = encoded(fit(3, data(i)));
        write(&folder.version(&format!("sensor.{i}"), 1), &bytes);
    }
    let began = Instant::now();
    let server = start(&folder, &["--refresh-interval", "0s"]);
    println!("{MODELS} models: listening after {:.1?}", began.elapsed());
    let log = server.log();
    let loaded = format!("loaded {MODELS} of {MODELS} stored models in ");
    let line = log.lines().find(|line| line.contains(&loaded));
    let line = line.unwrap_or_else(|| panic!("it never told {loaded:?}:\n{log}"));
    println!("{line}");
    if began.elapsed() > Duration::from_secs(4) {
        assert!(log.contains("loading models: "), "{log}");
    }
    let list = server.get("/models").json();
    let models = list["models"].as_array().expect("a list");
    // And default.
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

/// The memory that a process holds now, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id()));
    let status = status.expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("a number of KiB") * 1024
}

// How many models fit into a machine is what its operator asks first. The bounds are a quarter
// above what was measured.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_model_takes_no_more_memory_than_told() {
    let base = {
        let folder = Folder::new();
        resident(&start(&folder, &[]))
    };
    for (models, features, bound) in [(500, 1, 220_000), (100, 5, 700_000)] {
        let folder = Folder::new();
        let kinds: Vec<Vec<u8>> = (0..10)
            .map(|i| encoded(fit(100, readings(2000 + i, 500, features))))
            .collect();
        for i in 0..models {
            let bytes = &kinds[i as usize % kinds.len()];
            write(&folder.version(&format!("sensor.{i}"), 1), bytes);
        }
        let server = start(&folder, &[]);
        let log = server.log();
        println!("{:?}", log.lines().find(|line| line.contains("loaded ")));
        let per_model = resident(&server).saturating_sub(base) / models;
        println!(
            "{models} models of {features} features: {per_model} bytes each in memory, {} as files",
            kinds.iter().map(Vec::len).sum::<usize>() / kinds.len()
        );
        assert!(per_model < bound, "{per_model} bytes");
    }
}
