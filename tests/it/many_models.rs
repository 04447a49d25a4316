//! `POST /predict` with the readings of many models.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::data::{readings, samples};
use crate::support::router::App;

async fn retrain(app: &App, name: &str, body: &Value) {
    let path = format!("/models/{name}/retrain");
    app.post(&path, body.to_string()).await.ok_json();
}

/// Models of one and of two features, and one with a window.
async fn app() -> App {
    let app = App::new();
    let one = json!({"samples": samples(&readings(1, 200, 1)), "random_state": 1});
    retrain(&app, "one", &one).await;
    let names = ["vibration", "temperature"];
    let mut two = json!({"samples": samples(&readings(2, 200, 2)), "random_state": 1});
    two["feature_names"] = json!(names);
    retrain(&app, "two", &two).await;
    let window = json!({"samples": samples(&readings(3, 300, 1)), "window": 3, "random_state": 1});
    retrain(&app, "window", &window).await;
    retrain(&app, "twin", &window).await;
    app
}

/// The answers to the readings.
async fn ask(app: &App, readings: Value) -> Vec<Value> {
    let body = json!({ "readings": readings }).to_string();
    let answer = app.predict(&body).await.ok_json();
    answer["predictions"].as_array().expect("a list").clone()
}

fn reading(model: &str, value: impl Into<Value>) -> Value {
    json!({"model": model, "value": value.into()})
}

