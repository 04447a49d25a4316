//! Crafted models: their checksum is right, but no training makes them.

use iforest_server::detector::Detector;
use iforest_server::forest::MaxSamples;
use iforest_server::store::{self, FormatError, ModelSettings, Record};
use ndarray::{Array2, array};
use serde::{Deserialize, Serialize};

use crate::store::{Settings1, encode_record_1, record};
use crate::support::data::{encoded, fit, params, readings};
use crate::support::folder::{Folder, version_path, write};
use crate::support::server::Server;

/// The fields of a version of format 1, open to any value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Fields {
    mean: Vec<f64>,
    scale: Vec<f64>,
    n_estimators: usize,
    max_samples_param: MaxSamples,
    contamination: f64,
    seed: Option<u32>,
    random_state: u32,
    n_features: u32,
    n_samples: u32,
    max_samples: u32,
    /// For each node in depth-first order, the feature that splits it, counted from 1, or 0.
    split: Vec<u32>,
    threshold: Vec<f64>,
    leaf_rows: Vec<u32>,
    offset: f64,
    decision_threshold: f64,
    training_ranges: Vec<(f64, f64)>,
    feature_names: Vec<String>,
    settings: Settings1,
    trained_at: u64,
    restored_from: Option<u64>,
}

const LINE: &[u8] = b"iforest-server model 1\n";

impl Fields {
    fn of(record: &Record) -> Self {
        postcard::from_bytes(&encode_record_1(record)).expect("the same fields in the same order")
    }

