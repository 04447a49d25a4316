//! Scores that grow with the distance, thresholds from held-back scores, windows, and contributions,
//! against a plain reference in numpy (`tests/reference/distance.py`), and their promises.

use iforest_server::detector::{
    Contribution, Detector, DetectorError, FitOptions, Fitted, OutOfRange, StandardScaler, Stream,
    View,
};
use iforest_server::forest::{FitError, IsolationForest, IsolationForestParams};
use linfa::ParamGuard;
use linfa::traits::Transformer;
use ndarray::{Array2, ArrayView2, Axis, array};
use serde::Deserialize;

use crate::support::data::{DataSpec, SplitMix, fixture};

/// A case of the recording script. Its kind is `what`.
#[derive(Debug, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum Case {
    Score(ScoreCase),
    HeldBack(HeldBackCase),
    Drift(DriftCase),
    Window(WindowCase),
    Contributions(ContributionsCase),
}

#[derive(Debug, Deserialize)]
struct ScoreCase {
    data: DataSpec,
    params: Params,
    scaled: Vec<Vec<f64>>,
    inside: Vec<bool>,
    score_samples: Vec<f64>,
}

#[derive(Debug, Deserialize)]
struct Params {
    random_state: u32,
    n_estimators: Option<usize>,
    max_samples: Option<usize>,
}

/// The held-back scores of a case.
#[derive(Debug, Deserialize)]
struct HeldBackCase {
    data: DataSpec,
    random_state: u32,
    n_estimators: usize,
    false_alarm_rate: f64,
    run_lengths: Option<Vec<usize>>,
    scored: u64,
    threshold: f64,
    rows: Vec<Vec<f64>>,
    abnormality: Vec<f64>,
    predictions: Vec<u8>,
}

#[derive(Debug, Deserialize)]
struct DriftCase {
    data: DataSpec,
    run_lengths: Option<Vec<usize>>,
    kept: Vec<usize>,
}

#[derive(Debug, Deserialize)]
struct WindowCase {
    data: DataSpec,
    window: u32,
    random_state: u32,
    n_estimators: usize,
    false_alarm_rate: f64,
    run_lengths: Option<Vec<usize>>,
    keep_drifting: bool,
    kept: Vec<usize>,
    scored: u64,
    threshold: f64,
    rows: Vec<Vec<f64>>,
    abnormality: Vec<Option<f64>>,
    predictions: Vec<u8>,
    alarms: Vec<u8>,
    chosen: Vec<usize>,
    features: Vec<Vec<f64>>,
    contributions: Vec<Vec<(usize, String, f64)>>,
}

#[derive(Debug, Deserialize)]
struct ContributionsCase {
    data: DataSpec,
    plain: bool,
    random_state: u32,
    n_estimators: usize,
    rows: Vec<Vec<f64>>,
    shares: Vec<Vec<f64>>,
}

fn cases() -> Vec<Case> {
    fixture("distance.json")
}

fn is_near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12
}

fn params(n_estimators: usize, random_state: u32) -> IsolationForestParams {
    IsolationForest::params()
        .n_estimators(n_estimators)
        .random_state(random_state)
}

fn distance_forest(params: &IsolationForestParams, rows: &Array2<f64>) -> IsolationForest {
    let params = params.check_ref().expect("good parameters");
    params.fit_with_distance(rows).expect("good rows")
}

fn score(forest: &IsolationForest, row: &[f64]) -> f64 {
    let row = ArrayView2::from_shape((1, row.len()), row).expect("one row");
    forest.score_samples(&row).expect("a good row")[0]
}

