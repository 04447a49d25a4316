//! Models by name, through the router: what can be asked of them, what is refused and how, and what
//! stays with a model from one retrain to the next.

mod common;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use common::SplitMix;
use common::router::{Answer, post, send, server};
use iforest_server::detector::{Detector, OutOfRange};
use iforest_server::forest::{IsolationForest, IsolationForestParams};
use iforest_server::registry::{DefaultModel, Registry, RegistryConfig};
use iforest_server::store::Store;
use iforest_server::{http, training_data};
use ndarray::{Array2, array};
use serde_json::{Value, json};

async fn ask(router: &Router, method: Method, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(path);
    send(router, request.body(Body::empty()).expect("a good request")).await
}

async fn get(router: &Router, path: &str) -> Answer {
    ask(router, Method::GET, path).await
}

/// The JSON of an answer that must be 200.
fn json_of(answer: &Answer) -> Value {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert!(answer.body.ends_with("}\n"), "{}", answer.body);
    serde_json::from_str(&answer.body).expect("JSON")
}

fn params() -> IsolationForestParams {
    IsolationForest::params()
        .contamination(0.05)
        .random_state(42)
}

fn rows(seed: u64, rows: usize, columns: usize) -> Array2<f64> {
    let mut random = SplitMix(seed);
    Array2::from_shape_simple_fn((rows, columns), || 5.0 * random.uniform())
}

fn samples(data: &Array2<f64>) -> Value {
    match data.ncols() {
        1 => json!(data.iter().collect::<Vec<_>>()),
        _ => json!(
            data.rows()
                .into_iter()
                .map(|row| row.to_vec())
                .collect::<Vec<_>>()
        ),
    }
}

// The life of a model as a plant meets it: made by its first retrain, asked, described, listed,
// deleted.
#[tokio::test]
async fn a_model_is_made_asked_described_and_deleted() {
    let router = server();
    let data = rows(1, 300, 1);
    let body = json!({ "samples": samples(&data) });
    let made = post(&router, "/models/plant-1.motor_2/retrain", body.to_string()).await;
    assert_eq!(
        made.body,
        "{\"message\":\"Model retrained successfully\",\"name\":\"plant-1.motor_2\",\
         \"samples_used\":300,\"version\":1,\"warnings\":[]}\n"
    );

    let detector = Detector::fit(&params(), data).expect("good readings");
    for value in [2.5, 9.0] {
        let judged = detector.predict(value).expect("a good reading");
        let body = json!({ "value": value }).to_string();
        let answer = post(&router, "/models/plant-1.motor_2/predict", body).await;
        let answer = json_of(&answer);
        assert_eq!(answer["anomaly_score"], judged.anomaly_score);
        assert_eq!(answer["scaled_value"], judged.scaled);
        assert_eq!(answer["input_value"], value);
        assert_eq!(answer["prediction"], u8::from(judged.is_anomaly));
        assert_eq!(answer.as_object().expect("an object").len(), 5);
    }

    let info = json_of(&get(&router, "/models/plant-1.motor_2").await);
    let range = detector.training_ranges()[0];
    let normal = detector.normal_ranges().expect("one feature");
    let normal: Vec<_> = normal.iter().map(|range| (range.low, range.high)).collect();
    for (field, expected) in [
        ("name", json!("plant-1.motor_2")),
        ("features", json!(1)),
        ("feature_names", Value::Null),
        ("samples_used", json!(300)),
        ("contamination", json!(0.05)),
        ("n_estimators", json!(100)),
        ("max_samples", json!(256)),
        ("random_state", json!(42)),
        ("threshold", json!(detector.forest().threshold())),
        ("out_of_range", json!("score")),
        ("out_of_range_margin", json!(0.0)),
        ("version", json!(1)),
        ("restored_from", Value::Null),
        ("training_ranges", json!([[range.low, range.high]])),
        ("normal_ranges", json!(normal)),
        ("warnings", json!([])),
    ] {
        assert_eq!(info[field], expected, "{field}");
    }

    let list = json_of(&get(&router, "/models").await);
    let list = list["models"].as_array().expect("a list");
    let names: Vec<_> = list.iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["default", "plant-1.motor_2"]);
    assert_eq!(list[0]["version"], Value::Null, "nothing taught it");
    for field in ["features", "samples_used", "trained_at", "version"] {
        assert_eq!(list[1][field], info[field], "{field}");
    }

    let deleted = ask(&router, Method::DELETE, "/models/plant-1.motor_2").await;
    assert_eq!(
        deleted.body,
        "{\"message\":\"Model deleted successfully\",\"name\":\"plant-1.motor_2\"}\n"
    );
    let gone = get(&router, "/models/plant-1.motor_2").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    assert_eq!(gone.error(), "there is no model plant-1.motor_2");
    // Made anew, it begins with version 1 again.
    let made = post(&router, "/models/plant-1.motor_2/retrain", body.to_string()).await;
    assert_eq!(json_of(&made)["version"], 1);
}

