//! Times the library on one thread; `compare/compare.py` times the same tasks with scikit-learn, PyOD
//! and isotree, and `plots/plots.py` shows how they grow. Prints one line per task: its name and the
//! seconds of each run.
//!
//! `cargo bench --bench anchors` runs some tasks, `… -- fit_500x1 predict_one` these two. The name of
//! a task ends in the numbers of rows, features and trees: `score_1000x3`, `score_1000x3x200`.
//!
//! | task | what it times |
//! | --- | --- |
//! | `predict_one` | a prediction of one value by a detector |
//! | `one_…` | one row scored alone, by a forest |
//! | `score_…` | all rows scored at once |
//! | `distance_…` | the same by a forest that knows distances |
//! | `plain_…` | the same rows, without distances, by a walk down all trees for each row |
//! | `fit_…` | a fit, with its threshold |
//!
//! These print something else. `memory_…`: the bytes of a fitted model; `memory-batch_…`: the same after
//! it has scored a large batch. `level`: which instructions the processor offers. `value_7`: the value at
//! index 7 of the data, so that the comparison can check that both sides use the same data.

use std::hint::black_box;
use std::time::Instant;

use iforest_server::detector::Detector;
use iforest_server::forest::IsolationForest;
use linfa::ParamGuard;
use ndarray::{Array2, Axis};

#[path = "work.rs"]
mod work;

const SOME: [&str; 9] = [
    "level",
    "predict_one",
    "one_1000x10",
    "fit_500x1",
    "score_1000000x1",
    "fit_100000x10",
    "score_1000000x10",
    "distance_100000x24",
    "memory_5000x10",
];

fn main() {
    let requested: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    one_thread.expect("a thread").install(|| {
        if requested.is_empty() {
            SOME.into_iter().for_each(measure);
        }
        requested.iter().map(String::as_str).for_each(measure);
    });
}

/// How many rows and features a task has, and how many trees its forest.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    columns: usize,
    trees: usize,
}

impl Shape {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('x').map(str::parse);
        let mut next = |default| numbers.next().unwrap_or(Ok(default)).ok();
        let (rows, columns, trees) = (next(0)?, next(1)?, next(100)?);
        Some(Self {
            rows,
            columns,
            trees,
        })
    }

    fn data(self) -> Array2<f64> {
        work::data(self.rows, self.columns)
    }

    fn fit(self, data: &Array2<f64>) -> IsolationForest {
        work::fit(work::params().n_estimators(self.trees), data)
    }

    /// The forest that scores these rows. It is fitted to 500 rows of one feature, or to all, but at
    /// most 100,000, of several.
    fn forest(self) -> IsolationForest {
        let rows = match self.columns {
            1 => 500,
            _ => self.rows.min(100_000),
        };
        self.fit(&work::data(rows, self.columns))
    }
}

fn measure(name: &str) {
    let (task, shape) = name.split_once('_').unwrap_or((name, ""));
    match (task, Shape::parse(shape)) {
        ("level", _) => println!("level {}", level()),
        ("predict", None) => predict_one(name),
        ("one", Some(shape)) => one(name, shape),
        ("score", Some(shape)) => score(name, shape),
        ("distance", Some(shape)) => distance(name, shape),
        ("plain", Some(shape)) => plain(name, shape),
        ("fit", Some(shape)) => fit(name, shape),
        ("memory" | "memory-batch", Some(shape)) => memory(name, shape, task != "memory"),
        ("value", Some(shape)) => {
            println!(
                "{name} {:e}",
                work::data(shape.rows + 1, 1)[(shape.rows, 0)]
            );
        }
        _ => panic!("unknown task {name}; expected something like one of {SOME:?}"),
    }
}

/// The widest of the instructions that the evaluators choose from and that this processor has.
fn level() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        // The others that fearless_simd asks for came with these.
        if is_x86_feature_detected!("avx512vbmi2") && is_x86_feature_detected!("avx512bitalg") {
            return "AVX-512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "AVX2";
        }
        "SSE2"
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::env::consts::ARCH
}

