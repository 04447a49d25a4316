//! The life of a model: created by a retrain, asked, described, listed, rolled back, deleted.

use axum::http::StatusCode;
use iforest_server::detector::Detector;
use serde_json::{Value, json};

use crate::support::data::{params, readings, samples};
use crate::support::router::App;

#[tokio::test]
async fn a_model_is_created_by_a_retrain_then_asked_described_listed_and_deleted() {
    let app = App::new();
    let data = readings(1, 300, 1);
    let body = json!({ "samples": samples(&data) });
    let trained = app
        .post("/models/plant-1.motor_2/retrain", body.to_string())
        .await;
    assert_eq!(
        trained.body,
        "{\"message\":\"Model retrained successfully\",\"name\":\"plant-1.motor_2\",\
         \"samples_used\":300,\"version\":1,\"warnings\":[]}\n"
    );

    let detector = Detector::fit(&params(), data).expect("valid readings");
    for value in [2.5, 9.0] {
        let expected = detector.predict(value).expect("a valid reading");
        let body = json!({ "value": value }).to_string();
        let answer = app.post("/models/plant-1.motor_2/predict", body).await;
        let answer = answer.ok_json();
        assert_eq!(answer["anomaly_score"], expected.anomaly_score);
        assert_eq!(answer["scaled_value"], expected.scaled);
        assert_eq!(answer["input_value"], value);
        assert_eq!(answer["prediction"], u8::from(expected.is_anomaly));
        assert_eq!(answer.as_object().expect("an object").len(), 5);
    }

    let info = app.get("/models/plant-1.motor_2").await.ok_json();
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

    let list = app.get("/models").await.ok_json();
    let list = list["models"].as_array().expect("a list");
    let names: Vec<_> = list.iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["default", "plant-1.motor_2"]);
    assert_eq!(
        list[0]["version"],
        Value::Null,
        "it was not trained on request"
    );
    for field in ["features", "samples_used", "trained_at", "version"] {
        assert_eq!(list[1][field], info[field], "{field}");
    }

    let deleted = app.delete("/models/plant-1.motor_2").await;
    assert_eq!(
        deleted.body,
        "{\"message\":\"Model deleted successfully\",\"name\":\"plant-1.motor_2\"}\n"
    );
    let gone = app.get("/models/plant-1.motor_2").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    assert_eq!(gone.error(), "there is no model plant-1.motor_2");
    // A model created again starts at version 1.
    let trained = app
        .post("/models/plant-1.motor_2/retrain", body.to_string())
        .await;
    assert_eq!(trained.ok_json()["version"], 1);
}

// Users may mix the flows written for server.py with those that name a model.
#[tokio::test]
async fn default_is_the_model_of_predict_and_retrain() {
    let app = App::new();
    let body = r#"{"values": [2.5, 9, "3", true]}"#;
    for round in 0..2 {
        let plain = app.post("/predict", body).await;
        let named = app.post("/models/default/predict", body).await;
        assert_eq!(
            plain.ok_json()["predictions"].as_array().map(Vec::len),
            Some(4)
        );
        assert_eq!(plain.body, named.body);
        let retrain = r#"{"samples": [9.0, 9.1, 9.2, 8.9, 9.05]}"#;
        if round == 0 {
            let answer = app.post("/retrain", retrain).await;
            assert_eq!(
                answer.body,
                "{\"message\":\"Model retrained successfully\",\"samples_used\":5}\n"
            );
        }
    }
    assert_eq!(app.get("/models/default").await.ok_json()["version"], 1);
    let answer = app.delete("/models/default").await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert!(answer.error().contains("default cannot be deleted"));
}

