//! The scaler against recorded results of scikit-learn, bit for bit, and the detector's checks.

mod common;

use common::{DataSpec, SplitMix, fixture, hash_floats};
use iforest_server::detector::{BlindSides, Detector, DetectorError, OutOfRange, StandardScaler};
use iforest_server::forest::{FitError, IsolationForest, IsolationForestParams, ScoreError};
use linfa::traits::Transformer;
use ndarray::{Array2, ArrayView2, Axis, array};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Case {
    data: DataSpec,
    mean: String,
    scale: String,
    scaled: String,
}

// What the forest sees decides what it answers, so the scaler is held to scikit-learn's bits too.
#[test]
fn scaled_values_are_those_of_scikit_learn_to_the_bit() {
    let cases: Vec<Case> = fixture("scaler.json");
    assert!(cases.len() > 500);
    for case in cases {
        let data = case.data.data();
        let scaler = StandardScaler::fit(data.view()).expect("finite readings");
        assert_eq!(
            hash_floats(scaler.mean()),
            case.mean,
            "mean, {:?}",
            case.data
        );
        assert_eq!(
            hash_floats(scaler.scale()),
            case.scale,
            "scale, {:?}",
            case.data
        );
        let scaled = scaler.transform(data);
        assert_eq!(hash_floats(&scaled), case.scaled, "scaled, {:?}", case.data);
    }
}

// numpy sums a lone column pairwise wherever it lies in memory, and columns that each lie together,
// so both are learnt to the bit as a copy of the column is.
#[test]
fn a_column_is_learnt_as_its_copy_wherever_it_lies() {
    let bits = |column: ArrayView2<'_, f64>| {
        let scaler = StandardScaler::fit(column).expect("finite readings");
        (scaler.mean()[0].to_bits(), scaler.scale()[0].to_bits())
    };
    for rows in [7, 8, 100, 129, 1000] {
        let wide = readings(rows, 2);
        let contiguous = wide.column(0).to_owned().insert_axis(Axis(1));
        let expected = bits(contiguous.view());
        let columns = wide.t().as_standard_layout().into_owned();
        assert_eq!(bits(columns.t()), expected, "{rows} rows, column by column");
        let strided = wide.column(0).insert_axis(Axis(1));
        assert_eq!(bits(strided), expected, "{rows} rows");
    }
}

fn params() -> IsolationForestParams {
    IsolationForest::params()
        .contamination(0.05)
        .random_state(7)
}

fn readings(rows: usize, columns: usize) -> Array2<f64> {
    let mut random = SplitMix(5);
    Array2::from_shape_simple_fn((rows, columns), || 5.0 * random.uniform())
}

// A detector judges in whatever unit its readings come: behind the scaler, a change of unit is lost
// but for the rounding of scaled values.
#[test]
fn scores_do_not_depend_on_the_unit() {
    let data = readings(300, 2);
    let detector = Detector::fit(&params(), data.clone()).expect("good readings");
    let scores = detector
        .decision_function(data.view())
        .expect("good readings");
    for unit in [1e-9, 0.3, 25.4, 1e7] {
        let data = &data * unit;
        let other = Detector::fit(&params(), data.clone()).expect("good readings");
        let others = other.decision_function(data.view()).expect("good readings");
        let differ = scores
            .iter()
            .zip(&others)
            .filter(|(a, b)| (**a - **b).abs() > 1e-12)
            .count();
        assert!(
            differ <= 3,
            "{differ} of 300 scores differ in units of {unit}"
        );
    }
}

// A batch and one value at a time are the same function.
#[test]
fn a_batch_is_judged_as_its_readings_one_by_one() {
    let data = readings(200, 1);
    let detector = Detector::fit(&params(), data.clone()).expect("good readings");
    let scores = detector
        .decision_function(data.view())
        .expect("good readings");
    let mut anomalies = 0;
    for (&value, &score) in data.iter().zip(&scores) {
        let prediction = detector.predict(value).expect("a good reading");
        assert_eq!(prediction.anomaly_score.to_bits(), score.to_bits());
        assert_eq!(prediction.is_anomaly, score > detector.forest().threshold());
        anomalies += usize::from(prediction.is_anomaly);
    }
    assert_eq!(anomalies, 10, "5 % of 200");
}