// The flows of server.py's users and those by name may be mixed: default is one and the same model.
#[tokio::test]
async fn the_model_default_is_that_of_predict_and_retrain() {
    let router = server();
    let body = r#"{"values": [2.5, 9, "3", true]}"#;
    for round in 0..2 {
        let plain = post(&router, "/predict", body).await;
        let named = post(&router, "/models/default/predict", body).await;
        assert_eq!(
            json_of(&plain)["predictions"].as_array().map(Vec::len),
            Some(4)
        );
        assert_eq!(plain.body, named.body);
        let retrain = r#"{"samples": [9.0, 9.1, 9.2, 8.9, 9.05]}"#;
        if round == 0 {
            let answer = post(&router, "/retrain", retrain).await;
            assert_eq!(
                answer.body,
                "{\"message\":\"Model retrained successfully\",\"samples_used\":5}\n"
            );
        }
    }
    assert_eq!(
        json_of(&get(&router, "/models/default").await)["version"],
        1
    );
    let answer = ask(&router, Method::DELETE, "/models/default").await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert!(answer.error().contains("default cannot be deleted"));
}

// A reading of several sensors, as an array or by the names that the plant gave them, alone and in
// batches, is what the library says of it.
#[tokio::test]
async fn readings_of_several_features_are_arrays_or_objects() {
    let router = server();
    let data = rows(2, 200, 3);
    let detector = Detector::fit(&params(), data.clone()).expect("good readings");
    let row = [2.5, 9.0, -1.0];
    let judged = detector.predict_row(&row).expect("a good row");
    let expected = format!(
        "{{\"anomaly_score\":{:?},\"input_value\":[2.5,9.0,-1.0],\"prediction\":1,\
         \"scaled_value\":[{:?},{:?},{:?}],\"status\":\"Anomaly Detected\"}}",
        judged.anomaly_score, judged.scaled[0], judged.scaled[1], judged.scaled[2]
    );
    let names = json!(["vibration", "temperature", "in °C"]);
    let objects: Vec<Value> = data
        .rows()
        .into_iter()
        .map(|row| json!({ "in °C": row[2], "vibration": row[0], "temperature": row[1], "at": "10:00" }))
        .collect();
    for samples in [samples(&data), json!(objects)] {
        let body = json!({ "samples": samples, "feature_names": names });
        let made = post(&router, "/models/press/retrain", body.to_string()).await;
        assert_eq!(json_of(&made)["samples_used"], 200);
        for value in [
            json!([2.5, 9, -1]),
            json!(["2.5", 9.0, -1]),
            json!({ "temperature": 9, "in °C": -1, "vibration": 2.5 }),
            json!({ "temperature": 9, "in °C": -1, "vibration": 2.5, "time": [1, null] }),
        ] {
            let body = json!({ "value": value }).to_string();
            let answer = post(&router, "/models/press/predict", body).await;
            assert_eq!(answer.body, format!("{expected}\n"), "{value}");
            let body = json!({ "values": [value, value] }).to_string();
            let answer = post(&router, "/models/press/predict", body).await;
            let both = format!("{{\"predictions\":[{expected},{expected}]}}\n");
            assert_eq!(answer.body, both, "{value}");
        }
    }
    let info = json_of(&get(&router, "/models/press").await);
    assert_eq!(info["features"], 3);
    assert_eq!(info["feature_names"], names);
    assert_eq!(info["normal_ranges"], Value::Null);
    assert_eq!(info["training_ranges"].as_array().map(Vec::len), Some(3));
}