// Inside all boxes, the score is scikit-learn's in every bit.
#[test]
fn scores_are_those_of_the_reference() {
    for case in cases() {
        let Case::Score(case) = case else { continue };
        let data = case.data.data();
        let scaler = StandardScaler::fit(data.view()).expect("good readings");
        let scaled = scaler.transform(data);
        let mut params = IsolationForest::params().random_state(case.params.random_state);
        if let Some(n_estimators) = case.params.n_estimators {
            params = params.n_estimators(n_estimators);
        }
        if let Some(count) = case.params.max_samples {
            params = params.max_samples(iforest_server::forest::MaxSamples::Count(count));
        }
        let forest = distance_forest(&params, &scaled);
        let expected = case.score_samples.iter().zip(&case.inside);
        for (row, (&expected, &is_inside)) in case.scaled.iter().zip(expected) {
            let got = score(&forest, row);
            assert!(
                is_near(got, expected),
                "{:?} {row:?}: {got}, not {expected}",
                case.data
            );
            if is_inside {
                assert_eq!(got.to_bits(), expected.to_bits(), "{row:?}");
            }
        }
    }
}

#[test]
fn thresholds_are_those_of_the_reference() {
    for case in cases() {
        let Case::HeldBack(case) = case else { continue };
        let options = FitOptions {
            distance: true,
            false_alarm_rate: Some(case.false_alarm_rate),
            runs: case.run_lengths.unwrap_or_default(),
            ..FitOptions::default()
        };
        let params = params(case.n_estimators, case.random_state);
        let fitted = Fitted::fit(&params, &options, case.data.data()).expect("good readings");
        let held_back = fitted.held_back.expect("a held-back threshold");
        assert_eq!(held_back.scores, case.scored);
        let threshold = -fitted.detector.forest().offset();
        assert!(
            is_near(threshold, case.threshold),
            "{threshold}, not {}",
            case.threshold
        );
        let expected = case.abnormality.iter().zip(case.predictions);
        for (row, (abnormality, anomaly)) in case.rows.iter().zip(expected) {
            let prediction = fitted.detector.predict_row(row).expect("a good reading");
            assert!(is_near(
                prediction.anomaly_score,
                abnormality - case.threshold
            ));
            assert_eq!(u8::from(prediction.is_anomaly), anomaly);
        }
    }
}

#[test]
fn the_sensors_that_drift_are_those_of_the_reference() {
    for case in cases() {
        let Case::Drift(case) = case else { continue };
        let options = FitOptions {
            window: Some(2),
            runs: case.run_lengths.unwrap_or_default(),
            ..FitOptions::default()
        };
        let fitted = Fitted::fit(&params(1, 1), &options, case.data.data()).expect("good readings");
        assert_eq!(kept(&fitted), case.kept, "{:?}", case.data);
    }
}

fn kept(fitted: &Fitted) -> Vec<usize> {
    let window = fitted.window.as_ref().expect("a window");
    let left_out: Vec<usize> = window.left_out().collect();
    let sensors = 0..window.sensors();
    sensors
        .filter(|sensor| !left_out.contains(sensor))
        .collect()
}