    /// A forest over two features whose trees were grown from `rows` rows each.
    fn forest(rows: u32, trees: impl IntoIterator<Item = (Vec<u32>, Vec<u32>)>) -> Self {
        let mut fields = Self::of(&record());
        let (mut split, mut leaf_rows, mut count) = (Vec::new(), Vec::new(), 0);
        for (splits, leaves) in trees {
            split.extend(splits);
            leaf_rows.extend(leaves);
            count += 1;
        }
        fields.threshold = vec![0.5; split.iter().filter(|&&split| split > 0).count()];
        (fields.split, fields.leaf_rows) = (split, leaf_rows);
        fields.n_estimators = count;
        (fields.n_samples, fields.max_samples) = (rows, rows);
        fields.max_samples_param = MaxSamples::Count(rows as usize);
        fields
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = postcard::to_extend(self, LINE.to_vec()).expect("it fits");
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}

/// A tree that is a chain of splits with one row beside each.
fn chain(depth: usize, rows: u32) -> (Vec<u32>, Vec<u32>) {
    let split = [vec![1; depth], vec![0; depth + 1]].concat();
    let mut leaf_rows = vec![1; depth + 1];
    leaf_rows[0] = rows - depth as u32;
    (split, leaf_rows)
}

fn leaf(rows: u32) -> (Vec<u32>, Vec<u32>) {
    (vec![0], vec![rows])
}

// Each would panic, loop, take memory or predict nonsense if it were served.
#[test]
fn crafted_models_are_refused_as_damaged() {
    let valid = Fields::of(&record());
    assert_eq!(store::decode(&valid.bytes()), Ok(record()));
    assert!(store::decode(&Fields::forest(512, [chain(9, 512), leaf(512)]).bytes()).is_ok());

    type Change = fn(&mut Fields);
    let changes: &[(&str, Change)] = &[
        ("no features", |f| {
            (f.mean, f.scale, f.training_ranges) = (vec![], vec![], vec![]);
            f.feature_names = vec![];
            f.n_features = 0;
        }),
        ("no features, and only leaves", |f| {
            *f = Fields::forest(10, [leaf(10)]);
            (f.mean, f.scale, f.training_ranges) = (vec![], vec![], vec![]);
            f.feature_names = vec![];
            f.n_features = 0;
        }),
        ("2^32-1 features", |f| f.n_features = u32::MAX),
        ("no readings", |f| f.n_samples = 0),
        ("no readings at all", |f| {
            *f = Fields::forest(0, [leaf(0)]);
            f.max_samples_param = MaxSamples::Auto;
        }),
        ("max_samples 0", |f| f.max_samples = 0),
        ("max_samples 0 as a setting", |f| {
            f.max_samples_param = MaxSamples::Count(0);
        }),
        ("max_samples NaN", |f| {
            f.max_samples_param = MaxSamples::Fraction(f64::NAN);
        }),
        ("other max_samples than the readings give", |f| {
            f.n_samples = 21_000;
        }),
        ("n_node_samples beyond max_samples", |f| f.leaf_rows[0] += 1),
        ("n_node_samples that overflow", |f| {
            f.leaf_rows[0] = u32::MAX;
        }),
        ("an empty leaf", |f| {
            *f = Fields::forest(2, [(vec![1, 0, 0], vec![0, 2])]);
        }),
        ("a tree deeper than 512 readings make", |f| {
            *f = Fields::forest(512, [chain(10, 512)]);
        }),
        ("a tree of 100,000 levels", |f| {
            *f = Fields::forest(200_000, [chain(100_000, 200_000)]);
        }),
        ("no trees", |f| *f = Fields::forest(10, [])),
        ("0 trees announced", |f| f.n_estimators = 0),
        ("fewer trees than announced", |f| f.n_estimators = 4),
        ("2^64-1 trees announced", |f| f.n_estimators = usize::MAX),
        ("more than 100,000 trees", |f| {
            *f = Fields::forest(1, std::iter::repeat_n(leaf(1), 100_001));
        }),
        ("a split without children", |f| f.split.push(1)),
        ("a node too many", |f| f.split.push(0)),
        ("a threshold too many", |f| f.threshold.push(0.0)),
        ("a leaf too many", |f| f.leaf_rows.push(1)),
        ("a feature that does not exist", |f| {
            let split = f.split.iter_mut().find(|split| **split > 0);
            *split.expect("a split") = 3;
        }),
        ("the feature that stands for a leaf", |f| {
            let split = f.split.iter_mut().find(|split| **split > 0);
            *split.expect("a split") = u32::MAX;
        }),
        ("a threshold of a split that is NaN", |f| {
            f.threshold[0] = f64::NAN;
        }),
        ("a threshold of a split that is infinite", |f| {
            f.threshold[0] = f64::INFINITY;
        }),
        ("a threshold that is NaN", |f| {
            f.decision_threshold = f64::NAN;
        }),
        ("an infinite threshold", |f| {
            f.decision_threshold = f64::NEG_INFINITY;
        }),
        ("an offset that is NaN", |f| f.offset = f64::NAN),
        ("a contamination of 0", |f| f.contamination = 0.0),
        ("a contamination that is NaN", |f| {
            f.contamination = f64::NAN;
        }),
        ("a scale of 0", |f| f.scale[0] = 0.0),
        ("a scale that is NaN", |f| f.scale[0] = f64::NAN),
        ("an infinite scale", |f| f.scale[0] = f64::INFINITY),
        ("an infinite mean", |f| f.mean[0] = f64::INFINITY),
        ("a mean too many", |f| f.mean.push(0.0)),
        ("a scaler of one feature", |f| {
            (f.mean, f.scale) = (vec![0.0], vec![1.0]);
        }),
        ("a range too few", |f| {
            f.training_ranges.pop();
        }),
        ("a range that ends before it begins", |f| {
            f.training_ranges[0] = (1.0, 0.0);
        }),
        ("an infinite range", |f| {
            f.training_ranges[0] = (f64::NEG_INFINITY, f64::INFINITY);
        }),
        ("a name too many", |f| f.feature_names.push("x".to_owned())),
        ("one name of two", |f| {
            f.feature_names.pop();
        }),
        ("settings out of range: contamination", |f| {
            f.settings.contamination = Some(f64::NAN);
        }),
        ("settings out of range: n_estimators", |f| {
            f.settings.n_estimators = Some(usize::MAX);
        }),
        ("settings out of range: max_samples", |f| {
            f.settings.max_samples = Some(MaxSamples::Count(0));
        }),
        ("settings out of range: a negative margin", |f| {
            f.settings.out_of_range_margin = Some(-1.0);
        }),
        ("settings out of range: an infinite margin", |f| {
            f.settings.out_of_range_margin = Some(f64::INFINITY);
        }),
    ];
    for (name, change) in changes {
        let mut fields = valid.clone();
        change(&mut fields);
        let read = store::decode(&fields.bytes());
        let refused = matches!(read, Err(FormatError::Damaged(_)));
        assert!(refused, "{name}: {:?}", read.map(|_| "accepted"));
    }
}

// A list that claims to be longer than the file must not be believed.
#[test]
fn lengths_are_not_trusted() {
    // The greatest length, in front of few bytes, at each position.
    let valid = Fields::of(&record()).bytes();
    let valid = &valid[..valid.len() - 4];
    for length in [
        &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F][..],
        &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
    ] {
        for position in LINE.len()..valid.len() {
            let mut bytes = [&valid[..position], length, &valid[position + 1..]].concat();
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            let _ = store::decode(&bytes);
        }
    }
}

