//! The forest against recorded results of scikit-learn and PyOD (`tests/reference/record.py`), bit
//! for bit, and its promises as a linfa algorithm.

mod common;
#[path = "common/plain.rs"]
mod plain;

use common::{DataSpec, RECORDED_SCORES, SplitMix, fixture, hash_floats, hash_words};
use iforest_server::forest::{
    FitError, IsolationForest, IsolationForestParams, MaxSamples, ParamsError, ScoreError,
};
use linfa::prelude::*;
use ndarray::{Array1, Array2, array};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Case {
    data: DataSpec,
    params: Params,
    nodes: usize,
    trees: String,
    offset: String,
    threshold: String,
    train_decisions: String,
    train_anomalies: usize,
    probes: usize,
    score_samples: String,
    decisions: String,
    anomalies: usize,
    first_decisions: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Params {
    random_state: u32,
    contamination: Option<f64>,
    n_estimators: Option<usize>,
    max_samples: Option<serde_json::Number>,
}

impl Params {
    fn forest(&self) -> IsolationForestParams {
        let max_samples = match &self.max_samples {
            None => MaxSamples::Auto,
            // Python's rule: a whole number counts rows, one with a decimal point is a share.
            Some(number) => match number.as_u64() {
                Some(count) => MaxSamples::Count(count as usize),
                None => MaxSamples::Fraction(number.as_f64().expect("a number")),
            },
        };
        IsolationForest::params()
            .random_state(self.random_state)
            .contamination(self.contamination.unwrap_or(0.1))
            .n_estimators(self.n_estimators.unwrap_or(100))
            .max_samples(max_samples)
    }
}

fn hex(value: f64) -> String {
    format!("{:016x}", value.to_bits())
}

fn count(labels: &Array1<bool>) -> usize {
    labels.iter().filter(|&&label| label).count()
}

fn tree_words(forest: &IsolationForest) -> impl Iterator<Item = u64> {
    forest.trees().flat_map(|tree| {
        let nodes = (0..tree.node_count()).flat_map(move |node| {
            let rows = u64::from(tree.n_node_samples()[node]);
            match (tree.split(node), tree.children(node)) {
                (Some((feature, threshold)), Some((left, right))) => [
                    feature as u64,
                    threshold.to_bits(),
                    left as u64,
                    right as u64,
                    rows,
                ],
                _ => [0xFFFF_FFFF, 0, 0, 0, rows],
            }
        });
        std::iter::once(tree.node_count() as u64).chain(nodes)
    })
}

/// Rows at thresholds of the forest and one ulp beside them, in `f64` and in `f32`, and rows far
/// away: as the recording script makes them.
fn probes(forest: &IsolationForest, data: &Array2<f64>) -> Array2<f64> {
    let width = data.ncols();
    let mut rows: Vec<Vec<f64>> = Vec::new();
    let trees: Vec<_> = forest.trees().collect();
    let mut indices = vec![0, trees.len() / 2, trees.len() - 1];
    indices.dedup();
    for index in indices {
        let splits: Vec<(usize, f64)> = (0..trees[index].node_count())
            .filter_map(|node| trees[index].split(node))
            .collect();
        let step = (splits.len() / 20).max(1);
        for (k, &(feature, threshold)) in splits.iter().step_by(step).enumerate() {
            let near = threshold as f32;
            for value in [
                threshold,
                threshold.next_down(),
                threshold.next_up(),
                f64::from(near),
                f64::from(near.next_down()),
                f64::from(near.next_up()),
            ] {
                let mut row = data.row(k % data.nrows()).to_vec();
                row[feature] = value;
                rows.push(row);
            }
        }
    }
    for value in [
        0.0, -0.0, 5e-324, -5e-324, 1e-40, 1e30, -1e30, 1e39, -1e39, 1.7e308, -1.7e308,
    ] {
        rows.push(vec![value; width]);
    }
    rows.retain(|row| row.iter().all(|value| value.is_finite()));
    Array2::from_shape_vec((rows.len(), width), rows.concat()).expect("rows of one width")
}

// The product's main promise, with zero tolerance: the same trees, and from them the same offset,
// threshold, scores and labels, on every kind of data that was recorded.
#[test]
fn equals_scikit_learn_and_pyod_to_the_bit() {
    let cases: Vec<Case> = fixture("forest.json");
    assert!(cases.len() > 100);
    for case in cases {
        let context = format!("{:?} {:?}", case.data, case.params);
        let data = case.data.data();
        let dataset = DatasetBase::from(data.clone());
        let forest = case.params.forest().fit(&dataset).expect(&context);

        let nodes: usize = forest.trees().map(|tree| tree.node_count()).sum();
        assert_eq!(nodes, case.nodes, "number of nodes, {context}");
        assert_eq!(
            hash_words(tree_words(&forest)),
            case.trees,
            "trees, {context}"
        );

        let rows = probes(&forest, &data);
        assert_eq!(rows.nrows(), case.probes, "number of probes, {context}");
        let decisions = forest.decision_function(&rows).expect(&context);
        let scores = forest.score_samples(&rows).expect(&context);
        if RECORDED_SCORES {
            assert_eq!(hex(forest.offset()), case.offset, "offset, {context}");
            assert_eq!(
                hex(forest.threshold()),
                case.threshold,
                "threshold, {context}"
            );
            let of_training = forest.decision_function(&data).expect(&context);
            assert_eq!(hash_floats(&of_training), case.train_decisions, "{context}");
            assert_eq!(
                count(&forest.predict(&data)),
                case.train_anomalies,
                "{context}"
            );
            let first: Vec<String> = decisions.iter().take(4).map(|&d| hex(d)).collect();
            assert_eq!(first, case.first_decisions, "{context}");
            assert_eq!(hash_floats(&decisions), case.decisions, "{context}");
            assert_eq!(hash_floats(&scores), case.score_samples, "{context}");
            assert_eq!(count(&forest.predict(&rows)), case.anomalies, "{context}");
        }

        // One row at a time, and through linfa's traits, it is the same function.
        for (row, &decision) in rows.rows().into_iter().zip(&decisions) {
            let row = row.to_vec();
            let one = forest.decision_function_one(&row).expect(&context);
            assert_eq!(hex(one), hex(decision), "{row:?}, {context}");
        }
        let through_linfa: Array1<f64> = forest.transform(&rows);
        assert_eq!(
            hash_floats(&through_linfa),
            hash_floats(&decisions),
            "{context}"
        );
    }
}

// Every fast path is the plain evaluation: on each way in which a forest is evaluated (by features
// and depth), at thresholds, one ulp beside them, at zeros of both signs, subnormals, beyond f32.
#[test]
fn every_evaluator_has_the_bits_of_the_plain_evaluation() {
    for (rows, columns, max_samples, scale) in [
        (500, 1, 256, 1.0),
        (500, 1, 256, 1e30),
        (40, 1, 40, 1e-6),
        (5000, 1, 5000, 1.0),
        (300, 2, 256, 1.0),
        (300, 7, 64, 1e-3),
        (300, 16, 256, 1.0),
        (300, 17, 256, 1.0),
        (700, 33, 256, 1e5),
        (300, 256, 64, 1.0),
        (100, 300, 64, 1.0),
        (1024, 3, 1024, 1.0),
        (1024, 20, 1024, 1.0),
        (3000, 3, 3000, 1.0),
    ] {
        let mut random = SplitMix(rows as u64);
        let data = Array2::from_shape_simple_fn((rows, columns), || {
            // Skewed, so that buckets of breakpoints are unevenly filled.
            let value = random.uniform();
            scale * (value * value * value - 0.1)
        });
        let params = IsolationForest::params()
            .random_state(3)
            .n_estimators(30)
            .max_samples(MaxSamples::Count(max_samples));
        let forest = params
            .fit(&DatasetBase::from(data.clone()))
            .expect("good data");
        let probes = probes(&forest, &data);
        let scores = forest.score_samples(&probes).expect("good rows");
        for (row, score) in probes.rows().into_iter().zip(&scores) {
            let row = row.to_vec();
            let plain = plain::score(&forest, &row);
            assert_eq!(hex(*score), hex(plain), "{row:?} of {rows} x {columns}");
        }
    }
}

// Work is divided among threads, but no sum is: one thread and many give the same bits.
#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut random = SplitMix(2);
    let data = Array2::from_shape_simple_fn((40_000, 3), || random.uniform());
    let dataset = DatasetBase::from(data.clone());
    let params = IsolationForest::params().random_state(7);
    let result = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads").install(|| {
            let forest = params.fit(&dataset).expect("good data");
            let scores = forest.score_samples(&data).expect("good rows");
            (
                hash_words(tree_words(&forest)),
                hash_floats(&scores),
                hex(forest.threshold()),
            )
        })
    };
    let one = result(1);
    assert_eq!(result(2), one);
    assert_eq!(result(5), one);
}