#[test]
fn windows_are_those_of_the_reference() {
    for case in cases() {
        let Case::Window(case) = case else { continue };
        let options = FitOptions {
            distance: true,
            false_alarm_rate: Some(case.false_alarm_rate),
            window: Some(case.window),
            keep_drifting: case.keep_drifting,
            runs: case.run_lengths.unwrap_or_default(),
        };
        let params = params(case.n_estimators, case.random_state);
        let fitted = Fitted::fit(&params, &options, case.data.data()).expect("good readings");
        assert_eq!(kept(&fitted), case.kept);
        assert_eq!(
            fitted.held_back.expect("a held-back threshold").scores,
            case.scored
        );
        let threshold = -fitted.detector.forest().offset();
        assert!(
            is_near(threshold, case.threshold),
            "{threshold}, not {}",
            case.threshold
        );

        let window = fitted.window.as_ref().expect("a window");
        let readings = case.rows.concat();
        let times = vec![None; case.rows.len()];
        let judge = |readings: &[f64]| window.judge(&fitted.detector, readings, true);
        let answers = Stream::new(window, &[]).append(&readings, &times, true, judge);
        for (i, answer) in answers.iter().enumerate() {
            let score = answer
                .judgement
                .as_ref()
                .map(|judgement| judgement.anomaly_score);
            let expected = case.abnormality[i].map(|score| score - case.threshold);
            assert_eq!(score.is_some(), expected.is_some(), "reading {i}");
            assert!(
                is_near(score.unwrap_or(0.0), expected.unwrap_or(0.0)),
                "reading {i}"
            );
            let is_anomaly = answer
                .judgement
                .as_ref()
                .is_some_and(|judgement| judgement.is_anomaly);
            assert_eq!(u8::from(is_anomaly), case.predictions[i], "reading {i}");
            assert_eq!(u8::from(answer.alarm), case.alarms[i], "reading {i}");
        }
        let expected = case.features.iter().zip(&case.contributions);
        for (&first, (features, contributions)) in case.chosen.iter().zip(expected) {
            let (sensors, size) = (window.sensors(), window.size());
            let readings = &readings[first * sensors..][..size * sensors];
            let got = window.features_of(readings);
            let near = |(&a, &b): (&f64, &f64)| (a - b).abs() <= 1e-12 * b.abs().max(1.0);
            assert!(
                got.iter().zip(features).all(near),
                "{got:?}, not {features:?}"
            );
            let judgement = judge(readings);
            let got = judgement.contributions.expect("asked for");
            assert_eq!(got.len(), contributions.len());
            for (got, (feature, view, share)) in got.iter().zip(contributions) {
                assert_eq!(
                    (got.feature, view_name(got.view)),
                    (*feature, view.as_str())
                );
                assert!((got.share - share).abs() <= 1e-9, "{got:?}, not {share}");
            }
        }
    }
}

fn view_name(view: View) -> &'static str {
    match view {
        View::Value => "value",
        View::Level => "level",
        View::Spread => "spread",
    }
}

#[test]
fn contributions_are_those_of_the_reference() {
    for case in cases() {
        let Case::Contributions(case) = case else {
            continue;
        };
        let params = params(case.n_estimators, case.random_state);
        let data = case.data.data();
        let detector = match case.plain {
            true => Detector::fit(&params, data),
            false => Detector::fit_with_distance(&params, data),
        };
        let detector = detector.expect("good readings");
        for (row, expected) in case.rows.iter().zip(&case.shares) {
            let got: Vec<f64> = shares(&detector.contributions(row));
            assert_eq!(got.len(), expected.len(), "{row:?}");
            for (got, expected) in got.iter().zip(expected) {
                // Rows went through the scaler and back, and a difference of two scores is small.
                assert!(
                    (got - expected).abs() <= 1e-6,
                    "{row:?}: {got}, not {expected}"
                );
            }
        }
    }
}

fn shares(contributions: &[Contribution]) -> Vec<f64> {
    contributions
        .iter()
        .map(|contribution| contribution.share)
        .collect()
}

/// Readings of `columns` sensors, about normal with deviation 1.
fn normal(random: &mut SplitMix, rows: usize, columns: usize) -> Array2<f64> {
    let value = || (0..12).map(|_| random.uniform()).sum::<f64>() - 6.0;
    Array2::from_shape_simple_fn((rows, columns), value)
}

#[test]
fn the_score_grows_with_the_distance_continuously_and_towards_one() {
    let mut random = SplitMix(5);
    for (rows, columns) in [(3, 1), (50, 1), (1000, 1), (300, 3), (600, 8)] {
        let mut data = normal(&mut random, rows, columns);
        if columns == 3 {
            data.column_mut(1).fill(2.0);
        }
        let forest = distance_forest(&params(30, 4), &data);
        for trial in 0..20 {
            let start = data.row(trial % rows).to_vec();
            let feature = trial % columns;
            for sign in [1.0, -1.0] {
                let column = data.column(feature);
                let end = column
                    .iter()
                    .map(|value| sign * value)
                    .fold(f64::MIN, f64::max) as f32;
                let at = |distance: f64| {
                    let mut row = start.clone();
                    row[feature] = sign * (f64::from(end) + distance);
                    -score(&forest, &row)
                };
                let mut before = at(0.0);
                assert!(
                    (at(1e-9) - before).abs() < 1e-6,
                    "a step at the end of the range"
                );
                // From a rounding error to the end of f32.
                for exponent in -80..=390 {
                    let now = at(10f64.powf(f64::from(exponent) / 10.0));
                    assert!(now >= before, "{rows} x {columns}: {now} after {before}");
                    before = now;
                }
                assert!(before > 0.999_999, "{before}");
                assert_eq!(at(f64::MAX / 2.0), 1.0);
            }
        }
    }
}

