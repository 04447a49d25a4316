//! Times the tasks that `compare/compare.py` also runs with scikit-learn, PyOD and isotree, on one
//! thread. Prints one line per task: `NAME SECONDS …`, in seconds per run.
//!
//! `cargo bench --bench anchors` runs all tasks, `… -- fit_500x1 predict_one` these two. A name may
//! contain other numbers, as in `score_1000x3`. `value_7` prints the value at index 7 of the data,
//! so that the comparison can check that both sides use the same data.

use std::hint::black_box;
use std::time::Instant;

use iforest_server::detector::Detector;

#[path = "work.rs"]
mod work;

const ALL: [&str; 6] = [
    "predict_one",
    "fit_500x1",
    "score_1000000x1",
    "fit_100000x10",
    "score_1000000x10",
    "predict_one_of_10",
];

fn main() {
    let requested: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    one_thread.expect("a thread").install(|| {
        if requested.is_empty() {
            ALL.into_iter().for_each(measure);
        }
        requested.iter().map(String::as_str).for_each(measure);
    });
}

fn measure(name: &str) {
    let task: Option<(&str, usize, usize)> = name.split_once('_').and_then(|(task, shape)| {
        let (rows, columns) = shape.split_once('x').unwrap_or((shape, "1"));
        Some((task, rows.parse().ok()?, columns.parse().ok()?))
    });
    match (name, task) {
        ("predict_one", _) => predict_one(),
        ("predict_one_of_10", _) => predict_one_of_10(),
        (_, Some(("fit", rows, columns))) => fit(name, rows, columns),
        (_, Some(("score", rows, columns))) => score(name, rows, columns),
        (_, Some(("value", index, 1))) => {
            println!("{name} {:e}", work::data(index + 1, 1)[(index, 0)]);
        }
        _ => panic!("unknown task {name}; expected one of {ALL:?}"),
    }
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

fn predict_one() {
    let detector = Detector::fit(&work::params(), work::data(500, 1)).expect("good data");
    let values = work::data(1 << 16, 1);
    work::check(detector.forest(), &values);
    let mut seconds = Vec::new();
    // One value at a time, each different; summing prevents dead-code elimination.
    for _ in 0..5 {
        let start = Instant::now();
        let mut sum = 0.0;
        for &value in &values {
            let prediction = detector.predict(black_box(value));
            sum += prediction.map_or(0.0, |p| p.anomaly_score);
        }
        black_box(sum);
        let each = start.elapsed().as_secs_f64() / values.len() as f64;
        seconds.push(format!("{each:e}"));
    }
    println!("predict_one {}", seconds.join(" "));
}

fn predict_one_of_10() {
    let wide = work::data(100_000, 10);
    let forest = work::fit(&wide);
    work::check(&forest, &wide);
    let row: Vec<f64> = wide.row(7).to_vec();
    time("predict_one_of_10", 5, 1000, || {
        let score = forest.decision_function_one(black_box(&row));
        black_box(score.expect("a good row"));
    });
}

fn fit(name: &str, rows: usize, columns: usize) {
    let data = work::data(rows, columns);
    work::check(&work::fit(&data), &data);
    let inner = if rows * columns <= 10_000 { 20 } else { 1 };
    // As in the server, a model lives until the next one replaces it.
    let mut last = None;
    time(name, 5, inner, || {
        last = black_box(Some(work::fit(black_box(&data))));
    });
}

/// Scores with a forest fitted to 500 rows of one feature, or to 100,000 rows of several.
fn score(name: &str, rows: usize, columns: usize) {
    let fitted = if columns == 1 { 500 } else { 100_000 };
    let forest = work::fit(&work::data(fitted, columns));
    let data = work::data(rows, columns);
    work::check(&forest, &data);
    time(name, 3, 1, || {
        let scores = forest.decision_function(black_box(&data));
        black_box(scores.expect("good rows"));
    });
}
