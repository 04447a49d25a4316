//! The forest against recorded results of scikit-learn and PyOD (`tests/reference/record.py`), bit
//! for bit, and its contract as a linfa algorithm.

use iforest_server::forest::{
    FitError, IsolationForest, IsolationForestParams, MaxSamples, ParamsError, ScoreError,
};
use linfa::prelude::*;
use ndarray::{Array1, Array2, array};
use serde::Deserialize;

use super::fitted;
use crate::support::data::{DataSpec, SplitMix, fixture, hash_floats, hash_words};
use crate::support::plain;

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
            // As in Python: a whole number counts rows, a number with a decimal point is a fraction.
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
/// away. The recording script makes the same rows.
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

// The main promise of the product, with zero tolerance, on every kind of data that was recorded.
#[test]
fn trees_scores_and_labels_equal_scikit_learn_and_pyod_bit_for_bit() {
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

        // One row at a time, and the traits of linfa, give the same scores.
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

// Each way to evaluate a forest, chosen by features and depth, at thresholds, one ulp beside them,
// at zeros of both signs, at subnormals and beyond f32.
#[test]
fn every_fast_path_equals_the_reference_evaluation_bit_for_bit() {
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
            // Skewed, so that breakpoints fill their buckets unevenly.
            let value = random.uniform();
            scale * (value * value * value - 0.1)
        });
        let params = IsolationForest::params()
            .random_state(3)
            .n_estimators(30)
            .max_samples(MaxSamples::Count(max_samples));
        let forest = params
            .fit(&DatasetBase::from(data.clone()))
            .expect("valid data");
        let probes = probes(&forest, &data);
        let scores = forest.score_samples(&probes).expect("valid rows");
        for (row, score) in probes.rows().into_iter().zip(&scores) {
            let row = row.to_vec();
            let expected = plain::score(&forest, &row);
            let is_equal = plain::is_equal(*score, expected);
            assert!(
                is_equal,
                "{row:?} of {rows} x {columns}: {score} {expected}"
            );
        }
    }
}

// Threads share the work, but no sum is divided among them.
#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut random = SplitMix(2);
    let data = Array2::from_shape_simple_fn((40_000, 3), || random.uniform());
    let dataset = DatasetBase::from(data.clone());
    let params = IsolationForest::params().random_state(7);
    let result = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads").install(|| {
            let forest = params.fit(&dataset).expect("valid data");
            let scores = forest.score_samples(&data).expect("valid rows");
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

#[test]
fn a_drawn_random_state_reproduces_the_forest() {
    let (_, data) = fitted(100, 2);
    let dataset = DatasetBase::from(data);
    let drawn = IsolationForest::params().fit(&dataset).expect("valid data");
    let params = IsolationForest::params().random_state(drawn.random_state());
    let again = params.fit(&dataset).expect("valid data");
    assert_eq!(
        hash_words(tree_words(&again)),
        hash_words(tree_words(&drawn))
    );
}

// scikit-learn casts to f32 anyway.
#[test]
fn f32_records_give_the_same_forest_as_equal_f64_records() {
    let (_, data) = fitted(100, 2);
    let narrow = data.mapv(|value| value as f32);
    let wide = narrow.mapv(f64::from);
    let params = IsolationForest::params().random_state(7);
    let a = params
        .fit(&DatasetBase::from(narrow.clone()))
        .expect("valid data");
    let b = params
        .fit(&DatasetBase::from(wide.clone()))
        .expect("valid data");
    assert_eq!(a, b);
    assert_eq!(a.score_samples(&narrow), b.score_samples(&wide));
}

// Splits are axis-parallel and drawn between extremes, so the unit of a feature cannot matter. The
// factors are powers of two, which scale without rounding, and none is so small that values come
// nearer than 1e-7, which scikit-learn takes for equal.
#[test]
fn scores_are_invariant_under_positive_scaling_of_a_feature() {
    let (forest, data) = fitted(300, 3);
    let scores = forest.score_samples(&data).expect("valid rows");
    for scale in [0.25, 4.0, 2f64.powi(20)] {
        for feature in 0..3 {
            let mut scaled = data.clone();
            scaled
                .column_mut(feature)
                .mapv_inplace(|value| value * scale);
            let params = IsolationForest::params().random_state(7);
            let other = params.fit(&DatasetBase::from(scaled.clone()));
            let other = other.expect("valid data");
            assert_eq!(
                other.score_samples(&scaled).expect("valid rows"),
                scores,
                "feature {feature} times {scale}"
            );
        }
    }
}

#[test]
fn invalid_training_data_is_refused_with_row_and_feature() {
    let params = || IsolationForest::params().random_state(1);
    let fit = |params: IsolationForestParams, data: Array2<f64>| {
        params.fit(&DatasetBase::from(data)).expect_err("an error")
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

// The traits of linfa cannot return an error. A row that cannot be scored must neither pass as
// normal nor panic.
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