#[test]
fn distances_that_cannot_be_measured_are_refused() {
    let params = params(5, 1);
    let one = Detector::fit_with_distance(&params, array![[1.0, 2.0]]);
    assert!(matches!(
        one,
        Err(DetectorError::Fit(FitError::NoDistance { rows: 1 }))
    ));
    let checked = params.check_ref().expect("good parameters");
    let beyond = checked.fit_with_distance(&array![[1.0], [2.0], [1e39]]);
    assert!(matches!(
        beyond,
        Err(FitError::BeyondF32 {
            row: 2,
            feature: 0,
            ..
        })
    ));
}

#[test]
fn options_that_no_readings_fit_are_refused() {
    let data = || normal(&mut SplitMix(9), 300, 2);
    let fit = |options, data| Fitted::fit(&params(1, 1), &options, data);
    let windows = |window, runs: &[usize]| FitOptions {
        window: Some(window),
        runs: runs.to_vec(),
        ..FitOptions::default()
    };
    let rate = |rate| FitOptions {
        false_alarm_rate: Some(rate),
        ..FitOptions::default()
    };
    for options in [
        windows(0, &[]),
        windows(1, &[]),
        windows(5001, &[]),
        windows(10, &[100, 100]),
        windows(10, &[usize::MAX, 301]),
        rate(0.0),
        rate(f64::NAN),
        rate(0.6),
    ] {
        let fitted = fit(options, data());
        assert!(
            matches!(fitted, Err(DetectorError::Options(_))),
            "{fitted:?}"
        );
    }
    let short = fit(windows(63, &[]), data());
    assert!(matches!(
        short,
        Err(DetectorError::TooShort {
            needed: 302,
            got: 238,
            ..
        })
    ));
    let mut bad = data();
    bad[(5, 1)] = f64::NAN;
    let not_finite = fit(windows(10, &[]), bad);
    let expected = FitError::NotFinite {
        row: 5,
        feature: 1,
        value: f64::NAN,
    };
    assert_eq!(
        not_finite.expect_err("refused").to_string(),
        expected.to_string()
    );
}

// A model of one feature says which readings are normal, to the last digit.
#[test]
fn normal_ranges_end_at_the_last_normal_reading() {
    let mut random = SplitMix(6);
    let mut count = 0;
    for (rows, contamination) in [(2, 0.1), (10, 0.3), (100, 0.05), (400, 0.1), (400, 0.5)] {
        let mut data = normal(&mut random, rows, 1);
        // Two clusters, so that there is a gap between normal ranges.
        for mut row in data.axis_iter_mut(Axis(0)).skip(rows / 2) {
            row[0] += 20.0;
        }
        let params = params(20, 3).contamination(contamination);
        let mut detector = Detector::fit_with_distance(&params, data).expect("good readings");
        detector.set_out_of_range(OutOfRange::Distance, 0.0);
        let is_normal = |value: f64| {
            let prediction = detector.predict(value).expect("a good reading");
            !prediction.is_anomaly
        };
        let ranges = detector.normal_ranges().expect("one feature");
        assert!(ranges.is_sorted_by(|a, b| a.high < b.low));
        for range in &ranges {
            let (low, high) = (range.low.expect("an end"), range.high.expect("an end"));
            assert!(is_normal(low) && !is_normal(low.next_down()), "{low}");
            assert!(is_normal(high) && !is_normal(high.next_up()), "{high}");
            count += 1;
        }
        for i in 0..40_000 {
            let value = -10.0 + f64::from(i) * 0.001;
            let is_inside = ranges
                .iter()
                .any(|range| range.low <= Some(value) && Some(value) <= range.high);
            assert_eq!(is_normal(value), is_inside, "{value}");
        }
    }
    assert!(count > 20, "{count}");
}