// A reading of several sensors is an array, or an object with the names that the plant chose,
// alone or in a batch. Scores equal those of the library.
#[tokio::test]
async fn readings_of_several_features_are_arrays_or_objects() {
    let app = App::new();
    let data = readings(2, 200, 3);
    let detector = Detector::fit(&params(), data.clone()).expect("valid readings");
    let row = [2.5, 9.0, -1.0];
    let prediction = detector.predict_row(&row).expect("a valid row");
    let expected = format!(
        "{{\"anomaly_score\":{:?},\"input_value\":[2.5,9.0,-1.0],\"prediction\":1,\
         \"scaled_value\":[{:?},{:?},{:?}],\"status\":\"Anomaly Detected\"}}",
        prediction.anomaly_score, prediction.scaled[0], prediction.scaled[1], prediction.scaled[2]
    );
    let names = json!(["vibration", "temperature", "in °C"]);
    let objects: Vec<Value> = data
        .rows()
        .into_iter()
        .map(|row| json!({ "in °C": row[2], "vibration": row[0], "temperature": row[1], "at": "10:00" }))
        .collect();
    for samples in [samples(&data), json!(objects)] {
        let body = json!({ "samples": samples, "feature_names": names });
        let trained = app.post("/models/press/retrain", body.to_string()).await;
        assert_eq!(trained.ok_json()["samples_used"], 200);
        for value in [
            json!([2.5, 9, -1]),
            json!(["2.5", 9.0, -1]),
            json!({ "temperature": 9, "in °C": -1, "vibration": 2.5 }),
            json!({ "temperature": 9, "in °C": -1, "vibration": 2.5, "time": [1, null] }),
        ] {
            let body = json!({ "value": value }).to_string();
            let answer = app.post("/models/press/predict", body).await;
            assert_eq!(answer.body, format!("{expected}\n"), "{value}");
            let body = json!({ "values": [value, value] }).to_string();
            let answer = app.post("/models/press/predict", body).await;
            let both = format!("{{\"predictions\":[{expected},{expected}]}}\n");
            assert_eq!(answer.body, both, "{value}");
        }
    }
    let info = app.get("/models/press").await.ok_json();
    assert_eq!(info["features"], 3);
    assert_eq!(info["feature_names"], names);
    assert_eq!(info["normal_ranges"], Value::Null);
    assert_eq!(info["training_ranges"].as_array().map(Vec::len), Some(3));
}

