//! What the tests of stored models share: folders, whole answers, and models made by the library.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of it

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use iforest_server::detector::Detector;
use iforest_server::forest::{IsolationForest, IsolationForestParams};
use iforest_server::store::{self, ModelSettings, Record};
use ndarray::Array2;
use serde_json::Value;

use crate::common::{Server, SplitMix};

/// A folder of its own, removed with all that is in it when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("iforest-server-test-{}-store-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn text(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }

    /// Where it can be moved to for a while.
    pub fn away(&self) -> PathBuf {
        self.0.with_extension("away")
    }

    /// Where a version of a model lies.
    pub fn version(&self, model: &str, version: u64) -> PathBuf {
        self.0.join(version_path("models", model, version))
    }

    /// The versions of a model that lie here, as their files are called.
    pub fn files(&self, model: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join("models").join(model));
        let entries = entries.into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_dir_all(self.away());
    }
}

/// The documented layout of a store.
pub fn version_path(kind: &str, model: &str, version: u64) -> String {
    format!("{kind}/{model}/{version:010}.iforest")
}

/// Writes a file and the folders above it.
pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
    std::fs::write(path, bytes).expect("it can be written");
}

/// A response, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("JSON, got {self:?}"))
    }

    /// The body of an answer that must be 200.
    pub fn ok(self) -> String {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    pub fn version(&self) -> Option<u64> {
        self.json()["version"].as_u64()
    }

    pub fn samples_used(&self) -> Option<u64> {
        self.json()["samples_used"].as_u64()
    }
}

/// One request on a connection of its own. An error where the whole response does not come.
pub fn ask(address: &str, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let cut_short = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut short");
    let (head, body) = response.split_once("\r\n\r\n").ok_or_else(cut_short)?;
    let field = |name: &str| {
        let mut lines = head.lines();
        lines.find_map(|line| line.to_lowercase().strip_prefix(name)?.trim().parse().ok())
    };
    let length: usize = field("content-length:").ok_or_else(cut_short)?;
    if body.len() != length {
        return Err(cut_short());
    }
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(Answer {
        status: status.ok_or_else(cut_short)?,
        body: body.to_owned(),
    })
}

/// Requests to a server that runs.
pub trait Ask {
    fn address(&self) -> &str;

    fn get(&self, path: &str) -> Answer {
        ask(self.address(), "GET", path, "").expect("it answers")
    }

    fn send(&self, path: &str, body: &str) -> Answer {
        ask(self.address(), "POST", path, body).expect("it answers")
    }

    fn delete(&self, path: &str) -> Answer {
        ask(self.address(), "DELETE", path, "").expect("it answers")
    }

    /// What is known of a model.
    fn model(&self, name: &str) -> Answer {
        self.get(&format!("/models/{name}"))
    }

    fn retrain(&self, name: &str, data: &Array2<f64>) -> Answer {
        let body = format!("{{\"samples\":{}}}", json(data));
        self.send(&format!("/models/{name}/retrain"), &body)
    }

    fn predict(&self, name: &str, row: &[f64]) -> Answer {
        let body = format!("{{\"value\":{row:?}}}");
        self.send(&format!("/models/{name}/predict"), &body)
    }
}

impl Ask for Server {
    fn address(&self) -> &str {
        &self.address
    }
}

/// Rows as a list of lists.
pub fn json(data: &Array2<f64>) -> String {
    let rows: Vec<Vec<f64>> = data.rows().into_iter().map(|row| row.to_vec()).collect();
    serde_json::to_string(&rows).expect("finite numbers")
}

/// Readings that a seed determines.
pub fn readings(seed: u64, rows: usize, columns: usize) -> Array2<f64> {
    let mut random = SplitMix(seed);
    let width = 1.0 + 4.0 * random.uniform();
    Array2::from_shape_simple_fn((rows, columns), || width * random.uniform())
}

/// The parameters of a server with `--random-state 42` and so many `--n-estimators`.
pub fn params(n_estimators: usize) -> IsolationForestParams {
    IsolationForest::params()
        .contamination(0.05)
        .n_estimators(n_estimators)
        .random_state(42)
}

pub fn fit(n_estimators: usize, data: Array2<f64>) -> Detector {
    Detector::fit(&params(n_estimators), data).expect("it trains")
}

/// A detector as it is stored.
pub fn stored(detector: Detector) -> Vec<u8> {
    let record = Record {
        detector,
        feature_names: Vec::new(),
        settings: ModelSettings::default(),
        trained_at: 1_700_000_000_000,
        restored_from: None,
    };
    store::encode(&record).expect("it has its trees")
}

/// Whether a prediction is the one of this detector, to the last bit.
pub fn is_from(answer: &Answer, detector: &Detector, row: &[f64]) -> bool {
    let prediction = detector.predict_row(row).expect("a good reading");
    let answer = answer.json();
    let score = answer["anomaly_score"].as_f64().map(f64::to_bits);
    score == Some(prediction.anomaly_score.to_bits())
        && answer["prediction"].as_u64() == Some(u64::from(prediction.is_anomaly))
}

/// Waits until something holds; returns how long it took.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    start.elapsed()
}

/// Whether a program does here what a test needs; says that the test is not run where it does not.
pub fn there_is(program: &str, arguments: &[&str]) -> bool {
    let tried = Command::new(program).args(arguments).output();
    let works = tried.is_ok_and(|output| output.status.success());
    if !works {
        println!("NOT RUN: {program} {arguments:?} does not work here");
    }
    works
}

/// A command in a namespace of its own, where every user may mount, if the system allows that; `$0`
/// of what is run before it is a folder.
pub fn mounted(before: &str, folder: &Folder, program: &Command) -> Option<Command> {
    let probe = ["-Urm", "sh", "-c", before, folder.text()];
    there_is("unshare", &probe).then(|| {
        let mut command = Command::new("unshare");
        command
            .args(["-Urm", "sh", "-c", &format!(r#"{before} && exec "$@""#)])
            .arg(folder.path())
            .arg(program.get_program())
            .args(program.get_args());
        command
    })
}
