//! `POST /predict` with the readings of many models.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::data::{readings, samples};
use crate::support::http::JSON;
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

// So a client handles both in one way.
#[tokio::test]
async fn the_error_of_a_reading_is_that_of_a_request_for_its_model() {
    let app = app().await;
    // To these, the greatest numbers are too far from the training readings.
    for features in [1, 2] {
        let body = json!({"samples": samples(&(readings(6, 300, features) / 10.0))});
        retrain(&app, &format!("narrow-{features}"), &body).await;
    }
    let body = json!({"samples": samples(&(readings(6, 300, 1) / 10.0)), "window": 3});
    retrain(&app, "narrow-window", &body).await;
    for (model, fields) in [
        ("missing", json!({})),
        ("missing", json!({"value": "x"})),
        ("one", json!({})),
        ("one", json!({"value": "inf"})),
        ("one", json!({"value": [1, 2]})),
        ("narrow-1", json!({"value": 1e308})),
        ("two", json!({})),
        ("two", json!({"value": {"vibration": 1}})),
        (
            "two",
            json!({"value": {"vibration": 1, "temperature": "hot"}}),
        ),
        ("narrow-2", json!({"value": [1, 1e308]})),
        ("window", json!({})),
        ("window", json!({"value": null})),
        ("narrow-window", json!({"value": 1e308})),
        ("window", json!({"value": 1, "time": "noon"})),
    ] {
        let path = format!("/models/{model}/predict");
        let own = app.post(&path, fields.to_string()).await;
        own.error();
        let own = own.body.trim_end().strip_prefix('{').expect("an object");
        let mut reading = fields.clone();
        reading["model"] = json!(model);
        // Alone, and among others of its model.
        for readings in [json!([reading]), json!([reading, reading])] {
            let count = readings.as_array().expect("a list").len();
            let body = json!({ "readings": readings }).to_string();
            let item = format!(r#"{{"model":"{model}",{own}"#);
            let expected = format!("{{\"predictions\":[{}]}}\n", vec![item; count].join(","));
            assert_eq!(app.predict(&body).await.ok(), expected, "{model} {fields}");
        }
    }
}

// A client that got no answer sends its readings again.
#[tokio::test]
async fn repeated_readings_have_the_same_answers_also_with_a_bad_one_among_them() {
    let app = app().await;
    let values = readings(4, 25, 1);
    let mut sent: Vec<Value> = values
        .iter()
        .enumerate()
        .map(|(i, &value)| json!({"model": "window", "value": value, "time": 1000 * i}))
        .collect();
    // After these the window is full.
    let before: Vec<Value> = sent.drain(..5).collect();
    ask(&app, json!(before)).await;
    sent.insert(7, reading("window", "x"));
    let first = ask(&app, json!(sent)).await;
    let judged = first
        .iter()
        .filter(|answer| answer["anomaly_score"].is_f64());
    assert_eq!(judged.count(), 20);
    assert_eq!(ask(&app, json!(sent)).await, first);
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
    for model in ["default", "one", "two", "window"] {
        let path = format!("/models/{model}/predict");
        let named = app.post(&path, r#"{"readings": []}"#).await;
        let error = named.json();
        let found = (named.status.as_u16(), &error["code"], &error["field"]);
        assert_eq!(found, (422, &json!("unknown_field"), &json!("readings")));
        assert!(named.error().contains("POST /predict"), "{named:?}");
        let other = app.post(&path, r#"{"reading": []}"#).await;
        assert_eq!(other.json()["code"], "missing_field");
    }
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

// The work of all models together counts, so many models of some work each are no way around the bound.
#[tokio::test]
async fn other_requests_have_their_turn_during_a_large_one() {
    let app = app().await;
    let names: Vec<String> = (0..16).map(|i| format!("pair-{i}")).collect();
    for name in &names {
        let body = json!({"samples": samples(&readings(5, 100, 2)), "n_estimators": 100});
        retrain(&app, name, &body).await;
    }
    let large = (0..10_000).map(|i| reading(&names[i % names.len()], json!([1, 2])));
    let large = json!({ "readings": large.collect::<Vec<_>>() }).to_string();
    let small = r#"{"value": 2.5}"#.to_owned();
    let order = Arc::new(Mutex::new(Vec::new()));
    // On one thread, which begins the tasks in their order.
    let requests = [("large", large), ("small", small)].map(|(name, body)| {
        let (app, order) = (app.clone(), Arc::clone(&order));
        tokio::spawn(async move {
            app.predict(&body).await.ok();
            order.lock().expect("not poisoned").push(name);
        })
    });
    for request in requests {
        request.await.expect("an answer");
    }
    assert_eq!(*order.lock().expect("not poisoned"), ["small", "large"]);
}

// It may wait for models that are loaded, and for other requests, so its body counts as one that waits.
#[tokio::test]
async fn a_request_without_memory_for_its_body_is_refused() {
    let app = App::with_body_budget(100 * 1024);
    let stalled = stream::iter([Ok::<_, std::io::Error>(" ".repeat(50 * 1024))]);
    let stalled = Request::post("/retrain")
        .header(header::CONTENT_TYPE, JSON)
        .body(Body::from_stream(stalled.chain(stream::pending())));
    let stalled = tokio::spawn({
        let app = app.clone();
        async move { app.send(stalled.expect("a valid request")).await }
    });
    tokio::task::yield_now().await;
    let body = |readings| json!({"readings": vec![reading("default", 1); readings]}).to_string();
    let busy = app.predict(&body(2000)).await;
    assert_eq!(
        (busy.status.as_u16(), &busy.json()["code"]),
        (503, &json!("busy"))
    );
    app.predict(&body(2)).await.ok();
    stalled.abort();
}