// A reading of several features takes another way than a batch of them.
#[test]
fn a_row_is_judged_as_in_a_batch() {
    for columns in [1, 3] {
        let data = readings(200, columns);
        let mut detector = Detector::fit(&params(), data.clone()).expect("good readings");
        let far = Array2::from_shape_fn((20, columns), |(row, _)| row as f64 - 10.0);
        for out_of_range in [OutOfRange::Score, OutOfRange::Anomaly] {
            detector.set_out_of_range(out_of_range, 0.1);
            for rows in [&data, &far] {
                let scores = detector.decision_function(rows.view()).expect("good");
                for (row, score) in rows.rows().into_iter().zip(scores) {
                    let judged = detector.predict_row(&row.to_vec()).expect("a good row");
                    assert_eq!(judged.anomaly_score.to_bits(), score.to_bits());
                    assert_eq!(judged.scaled.len(), columns);
                    if columns == 1 {
                        let one = detector.predict(row[0]).expect("a good reading");
                        assert_eq!(one.anomaly_score.to_bits(), score.to_bits());
                        assert_eq!(one.out_of_range, judged.out_of_range);
                        assert_eq!(one.scaled, judged.scaled[0]);
                    }
                }
            }
        }
    }
}

// The trap of the README, and the way out of it: with the option, what lies beyond the training
// range by more than the margin is an anomaly, and what lies within is judged as before.
#[test]
fn a_reading_out_of_range_is_an_anomaly_where_that_is_asked_for() {
    let mut random = SplitMix(8);
    let grid = Array2::from_shape_simple_fn((120, 1), || (random.uniform() * 8.0).floor() * 0.25);
    let constant = Array2::from_elem((20, 1), 7.0);
    let wide = array![[-1e308], [1e308], [0.0]];
    for (data, margin, inside, outside) in [
        (
            &grid,
            0.0,
            [0.0, 1.75],
            [-0.0f64.next_up(), 1.75f64.next_up()],
        ),
        (
            &grid,
            1.0,
            [-1.75, 3.5],
            [(-1.75f64).next_down(), 3.5f64.next_up()],
        ),
        (
            &constant,
            0.0,
            [7.0, 7.0],
            [7.0f64.next_down(), 7.0f64.next_up()],
        ),
        (&wide, 0.0, [-1e308, 1e308], [-1.7e308, 1.7e308]),
    ] {
        let mut detector = Detector::fit(&params(), data.clone()).expect("good readings");
        let plain = detector.clone();
        detector.set_out_of_range(OutOfRange::Anomaly, margin);
        for reading in inside {
            let judged = detector.predict(reading).expect("a good reading");
            let as_scored = plain.predict(reading).expect("a good reading");
            assert_eq!(judged.out_of_range, Some(false), "{reading}");
            assert_eq!(judged.anomaly_score, as_scored.anomaly_score, "{reading}");
            assert_eq!(as_scored.out_of_range, None);
        }
        for reading in outside {
            let judged = detector.predict(reading).expect("a good reading");
            assert_eq!(judged.out_of_range, Some(true), "{reading}");
            assert!(judged.is_anomaly, "{reading}");
            assert!(judged.anomaly_score > detector.forest().threshold());
        }
        assert_eq!(
            detector.blind_sides(),
            BlindSides {
                below: false,
                above: false
            }
        );
    }
}

// A margin so wide that the limits are beyond a double is no margin at all, and no error.
#[test]
fn a_margin_beyond_all_numbers_sets_no_limit() {
    let mut detector = Detector::fit(&params(), readings(300, 1)).expect("good readings");
    let plain = detector.normal_ranges();
    detector.set_out_of_range(OutOfRange::Anomaly, f64::MAX);
    assert_eq!(detector.normal_ranges(), plain);
}

// What is stored is served after a restart, so it must be the same to the last bit; and parts that
// do not belong together must not come to be judged with.
#[test]
fn a_detector_is_read_as_it_was_stored() {
    for columns in [1, 3] {
        let detector = Detector::fit(&params(), readings(100, columns)).expect("good readings");
        let stored = serde_json::to_value(&detector).expect("serializable");
        let back: Detector = serde_json::from_value(stored.clone()).expect("as written");
        assert_eq!(back, detector);
        for (place, damage) in [
            ("/scaler/mean", json!([])),
            ("/scaler/scale/0", json!(0.0)),
            ("/scaler/scale/0", json!(-1.0)),
            ("/scaler/scale", json!([1.0, 1.0])),
            (
                "/scaler",
                json!({ "mean": [0.0, 1.0], "scale": [1.0, 1.0] }),
            ),
            ("/training_ranges", json!([])),
            ("/training_ranges/0", json!({ "low": 2.0, "high": 1.0 })),
        ] {
            let mut damaged = stored.clone();
            *damaged.pointer_mut(place).expect("it is there") = damage.clone();
            let read = serde_json::from_value::<Detector>(damaged);
            assert!(read.is_err(), "{place} = {damage}");
        }
    }
}