/// Warms up with one run, then measures `runs` batches of `inner` runs each.
fn time(name: &str, runs: usize, inner: usize, mut run: impl FnMut()) {
    run();
    let seconds: Vec<String> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            (0..inner).for_each(|_| run());
            format!("{:e}", start.elapsed().as_secs_f64() / inner as f64)
        })
        .collect();
    println!("{name} {}", seconds.join(" "));
}

fn predict_one(name: &str) {
    let detector = Detector::fit(&work::params(), work::data(500, 1)).expect("good data");
    let values = work::data(1 << 16, 1);
    work::check(detector.forest(), &values);
    each(name, values.as_slice().expect("contiguous"), |&value| {
        let prediction = detector.predict(black_box(value));
        prediction.map_or(0.0, |p| p.anomaly_score)
    });
}

fn one(name: &str, shape: Shape) {
    let forest = shape.forest();
    let data = shape.data();
    work::check(&forest, &data);
    let rows: Vec<Vec<f64>> = data.rows().into_iter().map(|row| row.to_vec()).collect();
    each(name, &rows, |row| {
        let score = forest.decision_function_one(black_box(row));
        score.expect("a good row")
    });
}

/// Measures the time of one reading. They are all different, and come one at a time.
fn each<R>(name: &str, readings: &[R], score: impl Fn(&R) -> f64) {
    let seconds: Vec<String> = (0..5)
        .map(|_| {
            let start = Instant::now();
            // Summing prevents dead-code elimination.
            black_box(readings.iter().map(&score).sum::<f64>());
            format!(
                "{:e}",
                start.elapsed().as_secs_f64() / readings.len() as f64
            )
        })
        .collect();
    println!("{name} {}", seconds.join(" "));
}

fn fit(name: &str, shape: Shape) {
    let data = shape.data();
    work::check(&shape.fit(&data), &data);
    let inner = if shape.rows * shape.columns <= 10_000 {
        20
    } else {
        1
    };
    // As in the server, a model lives until the next one replaces it.
    let mut last = None;
    time(name, 5, inner, || {
        last = black_box(Some(shape.fit(black_box(&data))));
    });
}

fn score(name: &str, shape: Shape) {
    let forest = shape.forest();
    let data = shape.data();
    work::check(&forest, &data);
    time(name, 3, 1, || {
        let scores = forest.decision_function(black_box(&data));
        black_box(scores.expect("good rows"));
    });
}

/// Scores rows that the forest was not trained on, so most of them are outside of some box.
fn distance(name: &str, shape: Shape) {
    const TRAINING: usize = 2_000;
    let data = work::data(TRAINING + shape.rows, shape.columns);
    let (training, rows) = data.view().split_at(Axis(0), TRAINING);
    let params = work::params().n_estimators(shape.trees).check();
    let params = params.expect("good parameters");
    let forest = params.fit_with_distance(&training).expect("good data");
    // There is no plain evaluation that knows distances, so compare with rows scored alone.
    let scores = forest.decision_function(&rows).expect("good rows");
    for (row, score) in rows.rows().into_iter().zip(&scores).take(1000) {
        let alone = forest.decision_function_one(&row.to_vec());
        assert_eq!(score.to_bits(), alone.expect("a good row").to_bits());
    }
    time(name, 3, 1, || {
        let scores = forest.score_samples(black_box(&rows));
        black_box(scores.expect("good rows"));
    });
}

fn plain(name: &str, shape: Shape) {
    let forest = shape.forest();
    let data = shape.data();
    let rows: Vec<Vec<f64>> = data.rows().into_iter().map(|row| row.to_vec()).collect();
    time(name, 1, 1, || {
        let sum: f64 = rows
            .iter()
            .map(|row| work::plain::score(&forest, row))
            .sum();
        black_box(sum);
    });
}

/// The model is as small as in the server, which stores the trees and then frees them.
fn memory(name: &str, shape: Shape, after_batch: bool) {
    let mut forest = shape.fit(&shape.data());
    forest.drop_trees();
    if after_batch {
        let rows = work::data(10_000, shape.columns);
        forest.score_samples(&rows).expect("good rows");
    }
    println!("{name} {}", forest.memory_size());
}