// Every refusal names the field, what it must be, and what was sent.
#[tokio::test]
async fn a_bad_reading_is_told_what_is_wrong_with_it() {
    let router = server();
    let named = r#"{"samples": [[1, 2], [3, 4], [5, 7]], "feature_names": ["v", "t"]}"#;
    let one = r#"{"samples": [1, 2, 3], "feature_names": ["v"]}"#;
    for (model, body) in [
        ("pair", r#"{"samples": [[1, 2], [3, 4], [5, 7]]}"#),
        ("named", named),
        ("one", one),
        ("plain", r#"{"samples": [[1], [2], [3]]}"#),
    ] {
        let path = format!("/models/{model}/retrain");
        json_of(&post(&router, &path, body).await);
    }
    let both = "a number for each of the 2 features v, t; t is missing";
    for (model, body, status, expected) in [
        (
            "pair",
            r#"{"value": [1]}"#,
            422,
            "value must be a list of 2 numbers, one for each feature; got 1",
        ),
        (
            "pair",
            r#"{"value": [1, 2, 3]}"#,
            422,
            "value must be a list of 2 numbers, one for each feature; got 3",
        ),
        (
            "pair",
            r#"{"value": []}"#,
            422,
            "value must be a list of 2 numbers, one for each feature; got 0",
        ),
        (
            "pair",
            r#"{"value": 2.5}"#,
            422,
            "value must be a list of 2 numbers, one for each feature, got 2.5",
        ),
        (
            "pair",
            r#"{"value": null}"#,
            422,
            "value must be a list of 2 numbers, one for each feature, got null",
        ),
        (
            "pair",
            r#"{"value": {"v": 1, "t": 2}}"#,
            422,
            "value must be a list of 2 numbers, one for each feature, got {\"v\": 1, \"t\": 2}",
        ),
        (
            "pair",
            r#"{"value": [1, null]}"#,
            422,
            "value[1] must be a finite number, got null",
        ),
        (
            "pair",
            r#"{"value": [1, [2]]}"#,
            422,
            "value[1] must be a finite number, got [2]",
        ),
        (
            "pair",
            r#"{"value": [1, 1e400]}"#,
            400,
            "value[1] must be a finite number, got 1e400, which is beyond the range of a double",
        ),
        ("pair", r#"{"value": [1, 1.7e308]}"#, 200, ""),
        ("pair", r#"{"values": []}"#, 200, ""),
        ("one", r#"{"values": []}"#, 200, ""),
        (
            "pair",
            r#"{"values": [[1, 2], [1]]}"#,
            422,
            "values[1] must be a list of 2 numbers, one for each feature; got 1",
        ),
        (
            "pair",
            r#"{"values": [[1, 2], [1, "x"]]}"#,
            422,
            "values[1][1] must be a finite number, got \"x\"",
        ),
        (
            "pair",
            r#"{"values": [1, 2]}"#,
            422,
            "values[0] must be a list of 2 numbers, one for each feature, got 1",
        ),
        (
            "pair",
            r#"{"values": 3}"#,
            422,
            "values must be a list of numbers, got 3",
        ),
        (
            "pair",
            r#"{}"#,
            422,
            "the field value is missing; the body must be an object such as {\"value\": [2.5, 3.5]}",
        ),
        (
            "named",
            r#"{"value": [1]}"#,
            422,
            "value must be a list of 2 numbers, v, t; got 1",
        ),
        ("named", r#"{"value": {"v": 1}}"#, 422, both),
        ("named", r#"{"value": {"v": 1, "T": 2}}"#, 422, both),
        (
            "named",
            r#"{"value": {"v": 1, "t": "hot"}}"#,
            422,
            "value.t must be a finite number, got \"hot\"",
        ),
        (
            "named",
            r#"{"values": [{"v": 1, "t": null}]}"#,
            422,
            "values[0].t must be a finite number, got null",
        ),
        (
            "one",
            r#"{"value": [1, 2]}"#,
            422,
            "value must be 1 number, v; got 2",
        ),
        (
            "one",
            r#"{"value": {"t": 2}}"#,
            422,
            "value must have a number for each of the 1 features v; v is missing",
        ),
        ("one", r#"{"value": {"v": 2}}"#, 200, ""),
        ("one", r#"{"value": [2]}"#, 200, ""),
        (
            "plain",
            r#"{"value": {"v": 2}}"#,
            422,
            "value must be a finite number, got {\"v\": 2}",
        ),
        (
            "plain",
            r#"{"value": [1, 2]}"#,
            422,
            "value must be 1 number; got 2",
        ),
        ("plain", r#"{"value": "2.5"}"#, 200, ""),
        (
            "nobody",
            r#"{"value": 2.5}"#,
            404,
            "there is no model nobody",
        ),
    ] {
        let answer = post(&router, &format!("/models/{model}/predict"), body).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{model} {body}: {}",
            answer.body
        );
        if status != 200 {
            let error = answer.error();
            assert!(error.contains(expected), "{model} {body}: {error}");
        }
    }
}

// A misspelt setting that is passed over would be found by a plant only when the alarm stays away.
#[tokio::test]
async fn a_bad_retrain_is_told_what_is_wrong_and_changes_nothing() {
    let router = server();
    let good = r#"{"samples": [[1, 2], [3, 4], [5, 7]], "feature_names": ["v", "t"]}"#;
    json_of(&post(&router, "/models/known/retrain", good).await);
    let before = get(&router, "/models/known").await.body;
    let no_such = "expected a list of 1 to 1024 different names";
    for (body, status, expected) in [
        (
            r#"{"samples": [[1, 2]], "contaminaton": 0.1}"#,
            422,
            "there is no field \"contaminaton\"; there are samples, feature_names, contamination",
        ),
        (
            r#"{"contamination": 0.1}"#,
            422,
            "the field samples is missing",
        ),
        (
            r#"{"samples": []}"#,
            422,
            "samples must hold at least one reading, got []",
        ),
        (
            r#"{"samples": 5}"#,
            422,
            "samples must be a list of numbers, got 5",
        ),
        (
            r#"{"samples": [1, 2]}"#,
            422,
            "samples[0] must be a list of 2 numbers, v, t, got 1",
        ),
        (
            r#"{"samples": [[1, 2], [3]]}"#,
            422,
            "samples[1] must be a list of 2 numbers, v, t; got 1",
        ),
        (
            r#"{"samples": [[1, 2], [3, "x"]]}"#,
            422,
            "samples[1][1] must be a finite number, got \"x\"",
        ),
        (
            r#"{"samples": [[1, 2], {"v": 1}]}"#,
            422,
            "samples[1] must have a number for each of the 2 features v, t; t is missing",
        ),
        (
            r#"{"samples": [[1, 2, 3]]}"#,
            422,
            "samples[0] must be a list of 2 numbers, v, t; got 3",
        ),
        (
            r#"{"samples": [[1e308, 1], [1.7e308, 1]]}"#,
            422,
            "samples must be smaller or nearer to each other",
        ),
        (
            r#"{"samples": [[1, 1e400]]}"#,
            400,
            "samples[0][1] must be a finite number, got 1e400",
        ),
        (
            r#"{"samples": [[1, 2]], "contamination": 0.7}"#,
            422,
            "contamination must be greater than 0 and at most 0.5, got 0.7",
        ),
        (
            r#"{"samples": [[1, 2]], "contamination": "x"}"#,
            422,
            "contamination must be a finite number, got \"x\"",
        ),
        (
            r#"{"samples": [[1, 2]], "n_estimators": 0}"#,
            422,
            "n_estimators must be from 1 to 100000, got 0",
        ),
        (
            r#"{"samples": [[1, 2]], "n_estimators": 1.5}"#,
            422,
            "n_estimators: expected a whole number",
        ),
        (
            r#"{"samples": [[1, 2]], "n_estimators": -1}"#,
            422,
            "n_estimators: expected a whole number",
        ),
        (
            r#"{"samples": [[1, 2]], "max_samples": 0}"#,
            422,
            "max_samples must be at least 1 reading, got 0",
        ),
        (
            r#"{"samples": [[1, 2]], "max_samples": "many"}"#,
            422,
            "max_samples: expected auto, a whole number of readings",
        ),
        (
            r#"{"samples": [[1, 2]], "max_samples": 1.5}"#,
            422,
            "max_samples as a fraction must be greater than 0 and at most 1",
        ),
        (
            r#"{"samples": [[1, 2]], "random_state": 4294967296}"#,
            422,
            "random_state: expected a whole number from 0 to 4294967295, got 4294967296",
        ),
        (
            r#"{"samples": [[1, 2]], "out_of_range": "alarm"}"#,
            422,
            "out_of_range: expected \"score\" or \"anomaly\", got \"alarm\"",
        ),
        (
            r#"{"samples": [[1, 2]], "out_of_range_margin": -0.1}"#,
            422,
            "out_of_range_margin: expected a share of the training range, 0 or greater, got -0.1",
        ),
        (
            r#"{"samples": [[1, 2]], "feature_names": ["a", "a"]}"#,
            422,
            "feature_names[1]: expected a list of 1 to 1024 different names",
        ),
        (
            r#"{"samples": [[1, 2]], "feature_names": ["a", ""]}"#,
            422,
            "feature_names[1]: expected",
        ),
        (
            r#"{"samples": [[1, 2]], "feature_names": []}"#,
            422,
            no_such,
        ),
        (
            r#"{"samples": [[1, 2]], "feature_names": "a"}"#,
            422,
            no_such,
        ),
        (
            r#"{"samples": [[1, 2]], "feature_names": ["a", "b", "c"]}"#,
            422,
            "samples[0] must be a list of 3 numbers, a, b, c; got 2",
        ),
        (r#"{"samples": [[1, 2]], "#, 400, "the body is not JSON"),
    ] {
        for model in ["known", "new"] {
            let answer = post(&router, &format!("/models/{model}/retrain"), body).await;
            if model == "known" {
                assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
                let error = answer.error();
                assert!(error.contains(expected), "{body}: {error}");
            } else if answer.status != StatusCode::OK {
                assert_eq!(
                    get(&router, "/models/new").await.status,
                    StatusCode::NOT_FOUND
                );
            } else {
                json_of(&ask(&router, Method::DELETE, "/models/new").await);
            }
        }
        assert_eq!(get(&router, "/models/known").await.body, before, "{body}");
    }
    let objects = r#"{"samples": [{"v": 1}, {"v": 2}]}"#;
    let error = post(&router, "/models/new/retrain", objects).await.error();
    assert!(
        error.contains("name the fields that are features in feature_names"),
        "{error}"
    );
}

// Whoever set a model up once need not repeat it at each retrain; and whoever resets a setting gets
// the server's.
#[tokio::test]
async fn settings_and_names_stay_with_a_model_until_they_are_changed() {
    let router = server();
    let data = samples(&rows(3, 100, 2));
    let retrain = async |more: Value| {
        let mut body = json!({ "samples": data });
        for (field, value) in more.as_object().expect("an object") {
            body[field] = value.clone();
        }
        json_of(&post(&router, "/models/m/retrain", body.to_string()).await);
        json_of(&get(&router, "/models/m").await)
    };
    let own = json!({
        "contamination": 0.2, "n_estimators": 10, "max_samples": 0.5, "random_state": 7,
        "out_of_range": "anomaly", "out_of_range_margin": 0.25, "feature_names": ["a", "b"]
    });
    let expect = |info: &Value, expected: &Value| {
        for (field, value) in expected.as_object().expect("an object") {
            assert_eq!(&info[field], value, "{field}");
        }
    };
    let mut shown = own.clone();
    shown["max_samples"] = json!(50);
    expect(&retrain(own).await, &shown);
    expect(&retrain(json!({})).await, &shown);
    shown["contamination"] = json!(0.1);
    expect(&retrain(json!({ "contamination": 0.1 })).await, &shown);
    let reset = json!({
        "contamination": null, "n_estimators": null, "max_samples": null, "random_state": null,
        "out_of_range": null, "out_of_range_margin": null, "feature_names": null
    });
    let info = retrain(reset).await;
    expect(
        &info,
        &json!({
            "contamination": 0.05, "n_estimators": 100, "max_samples": 100, "random_state": 42,
            "out_of_range": "score", "out_of_range_margin": 0.0, "feature_names": null
        }),
    );
    // To other features there is a way, but not by accident.
    let fewer = r#"{"samples": [1, 2, 3]}"#;
    let error = post(&router, "/models/m/retrain", fewer).await.error();
    assert!(
        error.contains("samples[0] must be a list of 2 numbers"),
        "{error}"
    );
    let fewer = r#"{"samples": [1, 2, 3], "feature_names": ["a"]}"#;
    json_of(&post(&router, "/models/m/retrain", fewer).await);
    assert_eq!(json_of(&get(&router, "/models/m").await)["features"], 1);
}

// Flows of server.py ask /predict and /retrain also where default was given several features.
#[tokio::test]
async fn predict_and_retrain_go_along_with_a_default_of_several_features() {
    let router = server();
    let body = json!({ "samples": samples(&rows(4, 100, 2)), "feature_names": ["a", "b"] });
    json_of(&post(&router, "/models/default/retrain", body.to_string()).await);
    let question = r#"{"value": {"b": 1, "a": 2}}"#;
    let plain = post(&router, "/predict", question).await;
    let named = post(&router, "/models/default/predict", question).await;
    assert_eq!(json_of(&plain)["input_value"], json!([2.0, 1.0]));
    assert_eq!(plain.body, named.body);
    let answer = post(&router, "/predict", r#"{"value": 1}"#).await;
    assert_eq!(
        answer.error(),
        "value must be a list of 2 numbers, a, b, got 1"
    );
    let answer = post(&router, "/retrain", r#"{"samples": [1, 2, 3]}"#).await;
    assert_eq!(
        answer.error(),
        "samples[0] must be a list of 2 numbers, a, b, got 1"
    );
    let answer = post(&router, "/retrain", r#"{"samples": [[1, 2], [3, 4]]}"#).await;
    assert_eq!(
        answer.body,
        "{\"message\":\"Model retrained successfully\",\"samples_used\":2}\n"
    );
}

// A bad batch of readings was learnt: each rollback goes one version further back, whatever was
// rolled back before.
#[tokio::test]
async fn a_model_can_be_rolled_back_version_by_version() {
    for model in ["default", "motor"] {
        let router = server();
        let path = |action: &str| format!("/models/{model}/{action}");
        let answers = async |router: &Router| {
            post(router, &path("predict"), r#"{"values": [1, 5, 20]}"#)
                .await
                .body
        };
        let mut history = Vec::new();
        for version in 1..=4u32 {
            let data = rows(version.into(), 50, 1) * f64::from(version);
            let body = json!({ "samples": samples(&data) }).to_string();
            let made = json_of(&post(&router, &path("retrain"), body).await);
            assert_eq!(made["version"], version);
            history.push(answers(&router).await);
        }
        // Version 5 is a copy of 3, 6 of 2, 7 of 4 because it is asked for, 8 of 3 again.
        for (version, body, copied) in [
            (5, "", 3),
            (6, "{}", 2),
            (7, r#"{"version": 4}"#, 4),
            (8, r#"{"version": null}"#, 3),
            (9, r#"{"version": 5}"#, 3),
        ] {
            let answer = json_of(&post(&router, &path("rollback"), body).await);
            assert_eq!(answer["version"], version);
            assert_eq!(answer["restored_from"], copied);
            assert_eq!(answers(&router).await, history[copied - 1]);
            let info = json_of(&get(&router, &path("")[..path("").len() - 1]).await);
            assert_eq!(info["restored_from"], copied);
        }
        let kept = json_of(&get(&router, &path("versions")).await);
        assert_eq!(kept["served"], 9);
        // A rollback removes nothing: there may be a reason to go still further back.
        assert_eq!(kept["versions"], json!([1, 2, 3, 4, 5, 6, 7, 8, 9]));
        let answer = post(&router, &path("rollback"), r#"{"version": 10}"#).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(
            answer.error(),
            format!("there is no version 10 of model {model}; kept are 1, 2, 3, 4, 5, 6, 7, 8, 9")
        );
        for bad in [
            r#"{"version": "3"}"#,
            r#"{"version": -1}"#,
            r#"{"to": 3}"#,
            "[3]",
        ] {
            let answer = post(&router, &path("rollback"), bad).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
        }
        assert_eq!(answers(&router).await, history[2]);
        for copied in [2, 1] {
            let answer = json_of(&post(&router, &path("rollback"), "").await);
            assert_eq!(answer["restored_from"], copied);
        }
        let answer = post(&router, &path("rollback"), "").await;
        assert_eq!(answer.status, StatusCode::CONFLICT);
        let error = answer.error();
        assert!(
            error.contains("version 11, a copy of 1; kept are "),
            "{error}"
        );
        // The next training removes what is too old. It was answered before that was done.
        let body = json!({ "samples": [1, 2, 3] }).to_string();
        assert_eq!(
            json_of(&post(&router, &path("retrain"), body).await)["version"],
            12
        );
        json_of(&post(&router, &path("rollback"), r#"{"version": 11}"#).await);
        let kept = json_of(&get(&router, &path("versions")).await);
        assert_eq!(
            kept["versions"],
            json!([8, 9, 10, 11, 12, 13]),
            "five and a copy"
        );
    }
    // The synthetic model of a first start is no version.
    let router = server();
    let answer = post(&router, "/models/default/rollback", "").await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    let answer = post(&router, "/models/nobody/rollback", "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

// What a body claims to hold must not take memory before it is seen to be there: with 1,024 features
// these readings would be 160 GB.
#[tokio::test]
async fn numbers_that_are_no_rows_take_no_memory() {
    let router = server();
    let names: Vec<_> = (0..1024).map(|i| format!("f{i}")).collect();
    let ones = vec!["1"; 20_000_000].join(",");
    let names = serde_json::to_string(&names).expect("names");
    let body = format!("{{\"feature_names\":{names},\"samples\":[{ones}]}}");
    let answer = post(&router, "/models/wide/retrain", body).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let error = answer.error();
    assert!(
        error.starts_with("samples[0] must be a list of 1024 numbers"),
        "{error}"
    );
}

/// The readings of the README's trap: 120 in steps of 0.25.
fn quantised() -> Vec<f64> {
    let mut random = SplitMix(8);
    let steps = std::iter::repeat_with(|| (random.uniform() * 8.0).floor() * 0.25);
    steps.take(120).collect()
}

// The trap of isolation forests, and the way out of it, for one model and for a whole server.
#[tokio::test]
async fn a_model_that_could_never_alarm_says_so_and_an_option_makes_it() {
    let quantised = quantised();
    let far = r#"{"value": 1000}"#;
    let router = server();
    let body = json!({ "samples": quantised });
    let made = json_of(&post(&router, "/models/m/retrain", body.to_string()).await);
    let warning = made["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.starts_with("this model can never alarm: it calls every reading normal"),
        "{warning}"
    );
    assert!(
        warning.ends_with("or set out_of_range to \"anomaly\""),
        "{warning}"
    );
    let answer = json_of(&post(&router, "/models/m/predict", far).await);
    assert_eq!(answer["prediction"], 0, "as PyOD says");

    let constant = r#"{"samples": [7, 7, 7, 7]}"#;
    let made = json_of(&post(&router, "/models/constant/retrain", constant).await);
    let warning = made["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.starts_with("this model can never alarm"),
        "{warning}"
    );

    let body =
        json!({ "samples": quantised, "out_of_range": "anomaly", "out_of_range_margin": 0.5 });
    let made = json_of(&post(&router, "/models/m/retrain", body.to_string()).await);
    assert_eq!(made["warnings"], json!([]));
    let info = json_of(&get(&router, "/models/m").await);
    assert_eq!(
        info["normal_ranges"],
        json!([[-0.875, 2.625]]),
        "0 to 1.75, half of it wider"
    );
    let threshold = info["threshold"].as_f64().expect("a number");
    for (value, out_of_range) in [(1000.0, true), (2.7, true), (2.6, false), (-0.9, true)] {
        let body = json!({ "value": value }).to_string();
        let answer = json_of(&post(&router, "/models/m/predict", body).await);
        assert_eq!(answer["out_of_range"], out_of_range, "{value}");
        assert_eq!(answer["prediction"], u8::from(out_of_range), "{value}");
        let score = answer["anomaly_score"].as_f64().expect("a number");
        assert_eq!(score > threshold, out_of_range, "{value}");
    }

    // For a server it holds for all models that do not say otherwise, default too.
    let options = RegistryConfig {
        out_of_range: OutOfRange::Anomaly,
        ..RegistryConfig::new(params())
    };
    let first = DefaultModel::LoadOrTrain(Box::new(|| training_data::synthetic(42)));
    let registry = Registry::open(Store::in_memory(), options, first).expect("it opens");
    let router = http::router(Arc::new(registry));
    let body = json!({ "samples": quantised }).to_string();
    json_of(&post(&router, "/retrain", body.clone()).await);
    json_of(&post(&router, "/models/m/retrain", body).await);
    for path in ["/predict", "/models/m/predict"] {
        let answer = post(&router, path, far).await;
        assert!(
            answer
                .body
                .contains("\"input_value\":1000.0,\"out_of_range\":true,\"prediction\":1")
        );
    }
    let own = json!({ "samples": quantised, "out_of_range": "score" }).to_string();
    json_of(&post(&router, "/models/m/retrain", own).await);
    let answer = json_of(&post(&router, "/models/m/predict", far).await);
    assert_eq!(answer["prediction"], 0);
    assert_eq!(answer["out_of_range"], Value::Null);
}

// Of several sensors one may have stood still in training: however far it then moves, the forest does
// not look at it.
#[tokio::test]
async fn a_feature_that_is_never_looked_at_is_named() {
    let router = server();
    let mut data = rows(5, 300, 3);
    data.column_mut(1).fill(7.0);
    let body = json!({ "samples": samples(&data) });
    let made = json_of(&post(&router, "/models/m/retrain", body.to_string()).await);
    let warning = made["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.starts_with("the values of [1] do not count"),
        "{warning}"
    );
    let names = json!({ "samples": samples(&data), "feature_names": ["a", "still", "c"] });
    let made = json_of(&post(&router, "/models/m/retrain", names.to_string()).await);
    let warning = made["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.starts_with("the values of still do not count"),
        "{warning}"
    );
    let far = r#"{"value": [2.5, 1e6, 2.5]}"#;
    let answer = json_of(&post(&router, "/models/m/predict", far).await);
    assert_eq!(answer["prediction"], 0);
    let option = json!({ "samples": samples(&data), "out_of_range": "anomaly" });
    let made = json_of(&post(&router, "/models/m/retrain", option.to_string()).await);
    assert_eq!(made["warnings"], json!([]));
    let answer = json_of(&post(&router, "/models/m/predict", far).await);
    assert_eq!(answer["prediction"], 1);
}

// Whoever may send a request must not be able to take a gateway's memory, or its time, by a few
// bytes.
#[tokio::test]
async fn the_size_of_a_model_is_bounded() {
    let router = server();
    let thousand = samples(&rows(6, 1000, 1));
    let names: Vec<_> = (0..1025).map(|i| format!("f{i}")).collect();
    let wide = vec![1.0; 1025];
    for (more, expected) in [
        (
            json!({ "n_estimators": 10_000, "max_samples": 1000 }),
            "must be at most 1000000, got 10000 times 1000",
        ),
        (json!({ "n_estimators": 100_000 }), "got 100000 times 256"),
        (
            json!({ "feature_names": names }),
            "expected a list of 1 to 1024 different names",
        ),
        (
            json!({ "samples": [wide] }),
            "samples[0] must have at most 1024 numbers, got 1025",
        ),
    ] {
        let mut body = json!({ "samples": thousand });
        for (field, value) in more.as_object().expect("an object") {
            body[field] = value.clone();
        }
        let answer = post(&router, "/models/m/retrain", body.to_string()).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(answer.error().contains(expected), "{}", answer.body);
        assert!(answer.body.len() < 500, "{}", answer.body.len());
    }
    let half_a_million = vec!["[1,2]"; 520_000].join(",");
    let long = format!("{{\"n_estimators\":3900,\"samples\":[{half_a_million}]}}");
    let answer = post(&router, "/models/m/retrain", long).await;
    let error = answer.error();
    assert!(
        error.contains("at most 2000000000, got 3900 times 520000"),
        "{error}"
    );
    // What was allowed for few readings is not for many.
    let few = json!({ "samples": [1, 2, 3], "n_estimators": 10_000, "max_samples": 1.0 });
    json_of(&post(&router, "/models/default/retrain", few.to_string()).await);
    let many = json!({ "samples": thousand }).to_string();
    let answer = post(&router, "/retrain", many).await;
    assert!(
        answer.error().contains("got 10000 times 1000"),
        "{}",
        answer.body
    );
}

// Names come from topics, which hold all sorts of characters.
#[tokio::test]
async fn a_name_that_is_none_is_refused_on_every_route() {
    let router = server();
    for name in ["a%20b", "a+b", "%C3%A4", "a%2Fb", &"x".repeat(129)] {
        for (method, action) in [
            (Method::GET, ""),
            (Method::DELETE, ""),
            (Method::GET, "/versions"),
            (Method::POST, "/rollback"),
        ] {
            let path = format!("/models/{name}{action}");
            let answer = ask(&router, method, &path).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
            assert!(
                answer
                    .error()
                    .starts_with("a model's name must be 1 to 128 of")
            );
        }
        for action in ["predict", "retrain"] {
            let body = r#"{"value": 1, "samples": [1]}"#;
            let answer = post(&router, &format!("/models/{name}/{action}"), body).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}");
        }
    }
    // Decoded in a path that is spelt otherwise too, this would end the path.
    let answer = get(&router, "/%6Dodels/default%3Fb").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let answer = get(&router, "/models/%FF").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    answer.error();
    // Clients that follow the URL standard take these out, and ask another path.
    for name in ["..", "."] {
        let answer = get(&router, &format!("/models/{name}")).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}");
    }
    for name in ["...", "Motor", "motor"] {
        let retrain = format!("/models/{name}/retrain");
        json_of(&post(&router, &retrain, r#"{"samples": [1, 2, 3]}"#).await);
        assert_eq!(
            json_of(&get(&router, &format!("/models/{name}")).await)["name"],
            name
        );
    }
}

#[tokio::test]
async fn other_methods_are_told_which_ones_there_are() {
    let router = server();
    for (method, path, expected) in [
        (Method::POST, "/models", "the method must be GET, got POST"),
        (
            Method::PUT,
            "/models/m",
            "the method must be GET or DELETE, got PUT",
        ),
        (
            Method::GET,
            "/models/m/predict",
            "the method must be POST, got GET",
        ),
        (
            Method::GET,
            "/models/m/retrain",
            "the method must be POST, got GET",
        ),
        (
            Method::DELETE,
            "/models/m/rollback",
            "the method must be POST, got DELETE",
        ),
        (
            Method::POST,
            "/models/m/versions",
            "the method must be GET, got POST",
        ),
    ] {
        let answer = ask(&router, method, path).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert!(answer.headers.contains_key("allow"), "{path}");
        assert_eq!(answer.error(), expected, "{path}");
    }
    let answer = get(&router, "/models/m/nothing").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    answer.error();
}

// As for /predict and /retrain: whatever comes as a body, there is an answer, and the model is as
// before unless the answer says otherwise.
#[tokio::test]
async fn any_bytes_as_a_body_never_give_500_nor_change_a_model() {
    let seeds: [&str; 5] = [
        r#"{"samples": [[1, 2], [3, 4.5]], "feature_names": ["a", "b"], "contamination": 0.1}"#,
        r#"{"samples": [{"a": 1, "b": 2}], "max_samples": "auto", "random_state": 3}"#,
        r#"{"samples": [[1, 2]], "out_of_range": "anomaly", "out_of_range_margin": 0.5}"#,
        r#"{"value": {"a": 1, "b": [2]}, "values": [[1, 2], {"b": 1, "a": "2"}]}"#,
        r#"{"version": 12, "n_estimators": 3}"#,
    ];
    let router = server();
    let first =
        r#"{"samples": [[1, 2], [2, 1], [3, 3]], "feature_names": ["a", "b"], "n_estimators": 3}"#;
    json_of(&post(&router, "/models/m/retrain", first).await);
    let mut before = get(&router, "/models/m").await.body;
    let mut random = SplitMix(11);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut body = seeds[random.next() as usize % seeds.len()]
            .as_bytes()
            .to_vec();
        for _ in 0..=random.next() % 3 {
            let at = random.next() as usize % body.len().max(1);
            if body.is_empty() {
                break;
            }
            match random.next() % 4 {
                0 => body.truncate(at.max(1)),
                1 => body[at] = random.next() as u8,
                2 => body[at] = br#"[]{}",:0e-"#[random.next() as usize % 10],
                _ => drop(body.remove(at)),
            }
        }
        let action = ["predict", "retrain", "rollback"][random.next() as usize % 3];
        let answer = post(&router, &format!("/models/m/{action}"), body.clone()).await;
        let text = String::from_utf8_lossy(&body);
        assert!(
            answer.status.as_u16() < 500,
            "{action} {text}: {}",
            answer.body
        );
        let after = get(&router, "/models/m").await.body;
        if answer.status == StatusCode::OK && action != "predict" {
            before = after;
        } else {
            refused += usize::from(answer.status != StatusCode::OK);
            assert_eq!(after, before, "{action} {text}");
        }
    }
    assert!(refused > 1000, "{refused}");
}

// What the library says of a value far beyond, the server must not answer with a number that JSON
// does not have.
#[tokio::test]
async fn a_value_too_far_to_be_scaled_is_named() {
    let router = server();
    let tiny = array![[1e-10, 1.0], [2e-10, 2.0], [3e-10, 4.0]];
    let body = json!({ "samples": samples(&tiny) }).to_string();
    json_of(&post(&router, "/models/m/retrain", body).await);
    let answer = post(&router, "/models/m/predict", r#"{"value": [1e300, 2]}"#).await;
    assert_eq!(
        answer.error(),
        "value[0] must be nearer to the training readings, got 1e300"
    );
    let answer = post(
        &router,
        "/models/m/predict",
        r#"{"values": [[0, 2], [1e300, 2]]}"#,
    )
    .await;
    assert_eq!(
        answer.error(),
        "values[1][0] must be nearer to the training readings, got 1e300"
    );
}
