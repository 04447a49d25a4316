//! Times the work that `compare/compare.py` also gives to scikit-learn, PyOD and isotree, and prints
//! seconds per run, one line each: `NAME SECONDS …`. `cargo bench --bench anchors` shows it alone.

use std::hint::black_box;
use std::time::{Duration, Instant};

use iforest_server::detector::Detector;

#[path = "work.rs"]
mod work;

fn time(name: &str, runs: usize, inner: usize, mut run: impl FnMut()) {
    run();
    let seconds: Vec<String> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            (0..inner).for_each(|_| run());
            let each = start.elapsed() / inner as u32;
            format!("{:e}", each.max(Duration::from_nanos(1)).as_secs_f64())
        })
        .collect();
    println!("{name} {}", seconds.join(" "));
}

fn main() {
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    one_thread.expect("a thread").install(measure);
}

fn measure() {
    let small = work::data(500, 1);
    let forest = work::fit(&small);
    let detector = Detector::fit(&work::params(), small.clone()).expect("good data");
    let values = work::data(1 << 16, 1);
    work::check(&forest, &values);
    {
        // A value at a time, each another, summed so that none can be left out.
        const ROUNDS: usize = 1 << 16;
        let mut seconds = Vec::new();
        for _ in 0..5 {
            let start = Instant::now();
            let mut sum = 0.0;
            for &value in values.iter() {
                sum += detector
                    .judge(black_box(value))
                    .map_or(0.0, |j| j.anomaly_score);
            }
            black_box(sum);
            seconds.push(format!(
                "{:e}",
                start.elapsed().as_secs_f64() / ROUNDS as f64
            ));
        }
        println!("judge_one {}", seconds.join(" "));
    }
    time("fit_500x1", 5, 20, || {
        black_box(work::fit(black_box(&small)));
    });
    let million = work::data(1_000_000, 1);
    time("score_1000000x1", 5, 1, || {
        black_box(
            forest
                .decision_function(black_box(&million))
                .expect("good rows"),
        );
    });

    let wide = work::data(100_000, 10);
    time("fit_100000x10", 5, 1, || {
        black_box(work::fit(black_box(&wide)));
    });
    let forest = work::fit(&wide);
    work::check(&forest, &wide);
    let million = work::data(1_000_000, 10);
    time("score_1000000x10", 3, 1, || {
        black_box(
            forest
                .decision_function(black_box(&million))
                .expect("good rows"),
        );
    });
    let row: Vec<f64> = wide.row(7).to_vec();
    time("judge_one_of_10", 5, 1000, || {
        black_box(
            forest
                .decision_function_one(black_box(&row))
                .expect("a good row"),
        );
    });
}
