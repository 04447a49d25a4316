//! Criterion benchmarks of the library, on one thread: `cargo bench --bench forest`. Results are
//! compared with the plain evaluation of the trees before they are timed.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use iforest_server::detector::Detector;
use linfa::ParamGuard;
use ndarray::Axis;

#[path = "work.rs"]
mod work;

fn predict(c: &mut Criterion) {
    let readings = work::data(500, 1);
    let values = work::data(1 << 16, 1);
    let detector = Detector::fit(&work::params(), readings).expect("good data");
    work::check(detector.forest(), &values);
    let mut next = values.iter().cycle();
    // A different value each time, because the processor would predict the branches of a single
    // one.
    c.bench_function("predict one value", |b| {
        b.iter_batched(
            || *next.next().expect("the iterator is infinite"),
            |value| detector.predict(black_box(value)),
            BatchSize::NumIterations(1 << 14),
        );
    });
}

fn score(c: &mut Criterion) {
    for columns in [1, 10] {
        let forest = work::fit(work::params(), &work::data(100_000, columns));
        let rows = work::data(100_000, columns);
        work::check(&forest, &rows);
        c.bench_function(&format!("score 100000 x {columns}"), |b| {
            b.iter(|| forest.decision_function(black_box(&rows)));
        });
        if columns == 10 {
            let mut next = rows.rows().into_iter().cycle();
            c.bench_function("predict one row of 10", |b| {
                b.iter_batched(
                    || next.next().expect("the iterator is infinite").to_vec(),
                    |row| forest.decision_function_one(black_box(&row)),
                    BatchSize::NumIterations(1 << 10),
                );
            });
        }
    }
}

/// Scores that grow with the distance: one reading, near the training readings and far from them.
fn distance(c: &mut Criterion) {
    for columns in [1, 8, 24] {
        let data = work::data(2_000, columns);
        let params = work::params().check().expect("good parameters");
        let forest = params.fit_with_distance(&data).expect("good data");
        let fresh = work::data(6_000, columns);
        let fresh = fresh.slice_axis(Axis(0), (2_000..6_000).into());
        for (place, rows) in [("near", fresh.to_owned()), ("far", 4.0 * &fresh)] {
            let mut next = rows.rows().into_iter().cycle();
            let name = format!("predict one row of {columns} with distances, {place}");
            c.bench_function(&name, |b| {
                b.iter_batched(
                    || next.next().expect("the iterator is infinite").to_vec(),
                    |row| forest.decision_function_one(black_box(&row)),
                    BatchSize::NumIterations(1 << 10),
                );
            });
        }
    }
}

fn fit(c: &mut Criterion) {
    for (rows, columns) in [(500, 1), (100_000, 10)] {
        let data = work::data(rows, columns);
        work::check(&work::fit(work::params(), &data), &data);
        c.bench_function(&format!("fit {rows} x {columns}"), |b| {
            b.iter(|| work::fit(work::params(), black_box(&data)));
        });
    }
}

fn run_all(c: &mut Criterion) {
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1);
    one_thread
        .build_global()
        .expect("rayon has not started yet");
    predict(c);
    score(c);
    distance(c);
    fit(c);
}

criterion_group!(benches, run_all);
criterion_main!(benches);
