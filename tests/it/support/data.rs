//! Parameters, readings, and the results that `tests/reference/record.py` recorded.

use std::path::Path;
use std::sync::LazyLock;

use iforest_server::detector::Detector;
use iforest_server::forest::{IsolationForest, IsolationForestParams};
use iforest_server::store::{self, ModelSettings, Record};
use ndarray::Array2;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::http::Response;

/// The parameters of a server that was started with `--random-state 42`.
pub(crate) fn params() -> IsolationForestParams {
    IsolationForest::params()
        .contamination(0.05)
        .random_state(42)
}

/// The detector that such a server trains with `--n-estimators`.
///
/// It trains on a thread of its own, because another test may keep rayon's global pool busy for
/// seconds, and some tests call this thousands of times.
pub(crate) fn fit(n_estimators: usize, data: Array2<f64>) -> Detector {
    static POOL: LazyLock<ThreadPool> = LazyLock::new(|| {
        let pool = ThreadPoolBuilder::new().num_threads(1).build();
        pool.expect("a thread")
    });
    let params = params().n_estimators(n_estimators);
    let detector = POOL.install(|| Detector::fit(&params, data));
    detector.expect("it trains")
}

/// Readings between 0 and 5 that depend on the seed alone.
pub(crate) fn readings(seed: u64, rows: usize, columns: usize) -> Array2<f64> {
    let mut random = SplitMix(seed);
    Array2::from_shape_simple_fn((rows, columns), || 5.0 * random.uniform())
}

/// 120 readings in steps of 0.25 from 0 to 1.75: a model trained on them can never alarm.
pub(crate) fn quantised() -> Array2<f64> {
    let mut random = SplitMix(8);
    Array2::from_shape_simple_fn((120, 1), || (random.uniform() * 8.0).floor() * 0.25)
}

/// Readings as the JSON field `samples` or `values`: numbers for one feature, arrays for several.
pub(crate) fn samples(data: &Array2<f64>) -> Value {
    if data.ncols() == 1 {
        return json!(data.iter().collect::<Vec<_>>());
    }
    let rows = data.rows().into_iter().map(|row| row.to_vec());
    json!(rows.collect::<Vec<_>>())
}

/// A detector as the bytes of a stored version.
pub(crate) fn encoded(detector: Detector) -> Vec<u8> {
    let record = Record {
        detector,
        window: None,
        held_back: None,
        feature_names: Vec::new(),
        settings: ModelSettings::default(),
        trained_at: 1_700_000_000_000,
        restored_from: None,
    };
    store::encode(&record).expect("it has its trees")
}

/// Whether a response to /predict is the prediction of this detector, bit for bit.
pub(crate) fn is_from(response: &Response, detector: &Detector, row: &[f64]) -> bool {
    let prediction = detector.predict_row(row).expect("a valid reading");
    let body = response.json();
    let score = body["anomaly_score"].as_f64().map(f64::to_bits);
    score == Some(prediction.anomaly_score.to_bits())
        && body["prediction"].as_u64() == Some(u64::from(prediction.is_anomaly))
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = self.0;
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 up to, but not including, 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 * 2f64.powi(-53)
    }
}

/// Reads a file that the recording script wrote.
pub(crate) fn fixture<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let text = std::fs::read_to_string(path).expect("the fixture is committed");
    serde_json::from_str(&text).expect("the fixture has the recorded shape")
}

/// A data set by the name and the arguments that the recording script uses.
#[derive(Debug, Deserialize)]
pub(crate) struct DataSpec {
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
    /// Columns that become random walks.
    #[serde(default)]
    walks: Vec<usize>,
}

fn one() -> f64 {
    1.0
}

impl DataSpec {
    /// Generates the data with the formula of the recording script.
    pub(crate) fn data(&self) -> Array2<f64> {
        let mut random = SplitMix(self.seed);
        let mut data = Array2::zeros((self.rows, self.columns));
        for ((row, column), slot) in data.indexed_iter_mut() {
            *slot = value(&self.kind, column, row, &mut random) * self.scale + self.shift;
        }
        let first = self.rows - self.tail.len();
        for (i, &value) in self.tail.iter().enumerate() {
            data[(first + i, 0)] = value;
        }
        for &column in &self.walks {
            let mut total = 0.0;
            for value in data.column_mut(column) {
                total += *value - 2.5;
                *value = total;
            }
        }
        data
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
        _ => panic!("the recording script has no data set of kind {kind}"),
    }
}

/// FNV-1a over 64-bit words.
pub(crate) fn hash_words(words: impl IntoIterator<Item = u64>) -> String {
    let hash = words.into_iter().fold(0xCBF2_9CE4_8422_2325, |hash, word| {
        (hash ^ word).wrapping_mul(0x100_0000_01B3u64)
    });
    format!("{hash:016x}")
}

pub(crate) fn hash_floats<'a>(values: impl IntoIterator<Item = &'a f64>) -> String {
    hash_words(values.into_iter().map(|value| value.to_bits()))
}
