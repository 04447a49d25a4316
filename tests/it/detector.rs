//! The scaler against recorded results of scikit-learn, bit for bit, and what a detector checks.

use iforest_server::detector::{BlindSides, Detector, DetectorError, OutOfRange, StandardScaler};
use iforest_server::forest::{FitError, ScoreError};
use linfa::traits::Transformer;
use ndarray::{Array2, ArrayView2, Axis, array};
use serde::Deserialize;
use serde_json::json;

use crate::support::data::{DataSpec, SplitMix, fixture, hash_floats, params, quantised, readings};

#[derive(Deserialize)]
struct Case {
    data: DataSpec,
    mean: String,
    scale: String,
    scaled: String,
}

// Answers depend on what the forest sees, so the scaler must equal that of scikit-learn too.
#[test]
fn scaled_values_equal_scikit_learn_bit_for_bit() {
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

// numpy sums one column pairwise wherever it lies in memory, and contiguous columns too, so both
// must give the bits of a copy of the column.
#[test]
fn the_memory_layout_of_a_column_does_not_change_the_scaler() {
    let bits = |column: ArrayView2<'_, f64>| {
        let scaler = StandardScaler::fit(column).expect("finite readings");
        (scaler.mean()[0].to_bits(), scaler.scale()[0].to_bits())
    };
    for rows in [7, 8, 100, 129, 1000] {
        let wide = readings(5, rows, 2);
        let contiguous = wide.column(0).to_owned().insert_axis(Axis(1));
        let expected = bits(contiguous.view());
        let columns = wide.t().as_standard_layout().into_owned();
        assert_eq!(bits(columns.t()), expected, "{rows} rows, column by column");
        let strided = wide.column(0).insert_axis(Axis(1));
        assert_eq!(bits(strided), expected, "{rows} rows");
    }
}

