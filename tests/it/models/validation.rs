//! What requests to a model by name are refused, and what the error says.

use axum::http::{Method, StatusCode};
use ndarray::array;
use serde_json::json;

use crate::support::data::{SplitMix, samples};
use crate::support::router::App;

#[tokio::test]
async fn an_invalid_reading_is_refused_with_the_field_the_rule_and_the_value() {
    let app = App::new();
    let named = r#"{"samples": [[1, 2], [3, 4], [5, 7]], "feature_names": ["v", "t"]}"#;
    let one = r#"{"samples": [1, 2, 3], "feature_names": ["v"]}"#;
    for (model, body) in [
        ("pair", r#"{"samples": [[1, 2], [3, 4], [5, 7]]}"#),
        ("named", named),
        ("one", one),
        ("plain", r#"{"samples": [[1], [2], [3]]}"#),
    ] {
        let path = format!("/models/{model}/retrain");
        app.post(&path, body).await.ok_json();
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
        let answer = app.post(&format!("/models/{model}/predict"), body).await;
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

// If a misspelt setting were ignored, a plant would notice only when an alarm does not come.
#[tokio::test]
async fn an_invalid_retrain_is_refused_with_the_reason_and_changes_nothing() {
    let app = App::new();
    let good = r#"{"samples": [[1, 2], [3, 4], [5, 7]], "feature_names": ["v", "t"]}"#;
    app.post("/models/known/retrain", good).await.ok_json();
    let before = app.get("/models/known").await.body;
    let names_rule = "expected a list of 1 to 1024 different names";
    for (body, status, expected) in [
        (
            r#"{"samples": [[1, 2]], "contaminaton": 0.1}"#,
            422,
            "there is no field \"contaminaton\"; there are samples, feature_names, run_lengths, contamination",
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
            "n_estimators: expected a whole number from 1 to 100000, got 1.5",
        ),
        (
            r#"{"samples": [[1, 2]], "n_estimators": -1}"#,
            422,
            "n_estimators: expected a whole number from 1 to 100000, got -1",
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
            r#"{"samples": [[1, 2], [2, 3]], "max_samples": 1, "out_of_range": "distance"}"#,
            422,
            "max_samples: at least two rows per tree are needed to measure distances, got one of 2",
        ),
        (
            r#"{"samples": [[1, 2]], "out_of_range": "distance"}"#,
            422,
            "samples: at least two rows per tree are needed to measure distances, got one of 1",
        ),
        (
            r#"{"samples": [[1, 2]], "random_state": 4294967296}"#,
            422,
            "random_state: expected a whole number from 0 to 4294967295, got 4294967296",
        ),
        (
            r#"{"samples": [[1, 2]], "out_of_range": "alarm"}"#,
            422,
            "out_of_range: expected \"score\", \"anomaly\" or \"distance\", got \"alarm\"",
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
            names_rule,
        ),
        (
            r#"{"samples": [[1, 2]], "feature_names": "a"}"#,
            422,
            names_rule,
        ),
        (
            r#"{"samples": [[1, 2]], "feature_names": ["a", "b", "c"]}"#,
            422,
            "samples[0] must be a list of 3 numbers, a, b, c; got 2",
        ),
        (r#"{"samples": [[1, 2]], "#, 400, "the body is not JSON"),
    ] {
        for model in ["known", "new"] {
            let answer = app.post(&format!("/models/{model}/retrain"), body).await;
            if model == "known" {
                assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
                let error = answer.error();
                assert!(error.contains(expected), "{body}: {error}");
            } else if answer.status != StatusCode::OK {
                assert_eq!(app.get("/models/new").await.status, StatusCode::NOT_FOUND);
            } else {
                app.delete("/models/new").await.ok_json();
            }
        }
        assert_eq!(app.get("/models/known").await.body, before, "{body}");
    }
    let objects = r#"{"samples": [{"v": 1}, {"v": 2}]}"#;
    let error = app.post("/models/new/retrain", objects).await.error();
    assert!(
        error.contains("name the fields that are features in feature_names"),
        "{error}"
    );
}

// Names often come from MQTT topics, which hold all kinds of characters.
#[tokio::test]
async fn an_invalid_model_name_is_refused_on_every_route() {
    let app = App::new();
    for name in ["a+b", "a=b", "a@b", &"x".repeat(129)] {
        for (method, action) in [
            (Method::GET, ""),
            (Method::DELETE, ""),
            (Method::GET, "/versions"),
            (Method::POST, "/rollback"),
        ] {
            let path = format!("/models/{name}{action}");
            let answer = app.request(method, &path).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
            assert!(
                answer
                    .error()
                    .starts_with("a model's name must be 1 to 128 characters from")
            );
        }
        for action in ["predict", "retrain"] {
            let body = r#"{"value": 1, "samples": [1]}"#;
            let answer = app.post(&format!("/models/{name}/{action}"), body).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}");
        }
    }
    // Clients that follow the URL standard remove these segments and request another path.
    for name in ["..", "."] {
        let answer = app.get(&format!("/models/{name}")).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}");
    }
    for name in ["...", "Motor", "motor"] {
        let retrain = format!("/models/{name}/retrain");
        app.post(&retrain, r#"{"samples": [1, 2, 3]}"#)
            .await
            .ok_json();
        assert_eq!(
            app.get(&format!("/models/{name}")).await.ok_json()["name"],
            name
        );
    }
}

#[tokio::test]
async fn a_wrong_method_is_refused_with_the_allowed_ones() {
    let app = App::new();
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
        let answer = app.request(method, path).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert!(answer.headers.contains_key("allow"), "{path}");
        assert_eq!(answer.error(), expected, "{path}");
    }
    let answer = app.get("/models/m/nothing").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    answer.error();
}

// Every body gets a response below 500, and the model changes only when the response says so.
#[tokio::test]
async fn random_bodies_never_cause_a_500_or_change_a_model() {
    let seeds: [&str; 5] = [
        r#"{"samples": [[1, 2], [3, 4.5]], "feature_names": ["a", "b"], "contamination": 0.1}"#,
        r#"{"samples": [{"a": 1, "b": 2}], "max_samples": "auto", "random_state": 3}"#,
        r#"{"samples": [[1, 2]], "out_of_range": "anomaly", "out_of_range_margin": 0.5}"#,
        r#"{"value": {"a": 1, "b": [2]}, "values": [[1, 2], {"b": 1, "a": "2"}]}"#,
        r#"{"version": 12, "n_estimators": 3}"#,
    ];
    let app = App::new();
    let first =
        r#"{"samples": [[1, 2], [2, 1], [3, 3]], "feature_names": ["a", "b"], "n_estimators": 3}"#;
    app.post("/models/m/retrain", first).await.ok_json();
    let mut before = app.get("/models/m").await.body;
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
        let answer = app.post(&format!("/models/m/{action}"), body.clone()).await;
        let text = String::from_utf8_lossy(&body);
        assert!(
            answer.status.as_u16() < 500,
            "{action} {text}: {}",
            answer.body
        );
        let after = app.get("/models/m").await.body;
        if answer.status == StatusCode::OK && action != "predict" {
            before = after;
        } else {
            refused += usize::from(answer.status != StatusCode::OK);
            assert_eq!(after, before, "{action} {text}");
        }
    }
    assert!(refused > 1000, "{refused}");
}

// Scaling this value overflows a double, and JSON has no infinity.
#[tokio::test]
async fn a_value_too_large_to_scale_is_refused_with_its_index() {
    let app = App::new();
    let tiny = array![[1e-10, 1.0], [2e-10, 2.0], [3e-10, 4.0]];
    let body = json!({ "samples": samples(&tiny) }).to_string();
    app.post("/models/m/retrain", body).await.ok_json();
    let answer = app
        .post("/models/m/predict", r#"{"value": [1e300, 2]}"#)
        .await;
    assert_eq!(
        answer.error(),
        "value[0] must be nearer to the training readings, got 1e300"
    );
    let answer = app
        .post("/models/m/predict", r#"{"values": [[0, 2], [1e300, 2]]}"#)
        .await;
    assert_eq!(
        answer.error(),
        "values[1][0] must be nearer to the training readings, got 1e300"
    );
}