#[test]
fn what_cannot_be_judged_is_refused_with_its_place() {
    let detector = Detector::fit(&params(), readings(50, 2)).expect("good readings");
    assert!(matches!(
        detector.predict(1.0),
        Err(DetectorError::Score(ScoreError::Width {
            expected: 2,
            got: 1
        }))
    ));
    assert!(matches!(
        detector.decision_function(array![[1.0]].view()),
        Err(DetectorError::Score(ScoreError::Width {
            expected: 2,
            got: 1
        }))
    ));
    assert!(matches!(
        detector.decision_function(array![[1.0, 2.0], [1.0, f64::NAN]].view()),
        Err(DetectorError::Score(ScoreError::NotFinite {
            row: 1,
            feature: 1,
            ..
        }))
    ));
    let narrow = Detector::fit(&params(), array![[1.0], [1.1], [1.2]]).expect("good readings");
    assert!(matches!(
        narrow.predict(f64::MAX),
        Err(DetectorError::Overflow {
            row: Some(0),
            feature: 0
        })
    ));
    for value in [f64::NAN, f64::INFINITY] {
        assert!(matches!(
            narrow.predict(value),
            Err(DetectorError::Score(ScoreError::NotFinite { .. }))
        ));
    }
    for (data, place) in [
        (
            Array2::zeros((0, 1)),
            "at least one row is needed to fit a forest, got none",
        ),
        (
            Array2::zeros((1, 0)),
            "at least one feature is needed to fit a forest, got none",
        ),
        (
            array![[1.0], [f64::INFINITY]],
            "row 1, feature 0 is inf, which is not a finite number",
        ),
        (
            array![[f64::MAX], [f64::MAX]],
            "the readings of feature 0 are too large to be averaged",
        ),
    ] {
        let error = Detector::fit(&params(), data).expect_err("must be refused");
        assert_eq!(error.to_string(), place);
    }
    let error = Detector::fit(&params().contamination(0.6), readings(9, 1));
    assert!(matches!(
        error,
        Err(DetectorError::Fit(FitError::Params(_)))
    ));
}

// PyOD's trap, kept for parity: readings on a coarse grid make a model that never alarms. The
// operator must be told.
#[test]
fn a_detector_that_cannot_alarm_knows_it() {
    let mut random = SplitMix(8);
    let grid = Array2::from_shape_simple_fn((120, 1), || (random.uniform() * 8.0).floor() * 0.25);
    let detector = Detector::fit(&params(), grid).expect("good readings");
    assert!(!detector.predict(1000.0).expect("a good reading").is_anomaly);
    let both = |blind| BlindSides {
        below: blind,
        above: blind,
    };
    assert_eq!(detector.blind_sides(), both(true));
    let constant = Detector::fit(&params(), Array2::ones((20, 3))).expect("good readings");
    assert_eq!(constant.blind_sides(), both(true));
    let good = Detector::fit(&params(), readings(500, 1)).expect("good readings");
    assert_eq!(good.blind_sides(), both(false));
}

// Alarm limits must agree with the prediction of every reading, whatever the unit and the shape of
// the data: on thousands of readings, and around every limit.
#[test]
fn normal_ranges_are_what_is_judged_normal() {
    let mut random = SplitMix(9);
    for (rows, scale, shift) in [
        (500, 5.0, 0.0),
        (60, 1e-9, -1.0),
        (300, 1e12, 1e13),
        (2, 1.0, 0.0),
    ] {
        let data = Array2::from_shape_simple_fn((rows, 1), || {
            let u = random.uniform();
            scale * u * u * u + shift
        });
        let mut detector = Detector::fit(&params(), data.clone()).expect("good readings");
        if rows == 60 {
            detector.set_out_of_range(OutOfRange::Anomaly, 0.05);
        }
        let ranges = detector.normal_ranges().expect("one feature");
        assert!(ranges.is_sorted_by(|a, b| a.high < b.low));
        let limits = ranges
            .iter()
            .flat_map(|range| [range.low, range.high])
            .flatten();
        let around = limits.flat_map(|limit| [limit.next_down(), limit, limit.next_up()]);
        let spread = (0..4000).map(|i| shift + scale * (f64::from(i) / 2000.0 - 0.5));
        for reading in around.chain(spread).collect::<Vec<_>>() {
            let inside = ranges.iter().any(|range| {
                range.low.is_none_or(|low| low <= reading)
                    && range.high.is_none_or(|high| reading <= high)
            });
            let judged = detector.predict(reading).expect("a good reading");
            assert_eq!(inside, !judged.is_anomaly, "{reading} in {ranges:?}");
        }
    }
    let several = Detector::fit(&params(), readings(50, 2)).expect("good readings");
    assert_eq!(several.normal_ranges(), None);
}