// Behind the scaler a change of unit disappears, except for the rounding of scaled values.
#[test]
fn scores_do_not_depend_on_the_unit() {
    let data = readings(5, 300, 2);
    let detector = Detector::fit(&params(), data.clone()).expect("valid readings");
    let scores = detector
        .decision_function(data.view())
        .expect("valid readings");
    for unit in [1e-9, 0.3, 25.4, 1e7] {
        let data = &data * unit;
        let other = Detector::fit(&params(), data.clone()).expect("valid readings");
        let others = other
            .decision_function(data.view())
            .expect("valid readings");
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

#[test]
fn a_batch_gets_the_same_scores_as_single_readings() {
    let data = readings(5, 200, 1);
    let detector = Detector::fit(&params(), data.clone()).expect("valid readings");
    let scores = detector
        .decision_function(data.view())
        .expect("valid readings");
    let mut anomalies = 0;
    for (&value, &score) in data.iter().zip(&scores) {
        let prediction = detector.predict(value).expect("a valid reading");
        assert_eq!(prediction.anomaly_score.to_bits(), score.to_bits());
        assert_eq!(prediction.is_anomaly, score > detector.forest().threshold());
        anomalies += usize::from(prediction.is_anomaly);
    }
    assert_eq!(anomalies, 10, "5 % of 200");
}

// A single row of several features takes another code path than a batch.
#[test]
fn a_row_gets_the_same_score_alone_and_in_a_batch() {
    for columns in [1, 3] {
        let data = readings(5, 200, columns);
        let mut detector = Detector::fit(&params(), data.clone()).expect("valid readings");
        let far = Array2::from_shape_fn((20, columns), |(row, _)| row as f64 - 10.0);
        for out_of_range in [OutOfRange::Score, OutOfRange::Anomaly] {
            detector.set_out_of_range(out_of_range, 0.1);
            for rows in [&data, &far] {
                let scores = detector.decision_function(rows.view()).expect("valid rows");
                for (row, score) in rows.rows().into_iter().zip(scores) {
                    let prediction = detector.predict_row(&row.to_vec()).expect("a valid row");
                    assert_eq!(prediction.anomaly_score.to_bits(), score.to_bits());
                    assert_eq!(prediction.scaled.len(), columns);
                    if columns == 1 {
                        let one = detector.predict(row[0]).expect("a valid reading");
                        assert_eq!(one.anomaly_score.to_bits(), score.to_bits());
                        assert_eq!(one.out_of_range, prediction.out_of_range);
                        assert_eq!(one.scaled, prediction.scaled[0]);
                    }
                }
            }
        }
    }
}

// With the option a reading beyond the training range by more than the margin is an anomaly, and a
// reading within it keeps its score.
#[test]
fn out_of_range_anomaly_flags_readings_beyond_the_training_range() {
    let grid = quantised();
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
        let mut detector = Detector::fit(&params(), data.clone()).expect("valid readings");
        let plain = detector.clone();
        detector.set_out_of_range(OutOfRange::Anomaly, margin);
        for reading in inside {
            let prediction = detector.predict(reading).expect("a valid reading");
            let scored = plain.predict(reading).expect("a valid reading");
            assert_eq!(prediction.out_of_range, Some(false), "{reading}");
            assert_eq!(prediction.anomaly_score, scored.anomaly_score, "{reading}");
            assert_eq!(scored.out_of_range, None);
        }
        for reading in outside {
            let prediction = detector.predict(reading).expect("a valid reading");
            assert_eq!(prediction.out_of_range, Some(true), "{reading}");
            assert!(prediction.is_anomaly, "{reading}");
            assert!(prediction.anomaly_score > detector.forest().threshold());
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

// A margin so wide that the limits overflow a double is not an error.
#[test]
fn a_margin_that_overflows_sets_no_limit() {
    let mut detector = Detector::fit(&params(), readings(5, 300, 1)).expect("valid readings");
    let plain = detector.normal_ranges();
    detector.set_out_of_range(OutOfRange::Anomaly, f64::MAX);
    assert_eq!(detector.normal_ranges(), plain);
}

// A restart must serve the same bits, and parts that do not belong together must be refused.
#[test]
fn a_stored_detector_is_read_back_unchanged() {
    for columns in [1, 3] {
        let detector = Detector::fit(&params(), readings(5, 100, columns)).expect("valid readings");
        let stored = serde_json::to_value(&detector).expect("serializable");
        let back: Detector = serde_json::from_value(stored.clone()).expect("what was written");
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
            *damaged.pointer_mut(place).expect("a field") = damage.clone();
            let read = serde_json::from_value::<Detector>(damaged);
            assert!(read.is_err(), "{place} = {damage}");
        }
    }
}

#[test]
fn invalid_readings_are_refused_with_row_and_feature() {
    let detector = Detector::fit(&params(), readings(5, 50, 2)).expect("valid readings");
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
    let narrow = Detector::fit(&params(), array![[1.0], [1.1], [1.2]]).expect("valid readings");
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
        let error = Detector::fit(&params(), data).expect_err("an error");
        assert_eq!(error.to_string(), place);
    }
    let error = Detector::fit(&params().contamination(0.6), readings(5, 9, 1));
    assert!(matches!(
        error,
        Err(DetectorError::Fit(FitError::Params(_)))
    ));
}

// A trap of PyOD, kept for parity: a model of readings on a coarse grid never alarms.
#[test]
fn a_detector_that_cannot_alarm_reports_it() {
    let detector = Detector::fit(&params(), quantised()).expect("valid readings");
    assert!(
        !detector
            .predict(1000.0)
            .expect("a valid reading")
            .is_anomaly
    );
    let both_sides = |blind| BlindSides {
        below: blind,
        above: blind,
    };
    assert_eq!(detector.blind_sides(), both_sides(true));
    let constant = Detector::fit(&params(), Array2::ones((20, 3))).expect("valid readings");
    assert_eq!(constant.blind_sides(), both_sides(true));
    let usual = Detector::fit(&params(), readings(5, 500, 1)).expect("valid readings");
    assert_eq!(usual.blind_sides(), both_sides(false));
}

// Alarm limits must agree with the predictions whatever the unit and the distribution: on
// thousands of readings, and around every limit.
#[test]
fn normal_ranges_agree_with_every_prediction() {
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
        let mut detector = Detector::fit(&params(), data.clone()).expect("valid readings");
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
            let prediction = detector.predict(reading).expect("a valid reading");
            assert_eq!(inside, !prediction.is_anomaly, "{reading} in {ranges:?}");
        }
    }
    let several = Detector::fit(&params(), readings(5, 50, 2)).expect("valid readings");
    assert_eq!(several.normal_ranges(), None);
}
