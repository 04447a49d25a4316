//! Settings of models that know distances, keep to a false-alarm rate, or judge windows.

use iforest_server::detector::OutOfRange;
use iforest_server::registry::{DefaultModel, Registry, RegistryConfig};
use iforest_server::store::Store;
use iforest_server::training_data;
use serde_json::{Value, json};

use crate::support::data::{params, readings, samples};
use crate::support::folder::Folder;
use crate::support::router::App;

/// A retrain of 200 readings of two features, with more fields.
fn body(more: Value) -> String {
    let mut body = json!({ "samples": samples(&readings(3, 200, 2)), "random_state": 1 });
    for (field, value) in more.as_object().expect("an object") {
        body[field] = value.clone();
    }
    body.to_string()
}

async fn retrain(app: &App, more: Value) -> Value {
    app.post("/models/m/retrain", body(more)).await.ok_json()
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_refused() {
    let app = App::new();
    for (more, code, field) in [
        (
            json!({"contamination": 0.1, "window": 10}),
            "conflict",
            "contamination",
        ),
        (
            json!({"contamination": 0.1, "false_alarm_rate": 0.1}),
            "conflict",
            "contamination",
        ),
        (json!({"drift": "keep"}), "conflict", "drift"),
        (json!({"run_lengths": [200]}), "conflict", "run_lengths"),
        (
            json!({"out_of_range": "distance", "out_of_range_margin": 0.1}),
            "conflict",
            "out_of_range_margin",
        ),
        (
            json!({"window": 10, "out_of_range_margin": 0.1}),
            "conflict",
            "out_of_range_margin",
        ),
        (json!({"window": 1}), "out_of_bounds", "window"),
        (json!({"window": 10_001}), "out_of_bounds", "window"),
        (json!({"window": 10.5}), "out_of_bounds", "window"),
        (json!({"window": "10"}), "wrong_type", "window"),
        (json!({"window": 5001}), "too_many", "window"),
        (json!({"window": 31}), "too_few", "samples"),
        (
            json!({"window": 10, "drift": "drop"}),
            "out_of_bounds",
            "drift",
        ),
        (json!({"window": 10, "drift": 1}), "wrong_type", "drift"),
        (
            json!({"window": 10, "run_lengths": [100, 99]}),
            "out_of_bounds",
            "run_lengths",
        ),
        (
            json!({"window": 10, "run_lengths": [-1, 201]}),
            "wrong_type",
            "run_lengths",
        ),
        (
            json!({"window": 10, "run_lengths": 200}),
            "wrong_type",
            "run_lengths",
        ),
        (
            json!({"window": 10, "run_lengths": vec![5; 40]}),
            "too_few",
            "samples",
        ),
        (
            json!({"false_alarm_rate": 0}),
            "out_of_bounds",
            "false_alarm_rate",
        ),
        (
            json!({"false_alarm_rate": 0.51}),
            "out_of_bounds",
            "false_alarm_rate",
        ),
        (
            json!({"false_alarm_rate": "many"}),
            "wrong_type",
            "false_alarm_rate",
        ),
        (
            json!({"samples": samples(&readings(3, 53, 2)), "false_alarm_rate": 0.1}),
            "too_few",
            "samples",
        ),
        (
            json!({"samples": [[1, 2]], "out_of_range": "distance"}),
            "out_of_bounds",
            "samples",
        ),
        (
            json!({"max_samples": 1, "out_of_range": "distance"}),
            "out_of_bounds",
            "max_samples",
        ),
        (
            json!({"out_of_range": "far"}),
            "out_of_bounds",
            "out_of_range",
        ),
    ] {
        let response = app.post("/models/m/retrain", body(more.clone())).await;
        assert_eq!(response.status, 422, "{more}");
        let error = response.json();
        let got = (error["code"].as_str(), error["field"].as_str());
        assert_eq!(got, (Some(code), Some(field)), "{more}: {error}");
    }
    assert_eq!(app.get("/models/m").await.status, 404);
}

// What is too short says how much is needed.
#[tokio::test]
async fn a_training_that_is_too_short_for_its_window_says_how_long_it_must_be() {
    let app = App::new();
    let error = app
        .post("/models/m/retrain", body(json!({"window": 40})))
        .await
        .error();
    // Four windows and 50 more, each of which begins with another reading.
    assert!(
        error.contains("at least 210 full windows") && error.contains("got 161"),
        "{error}"
    );
    let more = json!({"window": 40, "samples": samples(&readings(3, 249, 2))});
    retrain(&app, more).await;
}

#[tokio::test]
async fn settings_stay_with_a_model_and_null_takes_them_back() {
    let app = App::new();
    retrain(
        &app,
        json!({"window": 10, "drift": "keep", "false_alarm_rate": 0.02}),
    )
    .await;
    let info = app.get("/models/m").await.ok_json();
    let of = |info: &Value, fields: [&str; 5]| fields.map(|field| info[field].clone());
    let fields = [
        "window",
        "drift",
        "false_alarm_rate",
        "out_of_range",
        "contamination",
    ];
    let expected = [
        json!(10),
        json!("keep"),
        json!(0.02),
        json!("distance"),
        Value::Null,
    ];
    assert_eq!(of(&info, fields), expected);
    assert_eq!(info["samples_used"], 200);
    assert_eq!(info["features"], 2);
    assert_eq!(info["training_ranges"].as_array().map(Vec::len), Some(2));
    assert!(info["normal_ranges"].is_null());

    retrain(&app, json!({})).await;
    assert_eq!(of(&app.get("/models/m").await.ok_json(), fields), expected);

    retrain(&app, json!({"false_alarm_rate": null})).await;
    let info = app.get("/models/m").await.ok_json();
    assert_eq!(info["false_alarm_rate"], 0.001);

    retrain(&app, json!({"window": null, "drift": null})).await;
    let info = app.get("/models/m").await.ok_json();
    let plain = [
        Value::Null,
        Value::Null,
        Value::Null,
        json!("score"),
        json!(0.05),
    ];
    assert_eq!(of(&info, fields), plain);
    assert!(info.get("window").is_none() && info.get("false_alarm_rate").is_none());

    // The last one that is given counts.
    retrain(&app, json!({"false_alarm_rate": 0.1})).await;
    retrain(&app, json!({"contamination": 0.2})).await;
    let info = app.get("/models/m").await.ok_json();
    assert_eq!(
        (&info["contamination"], info.get("false_alarm_rate")),
        (&json!(0.2), None)
    );
}

#[tokio::test]
async fn warnings_say_what_a_model_does_not_see_and_cannot_promise() {
    let app = App::new();
    let mut data = readings(3, 600, 3);
    let mut total = 0.0;
    for value in data.column_mut(1) {
        total += *value - 2.5;
        *value = total;
    }
    data.column_mut(2).fill(4.0);
    let more = json!({
        "samples": samples(&data), "window": 10, "feature_names": ["speed", "oil", "valve"]
    });
    let warnings = retrain(&app, more).await["warnings"].to_string();
    assert!(
        warnings.contains("oil drifted in training and is left out"),
        "{warnings}"
    );
    assert!(
        warnings.contains("the values of valve were all alike"),
        "{warnings}"
    );
    // 591 windows of 10 readings: one in 60.
    assert!(
        warnings.contains("a false_alarm_rate of 0.001 cannot be promised"),
        "{warnings}"
    );
    assert!(warnings.contains("only one of 0.017"), "{warnings}");
    assert!(warnings.contains("at least 10000 readings"), "{warnings}");
    let info = app.get("/models/m").await.ok_json();
    assert_eq!(info["warnings"].to_string(), warnings);

    let kept = retrain(&app, json!({"samples": samples(&data), "drift": "keep"})).await;
    assert!(!kept["warnings"].to_string().contains("drifted"));
}

#[tokio::test]
async fn a_distance_model_of_one_feature_tells_its_normal_ranges_and_sees_far_readings() {
    let app = App::new();
    let data: Vec<f64> = (0..300).map(|i| f64::from(i % 50) / 10.0).collect();
    let training = json!({"samples": data, "out_of_range": "distance"});
    app.post("/models/one/retrain", training.to_string())
        .await
        .ok_json();
    let info = app.get("/models/one").await.ok_json();
    let ranges = info["normal_ranges"].as_array().expect("one feature");
    assert!(!ranges.is_empty());
    let mut before = 0.0;
    for (value, outside) in [
        (4.9, false),
        (5.0, true),
        (6.0, true),
        (60.0, true),
        (1e30, true),
    ] {
        let body = json!({ "value": value }).to_string();
        let prediction = app.post("/models/one/predict", body).await.ok_json();
        let score = prediction["anomaly_score"].as_f64().expect("a score");
        assert!(value < 5.0 || score > before, "{prediction}");
        assert_eq!(prediction["out_of_range"], outside, "{prediction}");
        before = score;
    }
    let explained = app
        .post("/models/one/predict", r#"{"value": 9, "explain": true}"#)
        .await;
    let expected = json!([{"feature": 0, "share": 1.0, "view": "value"}]);
    assert_eq!(explained.ok_json()["contributions"], expected);
}

// With the server's option, /retrain and /predict keep their shapes.
#[tokio::test]
async fn distance_is_a_server_setting_too() {
    let config = RegistryConfig {
        out_of_range: OutOfRange::Distance,
        ..RegistryConfig::new(params())
    };
    let synthetic = DefaultModel::LoadOrTrain(Box::new(|| training_data::synthetic(42)));
    let registry = Registry::open(Store::in_memory(), config, synthetic).expect("it opens");
    let app = App::of(registry);
    let far = app.predict(r#"{"value": 1000}"#).await.ok_json();
    assert_eq!(
        (&far["prediction"], &far["out_of_range"]),
        (&json!(1), &json!(true))
    );
    let retrained = app
        .post("/retrain", r#"{"samples": [1, 2, 3, 4, 5, 6, 7, 8]}"#)
        .await;
    assert_eq!(
        retrained.ok_json(),
        json!({"message": "Model retrained successfully", "samples_used": 8})
    );
    let info = app.get("/models/default").await.ok_json();
    assert_eq!(info["out_of_range"], "distance");
}

// A model goes on knowing distances, or not, as it was trained, whatever the server's option is now.
#[tokio::test]
async fn a_stored_model_keeps_its_kind_of_score() {
    let folder = Folder::new();
    let open = |out_of_range| {
        let config = RegistryConfig {
            out_of_range,
            ..RegistryConfig::new(params())
        };
        let synthetic = DefaultModel::LoadOrTrain(Box::new(|| training_data::synthetic(42)));
        let store = Store::open(folder.text()).expect("a folder");
        App::of(Registry::open(store, config, synthetic).expect("it opens"))
    };
    let predict = async |app: &App, model: &str| {
        let path = format!("/models/{model}/predict");
        app.post(&path, r#"{"value": [3, 90]}"#).await.ok_json()
    };
    let app = open(OutOfRange::Score);
    retrain(&app, json!({})).await;
    app.post(
        "/models/far/retrain",
        body(json!({"out_of_range": "distance"})),
    )
    .await
    .ok_json();
    app.post("/models/time/retrain", body(json!({"window": 12})))
        .await
        .ok_json();
    let before = [predict(&app, "m").await, predict(&app, "far").await];
    let info = app.get("/models/time").await.ok_json();
    drop(app);

    let app = open(OutOfRange::Distance);
    assert_eq!(
        [predict(&app, "m").await, predict(&app, "far").await],
        before
    );
    assert_eq!(
        app.get("/models/m").await.ok_json()["out_of_range"],
        "score"
    );
    assert_eq!(app.get("/models/time").await.ok_json(), info);
    // The stream is empty again.
    assert_eq!(predict(&app, "time").await["status"], "Warming Up");
}
