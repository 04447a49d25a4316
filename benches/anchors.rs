//! Times the work that `compare/compare.py` also gives to scikit-learn, PyOD and isotree, on one
//! thread, and prints seconds per run, one line each: `NAME SECONDS …`.
//!
//! `cargo bench --bench anchors` shows all of it, `… -- fit_500x1 judge_one` those two; the numbers
//! in a name may be others: `score_1000x3`. `value_7` prints the value at index 7 of the data, by
//! which the comparison sees that it works on the same.

use std::hint::black_box;
use std::time::Instant;

use iforest_server::detector::Detector;

#[path = "work.rs"]
mod work;

const ALL: [&str; 6] = [
    "judge_one",
    "fit_500x1",
    "score_1000000x1",
    "fit_100000x10",
    "score_1000000x10",
    "judge_one_of_10",
];

fn main() {
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    one_thread.expect("a thread").install(|| {
        if asked.is_empty() {
            ALL.into_iter().for_each(measure);
        }
        asked.iter().map(String::as_str).for_each(measure);
    });
}

fn measure(name: &str) {
    let numbers: Option<(&str, usize, usize)> = name.split_once('_').and_then(|(work, shape)| {
        let (rows, columns) = shape.split_once('x').unwrap_or((shape, "1"));
        Some((work, rows.parse().ok()?, columns.parse().ok()?))
    });
    match (name, numbers) {
        ("judge_one", _) => judge_one(),
        ("judge_one_of_10", _) => judge_one_of_10(),
        (_, Some(("fit", rows, columns))) => fit(name, rows, columns),
        (_, Some(("score", rows, columns))) => score(name, rows, columns),
        (_, Some(("value", index, 1))) => {
            println!("{name} {:e}", work::data(index + 1, 1)[(index, 0)]);
        }
        _ => panic!("{name} is none of {ALL:?}"),
    }
}

/// Runs once without a clock, then `runs` times `inner` times.
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

fn judge_one() {
    let detector = Detector::fit(&work::params(), work::data(500, 1)).expect("good data");
    let values = work::data(1 << 16, 1);
    work::check(detector.forest(), &values);
    let mut seconds = Vec::new();
    // A value at a time, each another, summed so that none can be left out.
    for _ in 0..5 {
        let start = Instant::now();
        let mut sum = 0.0;
        for &value in &values {
            let prediction = detector.predict(black_box(value));
            sum += prediction.map_or(0.0, |j| j.anomaly_score);
        }
        black_box(sum);
        let each = start.elapsed().as_secs_f64() / values.len() as f64;
        seconds.push(format!("{each:e}"));
    }
    println!("judge_one {}", seconds.join(" "));
}

fn judge_one_of_10() {
    let wide = work::data(100_000, 10);
    let forest = work::fit(&wide);
    work::check(&forest, &wide);
    let row: Vec<f64> = wide.row(7).to_vec();
    time("judge_one_of_10", 5, 1000, || {
        let score = forest.decision_function_one(black_box(&row));
        black_box(score.expect("a good row"));
    });
}

fn fit(name: &str, rows: usize, columns: usize) {
    let data = work::data(rows, columns);
    work::check(&work::fit(&data), &data);
    let inner = if rows * columns <= 10_000 { 20 } else { 1 };
    // In use until the next one is made, as in the server.
    let mut last = None;
    time(name, 5, inner, || {
        last = black_box(Some(work::fit(black_box(&data))));
    });
}

/// By a forest of 500 rows of one feature, or of 100,000 of several.
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
