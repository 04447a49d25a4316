//! Kills at any instant, and the unfinished files that they leave.

use std::time::Duration;

use serde_json::json;

use super::TREES;
use crate::support::data::{SplitMix, encoded, fit, is_from, readings, samples};
use crate::support::folder::{Folder, write};
use crate::support::http::request;
use crate::support::server::Server;

/// The readings of the training with this number. Trainings differ in their readings, and
/// successive ones in the number of readings too.
fn training(number: u64, features: usize) -> ndarray::Array2<f64> {
    readings(number, 20 + number as usize % 97, features)
}

/// A model that is retrained again and again while the server is killed.
struct Trainee {
    name: &'static str,
    features: usize,
    /// The training and version that the server acknowledged, or was found to serve.
    acknowledged: Option<(u64, u64)>,
    /// The training that was sent and not acknowledged.
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

    /// Checks that the served model is the last acknowledged training, or the one that the kill
    /// interrupted, and whole. Returns true for the latter.
    fn check(&mut self, server: &Server) -> bool {
        let info = server.model(self.name);
        let version = info.json()["version"].as_u64();
        let acknowledged = self.acknowledged.map(|(_, version)| version);
        let next = acknowledged.unwrap_or(0) + 1;
        let sent = self.sent.take();
        let interrupted = version == Some(next);
        if interrupted {
            let training = sent.expect("a served training was sent");
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
        interrupted
    }

    /// Retrains. Returns false once the server is dead.
    fn retrain(&mut self, address: &str, number: u64) -> bool {
        self.sent = Some(number);
        let body = json!({ "samples": samples(&training(number, self.features)) }).to_string();
        let path = format!("/models/{}/retrain", self.name);
        let Ok(answer) = request(address, "POST", &path, &body) else {
            return false;
        };
        assert_eq!(answer.status, 200, "{answer:?}");
        let version = answer.version().expect("stored");
        self.acknowledged = Some((number, version));
        self.sent = None;
        true
    }
}

// A power cut or an impatient operator may stop the server at any instant. It must start again
// without finding a damaged file, and serve what it had acknowledged or the whole of what it was
// storing.
#[test]
fn hundreds_of_kills_at_random_instants_lose_no_acknowledged_training() {
    const WHILE_TRAINING: usize = 250;
    const WHILE_STARTING: usize = 80;
    let folder = Folder::new();
    let options = ["--n-estimators", TREES, "--keep-versions", "3"];
    let mut trainees = [Trainee::new("default", 1), Trainee::new("motor.7", 3)];
    let mut random = SplitMix(7);
    let mut number = 0;
    let (mut interrupted, mut stored_anyway) = (0, 0);
    let assert_healthy = |log: &str| {
        for sign in ["cannot be served", "skipped", "panicked", "ERROR"] {
            assert!(!log.contains(sign), "{log}");
        }
    };
    for life in 0..WHILE_TRAINING {
        if life * WHILE_STARTING / WHILE_TRAINING != (life + 1) * WHILE_STARTING / WHILE_TRAINING {
            let starting = Server::spawn_only(Server::command_on(&folder, &options));
            let micros = random.next() % 15_000;
            std::thread::sleep(Duration::from_micros(micros));
            assert_healthy(&starting.kill());
        }
        let server = Server::on(&folder, &options);
        for trainee in &mut trainees {
            stored_anyway += usize::from(trainee.check(&server));
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
        assert_healthy(&log);
        interrupted += trainees.iter().filter(|t| t.sent.is_some()).count();
    }
    let server = Server::on(&folder, &options);
    for trainee in &mut trainees {
        stored_anyway += usize::from(trainee.check(&server));
        let kept = folder.files(trainee.name);
        let unfinished = kept.iter().filter(|file| file.contains('#')).count();
        println!("{}: {unfinished} unfinished files left", trainee.name);
    }
    assert!(!folder.path().join("set-aside").exists());
    println!(
        "{number} trainings, {interrupted} of them interrupted by {WHILE_TRAINING} kills, \
         {stored_anyway} of those stored; {WHILE_STARTING} kills while starting"
    );
    assert!(
        interrupted > WHILE_TRAINING / 4,
        "enough kills must hit trainings"
    );
}

// A kill may leave half-written files.
#[test]
fn unfinished_files_are_not_served_do_not_block_a_version_and_are_removed() {
    let folder = Folder::new();
    let bytes = encoded(fit(10, readings(1, 50, 1)));
    write(&folder.version("default", 1), &bytes);
    let unfinished = ["models/default/0000000002.iforest#1", "changed#1"];
    // With numbers that the server does not reach, so that it creates no files of these names.
    let abandoned = ["models/default/0000000002.iforest#7", "changed#7"];
    for file in unfinished.iter().chain(&abandoned) {
        write(&folder.path().join(file), &bytes[..bytes.len() / 2]);
    }
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
    for file in abandoned {
        let file = std::fs::File::options()
            .write(true)
            .open(folder.path().join(file));
        let file = file.expect("the file exists");
        file.set_modified(long_ago).expect("a time");
    }
    let server = Server::on(&folder, &[]);
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
