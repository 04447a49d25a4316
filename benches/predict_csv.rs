//! How fast a file is predicted: the real program, from a file to a file, beside reading the same
//! file with the crate `csv` on one thread, as records of bytes and as numbers. `cargo bench --bench
//! predict_csv` prints the ratios, in alternating order, since other programs may slow one of them
//! down.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::File;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use csv::ByteRecord;
use iforest_server::detector::Detector;
use iforest_server::forest::IsolationForest;
use iforest_server::store::{self, ModelSettings, Record};
use ndarray::Array2;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How often each is measured.
const ROUNDS: usize = 7;

/// The length of each file, in bytes.
const FILE_SIZE: usize = 64 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("iforest-bench-{}", std::process::id()));
    let result = compare(&folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn compare(folder: &Path) -> Result<(), Box<dyn Error>> {
    for (what, features, has_time) in [
        ("one feature", 1, false),
        ("time and one feature", 1, true),
        ("time and 8 features", 8, true),
    ] {
        let version = folder.join("store/models/default/0000000001.iforest");
        std::fs::create_dir_all(version.parent().ok_or("a folder")?)?;
        std::fs::write(version, model(features)?)?;
        let (file, rows) = readings(folder, features, has_time)?;
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push([
                predict(folder, &file, rows)?,
                read(&file, rows, |_| Ok(()))?,
                read(&file, rows, |record| numbers(record, has_time))?,
            ]);
        }
        let predicting = median(times.iter().map(|[predicting, ..]| *predicting));
        println!(
            "{what}, {rows} readings: predict {predicting:.2} s, {:.1} million per second",
            rows as f64 / predicting / 1e6,
        );
        for (index, reading) in [(1, "csv as bytes"), (2, "csv as numbers")] {
            let mut ratios: Vec<f64> = times.iter().map(|t| t[index] / t[0]).collect();
            ratios.sort_by(f64::total_cmp);
            println!(
                "  {reading} {:.2} s, ratio {:.2} ({:.2} to {:.2})",
                median(times.iter().map(|times| times[index])),
                ratios[ROUNDS / 2],
                ratios[0],
                ratios[ROUNDS - 1],
            );
        }
    }
    Ok(())
}

fn median(times: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = times.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Values between 0 and 5.
fn data(seed: u64, rows: usize, columns: usize) -> Array2<f64> {
    let mut random = StdRng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((rows, columns), || random.gen_range(0.0..5.0))
}

/// A stored model of so many features.
fn model(features: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let params = IsolationForest::params().random_state(42);
    let record = Record {
        detector: Detector::fit(&params, data(1, 2000, features))?,
        window: None,
        held_back: None,
        feature_names: Vec::new(),
        settings: ModelSettings::default(),
        trained_at: 0,
        restored_from: None,
    };
    Ok(store::encode(&record)?)
}

/// Writes a file of readings; returns its path and the number of readings.
fn readings(
    folder: &Path,
    features: usize,
    has_time: bool,
) -> Result<(PathBuf, usize), Box<dyn Error>> {
    let data = data(2, 100_000, features);
    let mut text = String::with_capacity(FILE_SIZE + 256);
    if has_time {
        text.push_str("time");
        for feature in 0..features {
            write!(text, ",sensor {}", char::from(b'a' + feature as u8))?;
        }
        text.push('\n');
    }
    let mut count = 0;
    for row in data.rows().into_iter().cycle() {
        if text.len() >= FILE_SIZE {
            break;
        }
        if has_time {
            let (hour, minute, second) = (count / 3600 % 24, count / 60 % 60, count % 60);
            write!(text, "2026-11-24T{hour:02}:{minute:02}:{second:02}Z,")?;
        }
        let values: Vec<String> = row.iter().map(|value| format!("{value:.4}")).collect();
        writeln!(text, "{}", values.join(","))?;
        count += 1;
    }
    let path = folder.join("readings.csv");
    std::fs::write(&path, text)?;
    Ok((path, count))
}

/// The numbers of a record.
fn numbers(record: &ByteRecord, has_time: bool) -> Result<(), Box<dyn Error>> {
    for field in record.iter().skip(usize::from(has_time)) {
        black_box(str::from_utf8(field)?.parse::<f64>()?);
    }
    Ok(())
}

/// Reads all records with the crate `csv`. Returns the seconds that it takes.
fn read(
    file: &Path,
    rows: usize,
    each: impl Fn(&ByteRecord) -> Result<(), Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_path(file)?;
    let mut record = ByteRecord::new();
    let mut count = 0;
    while reader.read_byte_record(&mut record)? {
        // The names of the columns.
        if record
            .get(1)
            .is_none_or(|field| !field.starts_with(b"sensor"))
        {
            each(&record)?;
        }
        count += 1;
    }
    let elapsed = start.elapsed().as_secs_f64();
    assert!(count == rows || count == rows + 1, "all lines are read");
    Ok(elapsed)
}

/// Predicts the file with the real program. Returns the seconds that it takes.
fn predict(folder: &Path, file: &Path, rows: usize) -> Result<f64, Box<dyn Error>> {
    // A new file: to overwrite the last one would wait for it to reach the disk.
    let predictions = folder.join("predictions.csv");
    if predictions.exists() {
        std::fs::remove_file(&predictions)?;
    }
    let output = File::create(&predictions)?;
    let start = Instant::now();
    let done = Command::new(env!("CARGO_BIN_EXE_iforest-server"))
        .arg("predict")
        .arg("--store")
        .arg(folder.join("store"))
        .stdin(File::open(file)?)
        .stdout(output)
        .stderr(Stdio::piped())
        .output()?;
    let elapsed = start.elapsed().as_secs_f64();
    let summary = String::from_utf8(done.stderr)?;
    let expected = format!("readings: {rows};");
    assert!(
        done.status.success() && summary.contains(&expected),
        "{summary}"
    );
    Ok(elapsed)
}