// Flows written for server.py call /predict and /retrain even after default was given several
// features.
#[tokio::test]
async fn predict_and_retrain_work_when_default_has_several_features() {
    let app = App::new();
    let body = json!({ "samples": samples(&readings(4, 100, 2)), "feature_names": ["a", "b"] });
    app.post("/models/default/retrain", body.to_string())
        .await
        .ok_json();
    let question = r#"{"value": {"b": 1, "a": 2}}"#;
    let plain = app.post("/predict", question).await;
    let named = app.post("/models/default/predict", question).await;
    assert_eq!(plain.ok_json()["input_value"], json!([2.0, 1.0]));
    assert_eq!(plain.body, named.body);
    let answer = app.post("/predict", r#"{"value": 1}"#).await;
    assert_eq!(
        answer.error(),
        "value must be a list of 2 numbers, a, b, got 1"
    );
    let answer = app.post("/retrain", r#"{"samples": [1, 2, 3]}"#).await;
    assert_eq!(
        answer.error(),
        "samples[0] must be a list of 2 numbers, a, b, got 1"
    );
    let answer = app
        .post("/retrain", r#"{"samples": [[1, 2], [3, 4]]}"#)
        .await;
    assert_eq!(
        answer.body,
        "{\"message\":\"Model retrained successfully\",\"samples_used\":2}\n"
    );
}

// After a bad batch of readings was learnt, each rollback goes one version further back, whatever
// was rolled back before.
#[tokio::test]
async fn a_model_can_be_rolled_back_version_by_version() {
    for model in ["default", "motor"] {
        let app = App::new();
        let path = |action: &str| format!("/models/{model}/{action}");
        let answers = async |app: &App| {
            app.post(&path("predict"), r#"{"values": [1, 5, 20]}"#)
                .await
                .body
        };
        let mut history = Vec::new();
        for version in 1..=4u32 {
            let data = readings(version.into(), 50, 1) * f64::from(version);
            let body = json!({ "samples": samples(&data) }).to_string();
            let trained = app.post(&path("retrain"), body).await.ok_json();
            assert_eq!(trained["version"], version);
            history.push(answers(&app).await);
        }
        // Version 5 is a copy of 3, 6 of 2, 7 of 4 as requested, 8 of 3 again.
        for (version, body, copied) in [
            (5, "", 3),
            (6, "{}", 2),
            (7, r#"{"version": 4}"#, 4),
            (8, r#"{"version": null}"#, 3),
            (9, r#"{"version": 5}"#, 3),
        ] {
            let answer = app.post(&path("rollback"), body).await.ok_json();
            assert_eq!(answer["version"], version);
            assert_eq!(answer["restored_from"], copied);
            assert_eq!(answers(&app).await, history[copied - 1]);
            let info = app.get(&path("")[..path("").len() - 1]).await.ok_json();
            assert_eq!(info["restored_from"], copied);
        }
        let kept = app.get(&path("versions")).await.ok_json();
        assert_eq!(kept["served"], 9);
        // A rollback removes nothing, so that it is possible to go further back.
        assert_eq!(kept["versions"], json!([1, 2, 3, 4, 5, 6, 7, 8, 9]));
        let answer = app.post(&path("rollback"), r#"{"version": 10}"#).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(
            answer.error(),
            format!(
                "there is no version 10 of model {model}; available: 1, 2, 3, 4, 5, 6, 7, 8, 9"
            )
        );
        for bad in [
            r#"{"version": "3"}"#,
            r#"{"version": -1}"#,
            r#"{"to": 3}"#,
            "[3]",
        ] {
            let answer = app.post(&path("rollback"), bad).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
        }
        assert_eq!(answers(&app).await, history[2]);
        for copied in [2, 1] {
            let answer = app.post(&path("rollback"), "").await.ok_json();
            assert_eq!(answer["restored_from"], copied);
        }
        let answer = app.post(&path("rollback"), "").await;
        assert_eq!(answer.status, StatusCode::CONFLICT);
        let error = answer.error();
        assert!(
            error.contains("version 11, a copy of 1; available: "),
            "{error}"
        );
        // The next training removes old versions after its response. The rollback waits for that.
        let body = json!({ "samples": [1, 2, 3] }).to_string();
        assert_eq!(
            app.post(&path("retrain"), body).await.ok_json()["version"],
            12
        );
        app.post(&path("rollback"), r#"{"version": 11}"#)
            .await
            .ok_json();
        let kept = app.get(&path("versions")).await.ok_json();
        assert_eq!(
            kept["versions"],
            json!([8, 9, 10, 11, 12, 13]),
            "five versions and one copy"
        );
    }
    // The synthetic model of a first start is not a version.
    let app = App::new();
    let answer = app.post("/models/default/rollback", "").await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    let answer = app.post("/models/nobody/rollback", "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn models_are_listed_page_by_page() {
    let app = App::new();
    let mut names = vec!["default".to_owned()];
    for i in [3, 1, 4, 2, 5] {
        let name = format!("m{i}");
        app.post(
            &format!("/models/{name}/retrain"),
            json!({ "samples": [1, 2, 3] }).to_string(),
        )
        .await
        .ok_json();
        names.push(name);
    }
    names.sort();
    let all = app.get("/models").await;
    assert!(!all.body.contains("next"), "{}", all.body);
    for limit in 1..=7 {
        let (mut listed, mut query) = (Vec::new(), format!("limit={limit}"));
        loop {
            let page = app.get(&format!("/models?{query}")).await.ok_json();
            let models = page["models"].as_array().expect("a list");
            assert!((1..=limit).contains(&models.len()), "{page}");
            listed.extend(models.iter().map(|model| {
                let name = model["name"].as_str().expect("a name");
                name.to_owned()
            }));
            let Some(next) = page["next"].as_str() else {
                break;
            };
            query = format!("limit={limit}&after={next}");
        }
        assert_eq!(listed, names, "{limit}");
    }
    // A name that does not exist, a parameter that does not, and the end of the list.
    let page = app.get("/models?after=m30&more=1").await.ok_json();
    assert_eq!(page["models"].as_array().map(Vec::len), Some(2));
    let page = app.get("/models?limit=1000&after=z").await;
    assert_eq!(page.body, "{\"models\":[]}\n");
}

#[tokio::test]
async fn a_page_that_cannot_be_listed_is_refused() {
    let app = App::new();
    for (query, error) in [
        (
            "limit=0",
            "limit must be a whole number from 1 to 1000, got \"0\"",
        ),
        ("limit=1001", "got \"1001\""),
        ("limit=", "got \"\""),
        ("limit=ten", "got \"ten\""),
        ("limit=-1", "got \"-1\""),
        ("after=a%20b", "after: a model's name must be"),
        ("after=", "after: a model's name must be"),
    ] {
        let answer = app.get(&format!("/models?{query}")).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
        assert!(answer.error().contains(error), "{}", answer.body);
        assert!(answer.body.len() < 500, "{}", answer.body.len());
    }
    let long = format!("/models?limit={}", "9".repeat(4000));
    let answer = app.get(&long).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.body.len() < 500, "{}", answer.body.len());
}