// The promise of false_alarm_rate, on readings that are fresh and independent.
#[test]
fn false_alarms_stay_near_the_rate_that_was_asked_for() {
    const RATE: f64 = 0.01;
    for (readings, columns, distance) in [(1000, 2, true), (1000, 1, false), (10_000, 1, true)] {
        let mut random = SplitMix(7 + readings as u64);
        let mut rates: Vec<f64> = (0..50)
            .map(|model| {
                let options = FitOptions {
                    distance,
                    false_alarm_rate: Some(RATE),
                    ..FitOptions::default()
                };
                let data = normal(&mut random, readings, columns);
                let params = params(50, model);
                let fitted = Fitted::fit(&params, &options, data).expect("good readings");
                let fresh = normal(&mut random, 10_000, columns);
                let predictions = fitted.detector.predict_rows(fresh.view());
                let predictions = predictions.expect("good readings");
                let alarms = predictions
                    .iter()
                    .filter(|prediction| prediction.is_anomaly);
                alarms.count() as f64 / 10_000.0
            })
            .collect();
        let mean = rates.iter().sum::<f64>() / 50.0;
        rates.sort_unstable_by(f64::total_cmp);
        println!(
            "{readings} x {columns}: mean {mean:.4}, greatest {:?}",
            &rates[46..]
        );
        assert!(mean <= 1.5 * RATE, "mean {mean}");
        assert!(rates[47] <= 2.0 * RATE, "{:?}", &rates[45..]);
    }
}

/// How a sensor is broken in a trial.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    FarOut,
    Stuck,
    Noisy,
}

// One sensor of eight is broken, and is named first in 95 % of 1,000 trials.
#[test]
fn the_broken_sensor_is_named_first() {
    const SENSORS: usize = 8;
    const WINDOW: usize = 30;
    let mut random = SplitMix(8);
    let options = FitOptions {
        distance: true,
        window: Some(WINDOW as u32),
        ..FitOptions::default()
    };
    let data = normal(&mut random, 2000, SENSORS);
    let plain = Detector::fit(&params(100, 1), data.clone()).expect("good readings");
    let fitted = Fitted::fit(&params(100, 1), &options, data).expect("good readings");
    let window = fitted.window.as_ref().expect("a window");
    for fault in [Fault::FarOut, Fault::Stuck, Fault::Noisy] {
        let (mut first, mut first_of_plain) = (0, 0);
        for trial in 0..1000 {
            let broken = trial % SENSORS;
            let mut readings = normal(&mut random, WINDOW, SENSORS);
            let stuck = readings[(0, broken)];
            for (i, mut reading) in readings.axis_iter_mut(Axis(0)).enumerate() {
                let value = &mut reading[broken];
                match fault {
                    Fault::FarOut if i == WINDOW - 1 => *value = 10.0,
                    Fault::FarOut => {}
                    Fault::Stuck => *value = stuck,
                    Fault::Noisy => *value *= 4.0,
                }
            }
            let last = readings.row(WINDOW - 1).to_vec();
            let readings = readings.into_raw_vec_and_offset().0;
            let judgement = window.judge(&fitted.detector, &readings, true);
            let contributions = judgement.contributions.expect("asked for");
            first += usize::from(greatest(&contributions) == Some(broken));
            let contributions = plain.contributions(&last);
            first_of_plain += usize::from(greatest(&contributions) == Some(broken));
        }
        println!("{fault:?}: {first}, plain {first_of_plain}");
        assert!(first >= 950, "{fault:?}: {first} of 1000");
        assert!(
            fault != Fault::FarOut || first_of_plain >= 950,
            "{first_of_plain}"
        );
    }
}

/// The sensor with the greatest share, all its views together.
fn greatest(contributions: &[Contribution]) -> Option<usize> {
    let greatest = contributions
        .iter()
        .max_by(|a, b| a.share.total_cmp(&b.share));
    greatest.map(|contribution| contribution.feature)
}