// What format 2 says of a model in its metadata must be true of its detector.
#[test]
fn metadata_of_another_model_are_refused() {
    let mut other = record();
    other.detector = fit(3, readings(9, 20, 2));
    other.settings = ModelSettings::default();
    let (bytes, other) = (
        store::encode(&record()).expect("whole"),
        store::encode(&other).expect("whole"),
    );
    let section = |bytes: &[u8]| {
        let start = bytes.windows(9).position(|bytes| bytes == b"detector ");
        start.expect("the section")
    };
    let mut mixed = [&bytes[..section(&bytes)], &other[section(&other)..]].concat();
    mixed.truncate(mixed.len() - 4);
    mixed.extend(crc32fast::hash(&mixed).to_le_bytes());
    let read = store::decode(&mixed);
    let expected = "its metadata are not those of its detector";
    assert_eq!(read, Err(FormatError::Damaged(expected.to_owned())));
}

// Each reading that a training accepts gives a model that can be read again, however strange it is.
#[test]
fn models_of_extreme_readings_are_read_again() {
    let row = |values: &[f64]| Array2::from_shape_fn((values.len(), 1), |(i, _)| values[i]);
    for readings in [
        row(&[1.0]),
        row(&[1e200, -1e200, 1e200, 0.0]),
        row(&[1e300; 5]),
        row(&[f64::MAX / 8.0, -f64::MAX / 8.0, 1.0, 2.0]),
        row(&[5e-324, 0.0, -0.0, -5e-324]),
        row(&[1e39, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
        array![[1e200, 1.0], [-1e200, 1.0], [0.0, 1.0], [1.0, 2.0]],
        array![[f64::MIN_POSITIVE, 1e154], [1.0, -1e154], [0.0, 1.0]],
    ] {
        for max_samples in [MaxSamples::Auto, MaxSamples::Count(1), MaxSamples::Count(2)] {
            let params = params().n_estimators(20).max_samples(max_samples);
            let Ok(detector) = Detector::fit(&params, readings.clone()) else {
                continue;
            };
            let read = store::decode(&encoded(detector.clone()));
            let read = read.map(|record| record.detector);
            assert_eq!(read, Ok(detector), "{readings} {max_samples}");
        }
    }
}

// 200 KB of trees of one leaf, and one of nine levels, took 1.2 GB when every tree was padded to
// that depth. No training makes them either, but nothing else tells them from the trees of readings
// that are nearly all equal, so they are served, and take little.
#[cfg(target_os = "linux")]
#[test]
fn no_model_takes_much_more_memory_than_its_file() {
    let trees = std::iter::repeat_n(leaf(520), 66_000).chain([chain(9, 520)]);
    let bytes = Fields::forest(520, trees).bytes();
    assert!(bytes.len() < 200_000);
    let folder = Folder::new();
    let small = encoded(fit(3, readings(1, 40, 1)));
    write(&folder.version("default", 1), &small);
    write(&folder.version("crafted", 1), &bytes);
    let server = Server::on(&folder, &[]);
    assert_eq!(server.predict("crafted", &[1.0, 2.0]).status, 200);
    let peak = server.memory("VmHWM");
    assert!(peak < 64 * 1024 * 1024, "{peak} bytes");
}

// One bad model must not stop the start, the other models, or its own older version.
#[test]
fn crafted_models_are_quarantined_at_the_start() {
    let folder = Folder::new();
    let good = encoded(fit(3, readings(1, 40, 1)));
    let mut crafted = Fields::of(&record());
    crafted.decision_threshold = f64::NAN;
    for model in ["default", "motor"] {
        write(&folder.version(model, 1), &good);
        write(&folder.version(model, 2), &crafted.bytes());
    }
    let mut timeless = Fields::of(&record());
    (timeless.trained_at, timeless.restored_from) = (u64::MAX, Some(u64::MAX));
    write(&folder.version("timeless", 1), &timeless.bytes());
    let server = Server::on(&folder, &[]);
    for model in ["default", "motor"] {
        assert_eq!(server.model(model).version(), Some(1));
        assert!(
            folder
                .path()
                .join(version_path("set-aside", model, 2))
                .exists()
        );
    }
    // A clock that runs far ahead gives such times.
    let info = server.model("timeless").json();
    assert_eq!(info["trained_at"], "9999-12-31T23:59:59Z");
    assert_eq!(info["restored_from"], u64::MAX);
    let answer = server.post("/models/timeless/rollback", "");
    assert_eq!(answer.version(), Some(2), "{answer:?}");
}