#[tokio::test]
async fn each_reading_has_the_answer_of_its_model_in_order() {
    let app = app().await;
    let sent = [
        ("two", json!([0.5, 1.5])),
        ("one", json!(0.25)),
        ("default", json!("2.5")),
        ("two", json!({"temperature": 9, "vibration": "1"})),
        ("one", json!([70])),
        ("default", json!(true)),
    ];
    let body = sent
        .iter()
        .map(|(model, value)| reading(model, value.clone()));
    let body = json!({ "readings": body.collect::<Vec<_>>() }).to_string();
    let answer = app.predict(&body).await.ok();
    let mut expected = Vec::new();
    for (model, value) in sent {
        let path = format!("/models/{model}/predict");
        let own = app
            .post(&path, json!({ "value": value }).to_string())
            .await
            .ok();
        let fields = own.trim_end().strip_prefix('{').expect("an object");
        expected.push(format!(r#"{{"model":"{model}",{fields}"#));
    }
    let expected = format!("{{\"predictions\":[{}]}}\n", expected.join(","));
    assert_eq!(answer, expected, "the bytes of the requests for one model");
}

#[tokio::test]
async fn a_bad_reading_has_an_error_of_its_own() {
    let app = app().await;
    let answers = ask(
        &app,
        json!([
            reading("one", 0.25),
            reading("missing", 1),
            reading("one", Value::Null),
            reading("two", 1),
            {"model": "one", "value": 0.5, "time": "x", "other": 1},
            {"model": "one"},
            {"value": 1},
            {"model": "a/b", "value": 1},
            {"model": 7, "value": 1},
            8,
            reading("one", 0.75),
        ]),
    )
    .await;
    let outcome = |answer: &Value| match answer["code"].as_str() {
        Some(code) => {
            assert!(answer["error"].is_string(), "{answer}");
            let field = answer["field"].as_str().unwrap_or("-");
            format!("{} {code} {field}", answer["model"])
        }
        None => format!("{} {}", answer["model"], answer["input_value"]),
    };
    let outcomes: Vec<_> = answers.iter().map(outcome).collect();
    assert_eq!(
        outcomes,
        [
            r#""one" 0.25"#,
            r#""missing" no_model -"#,
            r#""one" wrong_type value"#,
            r#""two" wrong_width value"#,
            r#""one" 0.5"#,
            r#""one" missing_field value"#,
            "null missing_field model",
            r#""a/b" bad_name model"#,
            "null wrong_type model",
            "null wrong_type -",
            r#""one" 0.75"#,
        ]
    );
    let missing = app.get("/models/missing").await;
    assert_eq!(missing.json()["code"], "no_model", "nothing is created");
}

// A model with a window judges its readings together, so their order counts, and each must be appended once.
#[tokio::test]
async fn readings_of_a_window_are_appended_in_their_order() {
    let app = app().await;
    let values: Vec<f64> = readings(4, 12, 1).iter().copied().collect();
    let mut expected = Vec::new();
    for value in &values {
        let body = json!({ "value": value }).to_string();
        expected.push(app.post("/models/twin/predict", body).await.ok_json());
    }
    let mut answers = Vec::new();
    for part in values.chunks(5) {
        let part = part
            .iter()
            .flat_map(|&value| [reading("window", value), reading("one", value)]);
        let predicted = ask(&app, part.collect()).await;
        answers.extend(
            predicted
                .into_iter()
                .filter(|answer| answer["model"] == "window"),
        );
    }
    for answer in &mut answers {
        answer.as_object_mut().expect("an object").remove("model");
    }
    assert_eq!(answers, expected);
    // Among good readings a bad one is refused, and the others are appended.
    let last = [1.0, 2.0].map(|value| reading("window", value));
    let mixed = json!([last[0], reading("window", "x"), last[1]]);
    let answers = ask(&app, mixed).await;
    assert_eq!(answers[1]["code"], "wrong_type");
    for (value, answer) in [(1.0, &answers[0]), (2.0, &answers[2])] {
        let body = json!({ "value": value }).to_string();
        let twin = app.post("/models/twin/predict", body).await.ok_json();
        assert_eq!(answer["anomaly_score"], twin["anomaly_score"]);
    }
    // The times of the readings are those of their models.
    let timed = |value, time: Value| json!({"model": "window", "value": value, "time": time});
    let answers = ask(
        &app,
        json!([
            timed(1, json!(1000)),
            timed(2, json!(2000)),
            timed(2, json!(2000))
        ]),
    )
    .await;
    assert_eq!(answers[1], answers[2], "a repetition has the same answer");
}

#[tokio::test]
async fn a_request_of_another_shape_is_refused_as_a_whole() {
    let app = app().await;
    let many = json!({"readings": vec![reading("one", 1); 10_001]}).to_string();
    for (body, status, code, field) in [
        (r#"{"readings": {}}"#, 422, "wrong_type", json!("readings")),
        (
            r#"{"readings": null}"#,
            422,
            "wrong_type",
            json!("readings"),
        ),
        (&*many, 422, "too_many", json!("readings")),
        (r#"{"reading": []}"#, 422, "missing_field", json!("value")),
        (r#"{"readings": ["#, 400, "not_json", Value::Null),
    ] {
        let response = app.predict(body).await;
        let error = response.json();
        let found = (response.status.as_u16(), &error["code"], &error["field"]);
        assert_eq!(
            found,
            (status, &json!(code), &field),
            "{}",
            &body[..20.min(body.len())]
        );
    }
    assert_eq!(ask(&app, json!([])).await, Vec::<Value>::new());
    let full = json!(vec![reading("one", 1); 10_000]);
    assert_eq!(ask(&app, full).await.len(), 10_000);
    // `value` counts before `readings`, and a model of its own has no readings of others.
    let both = app
        .predict(r#"{"value": 1, "readings": 2}"#)
        .await
        .ok_json();
    assert_eq!(both["input_value"], 1.0);
    let named = app.post("/models/one/predict", r#"{"readings": []}"#).await;
    assert_eq!(named.json()["field"], "value");
    // They also go to a default model with a window, which reads requests in another way.
    let window = json!({"samples": samples(&readings(3, 300, 1)), "window": 3, "random_state": 1});
    retrain(&app, "default", &window).await;
    assert_eq!(ask(&app, json!([reading("one", 1)])).await.len(), 1);
}

// Each model is locked on its own, so two requests in opposite orders cannot wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_with_models_in_opposite_orders_do_not_block_each_other() {
    let app = Arc::new(app().await);
    let names = ["window", "twin"];
    let requests = (0..64).map(|i| {
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let order = [names[i % 2], names[(i + 1) % 2]];
            let readings = (0..50).map(|j| reading(order[j % 2], j as f64));
            ask(&app, readings.collect()).await.len()
        })
    });
    let requests: Vec<_> = requests.collect();
    let all = async {
        for request in requests {
            assert_eq!(request.await.expect("an answer"), 50);
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), all).await;
    done.expect("no request waits for ever");
}
