//! Settings that stay with a model, and what the server says about models that cannot alarm.

use iforest_server::detector::OutOfRange;
use iforest_server::registry::{DefaultModel, Registry, RegistryConfig};
use iforest_server::store::Store;
use iforest_server::training_data;
use serde_json::{Value, json};

use crate::support::data::{params, quantised, readings, samples};
use crate::support::router::App;

// A retrain that omits a setting keeps it; `null` resets it to the setting of the server.
#[tokio::test]
async fn settings_and_names_stay_with_a_model_until_they_change() {
    let app = App::new();
    let data = samples(&readings(3, 100, 2));
    let retrain = async |more: Value| {
        let mut body = json!({ "samples": data });
        for (field, value) in more.as_object().expect("an object") {
            body[field] = value.clone();
        }
        app.post("/models/m/retrain", body.to_string())
            .await
            .ok_json();
        app.get("/models/m").await.ok_json()
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
    // The number of features changes only together with feature_names, never by accident.
    let fewer = r#"{"samples": [1, 2, 3]}"#;
    let error = app.post("/models/m/retrain", fewer).await.error();
    assert!(
        error.contains("samples[0] must be a list of 2 numbers"),
        "{error}"
    );
    let fewer = r#"{"samples": [1, 2, 3], "feature_names": ["a"]}"#;
    app.post("/models/m/retrain", fewer).await.ok_json();
    assert_eq!(app.get("/models/m").await.ok_json()["features"], 1);
}

// The trap of isolation forests, and the option that avoids it, for one model and for a whole
// server.
#[tokio::test]
async fn a_model_that_cannot_alarm_warns_and_out_of_range_makes_it_alarm() {
    let quantised = samples(&quantised());
    let far = r#"{"value": 1000}"#;
    let app = App::new();
    let body = json!({ "samples": quantised });
    let trained = app
        .post("/models/m/retrain", body.to_string())
        .await
        .ok_json();
    let warning = trained["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.starts_with("this model can never alarm: it calls every reading normal"),
        "{warning}"
    );
    assert!(
        warning.ends_with("or set out_of_range to \"anomaly\""),
        "{warning}"
    );
    let answer = app.post("/models/m/predict", far).await.ok_json();
    assert_eq!(answer["prediction"], 0, "as PyOD does");

    // It cannot keep its promise either.
    let body = json!({ "samples": quantised, "false_alarm_rate": 0.0001 });
    let trained = app.post("/models/rate/retrain", body.to_string()).await;
    let warnings = trained.ok_json()["warnings"].to_string();
    assert!(warnings.contains("this model"), "{warnings}");
    assert!(warnings.contains("0.0001 cannot be promised"), "{warnings}");

    let constant = r#"{"samples": [7, 7, 7, 7]}"#;
    let trained = app
        .post("/models/constant/retrain", constant)
        .await
        .ok_json();
    let warning = trained["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.starts_with("this model can never alarm"),
        "{warning}"
    );

    let body =
        json!({ "samples": quantised, "out_of_range": "anomaly", "out_of_range_margin": 0.5 });
    let trained = app
        .post("/models/m/retrain", body.to_string())
        .await
        .ok_json();
    assert_eq!(trained["warnings"], json!([]));
    let info = app.get("/models/m").await.ok_json();
    assert_eq!(
        info["normal_ranges"],
        json!([[-0.875, 2.625]]),
        "0 to 1.75, and half of that width at both ends"
    );
    let threshold = info["threshold"].as_f64().expect("a number");
    for (value, out_of_range) in [(1000.0, true), (2.7, true), (2.6, false), (-0.9, true)] {
        let body = json!({ "value": value }).to_string();
        let answer = app.post("/models/m/predict", body).await.ok_json();
        assert_eq!(answer["out_of_range"], out_of_range, "{value}");
        assert_eq!(answer["prediction"], u8::from(out_of_range), "{value}");
        let score = answer["anomaly_score"].as_f64().expect("a number");
        assert_eq!(score > threshold, out_of_range, "{value}");
    }

    // Set for a server, the option holds for all models without their own setting, default included.
    let options = RegistryConfig {
        out_of_range: OutOfRange::Anomaly,
        ..RegistryConfig::new(params())
    };
    let first = DefaultModel::LoadOrTrain(Box::new(|| training_data::synthetic(42)));
    let registry = Registry::open(Store::in_memory(), options, first).expect("the store opens");
    let app = App::of(registry);
    let body = json!({ "samples": quantised }).to_string();
    app.post("/retrain", body.clone()).await.ok_json();
    app.post("/models/m/retrain", body).await.ok_json();
    for path in ["/predict", "/models/m/predict"] {
        let answer = app.post(path, far).await;
        assert!(
            answer
                .body
                .contains("\"input_value\":1000.0,\"out_of_range\":true,\"prediction\":1")
        );
    }
    let own = json!({ "samples": quantised, "out_of_range": "score" }).to_string();
    app.post("/models/m/retrain", own).await.ok_json();
    let answer = app.post("/models/m/predict", far).await.ok_json();
    assert_eq!(answer["prediction"], 0);
    assert_eq!(answer["out_of_range"], Value::Null);
}

// A sensor that did not change in training has no split: the forest ignores it, however far it
// moves later.
#[tokio::test]
async fn a_constant_feature_is_named_in_a_warning() {
    let app = App::new();
    let mut data = readings(5, 300, 3);
    data.column_mut(1).fill(7.0);
    let body = json!({ "samples": samples(&data) });
    let trained = app
        .post("/models/m/retrain", body.to_string())
        .await
        .ok_json();
    let warning = trained["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.starts_with("the values of [1] do not count"),
        "{warning}"
    );
    let names = json!({ "samples": samples(&data), "feature_names": ["a", "still", "c"] });
    let trained = app
        .post("/models/m/retrain", names.to_string())
        .await
        .ok_json();
    let warning = trained["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.starts_with("the values of still do not count"),
        "{warning}"
    );
    let far = r#"{"value": [2.5, 1e6, 2.5]}"#;
    let answer = app.post("/models/m/predict", far).await.ok_json();
    assert_eq!(answer["prediction"], 0);
    let option = json!({ "samples": samples(&data), "out_of_range": "anomaly" });
    let trained = app
        .post("/models/m/retrain", option.to_string())
        .await
        .ok_json();
    assert_eq!(trained["warnings"], json!([]));
    let answer = app.post("/models/m/predict", far).await.ok_json();
    assert_eq!(answer["prediction"], 1);
}
