//! The data sets and hashes of `tests/reference/record.py`, repeated, so that the recorded files
//! stay small.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of it

use std::path::Path;

use ndarray::Array2;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A data set as the recording script names it.
#[derive(Debug, Deserialize)]
pub struct DataSpec {
    kind: String,
    rows: usize,
    columns: usize,
    seed: u64,
    #[serde(default = "one")]
    scale: f64,
    #[serde(default)]
    shift: f64,
    #[serde(default)]
    tail: Vec<f64>,
}

fn one() -> f64 {
    1.0
}

impl DataSpec {
    pub fn data(&self) -> Array2<f64> {
        let mut random = SplitMix(self.seed);
        let mut data = Array2::zeros((self.rows, self.columns));
        for ((row, column), slot) in data.indexed_iter_mut() {
            *slot = value(&self.kind, column, row, &mut random) * self.scale + self.shift;
        }
        let first = self.rows - self.tail.len();
        for (i, &value) in self.tail.iter().enumerate() {
            data[(first + i, 0)] = value;
        }
        data
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct SplitMix(pub u64);

impl SplitMix {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = self.0;
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 * 2f64.powi(-53)
    }
}

fn value(kind: &str, column: usize, row: usize, random: &mut SplitMix) -> f64 {
    match kind {
        "uniform" => 5.0 * random.uniform(),
        "bimodal" => {
            let upper = random.uniform() < 0.3;
            let v = random.uniform();
            if upper { 10.0 + 0.5 * v } else { v }
        }
        "skewed" => 1.0 / (random.uniform() + 0.01),
        "quantised" => (20.0 * random.uniform()).floor() * 0.25,
        "constant" => 7.0,
        "index" => row as f64,
        "mixed" => {
            let kinds = ["uniform", "quantised", "constant", "skewed"];
            value(kinds[column % 4], column, row, random)
        }
        _ => panic!("the recording script makes no data set of kind {kind}"),
    }
}

/// FNV-1a over 64-bit words.
pub fn hash_words(words: impl IntoIterator<Item = u64>) -> String {
    let hash = words.into_iter().fold(0xCBF2_9CE4_8422_2325, |hash, word| {
        (hash ^ word).wrapping_mul(0x100_0000_01B3u64)
    });
    format!("{hash:016x}")
}

pub fn hash_floats<'a>(values: impl IntoIterator<Item = &'a f64>) -> String {
    hash_words(values.into_iter().map(|value| value.to_bits()))
}

/// What the recording script wrote.
pub fn fixture<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let text = std::fs::read_to_string(path).expect("the fixture is committed");
    serde_json::from_str(&text).expect("the fixture is JSON as recorded")
}