fn fitted(rows: usize, columns: usize) -> (IsolationForest, Array2<f64>) {
    let mut random = SplitMix(1);
    let data = Array2::from_shape_simple_fn((rows, columns), || random.uniform());
    let params = IsolationForest::params().random_state(7);
    let forest = params.fit(&DatasetBase::from(data.clone()));
    (forest.expect("good data"), data)
}

// A stored model must be the model: the same bits after a round trip through text.
#[test]
fn serde_keeps_every_bit() {
    let (forest, data) = fitted(300, 3);
    let text = serde_json::to_string(&forest).expect("serializable");
    let back: IsolationForest = serde_json::from_str(&text).expect("what was written");
    assert_eq!(back, forest);
    let scores = forest.score_samples(&data).expect("good rows");
    assert_eq!(back.score_samples(&data).expect("good rows"), scores);
}

// Trees from a damaged file must be refused when they are read, not panic or loop when they are
// asked. Each byte of the file is put out of order in turn.
#[test]
fn a_damaged_forest_is_refused_or_still_answers() {
    let small = array![[1.0], [2.0], [4.0]];
    let params = IsolationForest::params().random_state(7).n_estimators(2);
    let forest = params.fit(&DatasetBase::from(small)).expect("good data");
    let text = serde_json::to_string(&forest).expect("serializable");
    let mut refused = 0;
    for at in 0..text.len() {
        for digit in *b"0789," {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = digit;
            match serde_json::from_slice::<IsolationForest>(&damaged) {
                Ok(forest) => drop(forest.decision_function_one(&[3.0])),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > text.len());
}

/// A stored forest as a format such as CBOR would bring it, in which a number may be no number: the
/// texts `NaN` and `inf` stand for those, since JSON has none.
struct Stored(Value);

impl<'de> Deserializer<'de> for Stored {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Self(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
            Value::Array(items) => {
                visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Self)))
            }
            Value::String(text) if text == "NaN" => visitor.visit_f64(f64::NAN),
            Value::String(text) if text == "inf" => visitor.visit_f64(f64::INFINITY),
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Self(value)));
                visitor.visit_enum(serde::de::value::MapAccessDeserializer::new(
                    MapDeserializer::new(fields),
                ))
            }
            plain => plain.deserialize_enum(name, variants, visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, serde_json::Error> for Stored {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A forest of two trees, as it is stored.
fn stored() -> Value {
    let small = array![[1.0], [2.0], [4.0]];
    let params = IsolationForest::params().random_state(7).n_estimators(2);
    let forest = params.fit(&DatasetBase::from(small)).expect("good data");
    serde_json::to_value(&forest).expect("serializable")
}

/// Reads the stored forest with one field replaced, named by a JSON pointer.
fn read_with(field: &str, value: Value) -> Result<IsolationForest, String> {
    let mut stored = stored();
    let slot = stored.pointer_mut(field);
    *slot.unwrap_or_else(|| panic!("a forest stores {field}")) = value;
    IsolationForest::deserialize(Stored(stored)).map_err(|error| error.to_string())
}

fn must_be_refused(damages: impl IntoIterator<Item = (&'static str, Value)>, reason: &str) {
    for (field, value) in damages {
        match read_with(field, value.clone()) {
            Ok(_) => panic!("a forest with {field} = {value} was read"),
            Err(error) => assert!(error.contains(reason), "{field} = {value}: {error}"),
        }
    }
}

#[test]
fn a_stored_forest_is_read_through_any_format() {
    let read = IsolationForest::deserialize(Stored(stored())).expect("undamaged");
    assert_eq!(serde_json::to_value(&read).expect("serializable"), stored());
}

// One field damaged at a time, each in a way that some check must notice.
#[test]
fn a_forest_with_damaged_trees_is_refused() {
    let whole = stored();
    let trees = &whole["trees"];
    let list = |name: &str| trees[name].as_array().expect("an array").clone();
    // Three rows make two splits and three leaves, and there are two trees.
    assert_eq!(list("split").len(), 10);
    let shorter = |name: &str| {
        let mut array = list(name);
        array.pop();
        Value::Array(array)
    };
    let longer = |name: &str| {
        let mut array = list(name);
        array.push(array[0].clone());
        Value::Array(array)
    };
    let trees = |split: Value, threshold: Value, leaf_rows: Value| json!({ "split": split, "threshold": threshold, "leaf_rows": leaf_rows });
    must_be_refused(
        [
            ("/trees", trees(json!([]), json!([]), json!([]))),
            // One tree of the two, three, and one that breaks off after its left child.
            (
                "/trees",
                trees(json!([1, 0, 0]), json!([2.0]), json!([1, 2])),
            ),
            (
                "/trees",
                trees(json!([0, 0, 0]), json!([]), json!([3, 3, 3])),
            ),
            (
                "/trees",
                trees(json!([0, 1, 0]), json!([2.0]), json!([3, 3])),
            ),
            ("/trees/split", shorter("split")),
            ("/trees/threshold", shorter("threshold")),
            ("/trees/leaf_rows", shorter("leaf_rows")),
            ("/trees/split", longer("split")),
            ("/trees/threshold", longer("threshold")),
            ("/trees/leaf_rows", longer("leaf_rows")),
            // A split made a leaf, and leaves made splits, the last of which has nowhere to put
            // children.
            ("/trees/split/0", json!(0)),
            ("/trees/split/4", json!(1)),
            ("/trees/split/9", json!(1)),
            // Features that the forest has not.
            ("/trees/split/0", json!(2)),
            ("/trees/split/0", json!(u32::MAX)),
            ("/n_features", json!(0)),
            // Rows that do not add up, or not within 32 bits.
            ("/trees/leaf_rows/0", json!(0)),
            ("/trees/leaf_rows/5", json!(4)),
            ("/trees/leaf_rows/0", json!(u32::MAX)),
            ("/trees/threshold/0", json!("NaN")),
            ("/trees/threshold/0", json!("inf")),
        ],
        "the trees of the forest are damaged",
    );
}

// A server with thousands of models keeps no trees; what it answers must not change by that.
#[test]
fn a_forest_without_its_trees_scores_as_before_and_is_not_stored() {
    for (rows, columns) in [(300, 1), (300, 3), (3, 1)] {
        let (mut forest, data) = fitted(rows, columns);
        let before = forest.score_samples(&data).expect("good rows");
        let ranges = forest.normal_ranges();
        forest.drop_trees();
        assert_eq!(forest.score_samples(&data).expect("good rows"), before);
        assert_eq!(forest.normal_ranges(), ranges);
        assert_eq!(forest.trees().len(), 0);
        let error = serde_json::to_string(&forest).expect_err("must not be stored");
        assert!(error.to_string().contains("were dropped"), "{error}");
    }
}

#[test]
fn a_forest_whose_offset_or_threshold_is_not_finite_is_refused() {
    must_be_refused(
        [
            ("/offset", json!("NaN")),
            ("/offset", json!("inf")),
            ("/threshold", json!("NaN")),
            ("/threshold", json!("inf")),
        ],
        "the offset or the threshold of the forest is not finite",
    );
    // What other programs write for such numbers, and numbers beyond the range.
    must_be_refused(
        ["/offset", "/threshold", "/trees/threshold/0"].map(|field| (field, Value::Null)),
        "invalid type",
    );
    for field in ["offset", "threshold"] {
        let mut damaged = stored();
        damaged[field] = json!("here");
        let text = damaged.to_string().replace("\"here\"", "1e999");
        let error = serde_json::from_str::<IsolationForest>(&text).expect_err("must be refused");
        assert!(error.to_string().contains("out of range"), "{error}");
    }
}

// A forest can be fitted again with the hyper-parameters it carries, so they are held to their
// ranges too.
#[test]
fn a_forest_with_hyper_parameters_out_of_range_is_refused() {
    for (field, value) in [
        ("/params/contamination", json!(0.5)),
        ("/params/max_samples", json!({ "count": 3 })),
        ("/params/max_samples", json!({ "fraction": 1.0 })),
    ] {
        read_with(field, value).expect("within its range");
    }
    must_be_refused(
        [
            ("/params/n_estimators", json!(0)),
            ("/params/contamination", json!(-3.0)),
            ("/params/contamination", json!(0.0)),
            ("/params/contamination", json!(0.6)),
            ("/params/contamination", json!("NaN")),
            ("/params/max_samples", json!({ "count": 0 })),
            ("/params/max_samples", json!({ "fraction": 0.0 })),
            ("/params/max_samples", json!({ "fraction": 1.5 })),
            ("/params/max_samples", json!({ "fraction": "NaN" })),
        ],
        "",
    );
}

#[test]
fn without_a_random_state_the_one_drawn_makes_the_same_forest_again() {
    let (_, data) = fitted(100, 2);
    let dataset = DatasetBase::from(data);
    let drawn = IsolationForest::params().fit(&dataset).expect("good data");
    let params = IsolationForest::params().random_state(drawn.random_state());
    let again = params.fit(&dataset).expect("good data");
    assert_eq!(
        hash_words(tree_words(&again)),
        hash_words(tree_words(&drawn))
    );
}

// f32 data are what scikit-learn casts to, so the forest is the same as from f64 of equal value.
#[test]
fn fits_f32_records_too() {
    let (_, data) = fitted(100, 2);
    let narrow = data.mapv(|value| value as f32);
    let wide = narrow.mapv(f64::from);
    let params = IsolationForest::params().random_state(7);
    let a = params
        .fit(&DatasetBase::from(narrow.clone()))
        .expect("good data");
    let b = params
        .fit(&DatasetBase::from(wide.clone()))
        .expect("good data");
    assert_eq!(a, b);
    assert_eq!(a.score_samples(&narrow), b.score_samples(&wide));
}

// Splits are axis-parallel and drawn between extremes, so the unit of a feature cannot matter.
// Powers of two, because they scale without rounding; and none so small that values come nearer
// than 1e-7, which scikit-learn takes for equal.
#[test]
fn scores_are_invariant_under_positive_scaling_of_a_feature() {
    let (forest, data) = fitted(300, 3);
    let scores = forest.score_samples(&data).expect("good rows");
    for scale in [0.25, 4.0, 2f64.powi(20)] {
        for feature in 0..3 {
            let mut scaled = data.clone();
            scaled
                .column_mut(feature)
                .mapv_inplace(|value| value * scale);
            let params = IsolationForest::params().random_state(7);
            let other = params.fit(&DatasetBase::from(scaled.clone()));
            let other = other.expect("good data");
            assert_eq!(
                other.score_samples(&scaled).expect("good rows"),
                scores,
                "feature {feature} times {scale}"
            );
        }
    }
}

#[test]
fn what_cannot_be_fitted_is_refused_with_its_place() {
    let params = || IsolationForest::params().random_state(1);
    let fit = |params: IsolationForestParams, data: Array2<f64>| {
        params
            .fit(&DatasetBase::from(data))
            .expect_err("must be refused")
    };
    assert!(matches!(
        fit(params(), Array2::zeros((0, 1))),
        FitError::NoRows
    ));
    assert!(matches!(
        fit(params(), Array2::zeros((1, 0))),
        FitError::NoFeatures
    ));
    let bad = fit(params(), array![[1.0, 2.0], [3.0, f64::NAN]]);
    assert_eq!(
        bad.to_string(),
        "row 1, feature 1 is NaN, which is not a finite number"
    );
    let none = params().max_samples(MaxSamples::Fraction(0.1));
    assert!(matches!(
        fit(none, Array2::zeros((3, 1))),
        FitError::NoSamples { .. }
    ));
    let bad = fit(params().n_estimators(0), Array2::zeros((3, 1)));
    assert!(matches!(bad, FitError::Params(ParamsError::NEstimators(0))));
}

// linfa's traits cannot return an error. What cannot be judged must not pass as normal, nor panic.
#[test]
fn rows_that_cannot_be_scored_are_errors_or_anomalies_and_never_panic() {
    let (forest, _) = fitted(100, 2);
    let narrow = array![[1.0]];
    assert_eq!(
        forest.decision_function(&narrow),
        Err(ScoreError::Width {
            expected: 2,
            got: 1
        })
    );
    assert_eq!(forest.predict(&narrow).to_vec(), [true]);
    let infinite = array![[0.5, 0.5], [0.5, f64::INFINITY]];
    assert!(matches!(
        forest.decision_function(&infinite),
        Err(ScoreError::NotFinite {
            row: 1,
            feature: 1,
            ..
        })
    ));
    assert_eq!(forest.predict(&infinite).to_vec(), [false, true]);
    let decisions: Array1<f64> = forest.transform(&infinite);
    assert!(decisions[0].is_finite() && decisions[1].is_nan());
    let none = forest.predict(&Array2::<f64>::zeros((0, 2)));
    assert!(none.is_empty());
}
