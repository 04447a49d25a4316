//! Predictions of windowed models: the stream of readings that the server keeps of each, their
//! times, and explanations.

use std::sync::Arc;
use std::time::Duration;

use iforest_server::registry::{DefaultModel, Registry, RegistryConfig};
use iforest_server::store::Store;
use iforest_server::training_data;
use ndarray::Array2;
use object_store::memory::InMemory;
use serde_json::{Value, json};

use crate::support::data::{params, readings, samples};
use crate::support::http::Response;
use crate::support::router::App;

const WINDOW: usize = 5;
const PUMP: &str = "/models/pump";

/// Readings of two sensors between 0 and 5.
fn pump_readings(seed: u64, rows: usize) -> Vec<Value> {
    match samples(&readings(seed, rows, 2)) {
        Value::Array(rows) => rows,
        other => panic!("not a list: {other}"),
    }
}

async fn retrain(app: &App, model: &str, seed: u64, window: usize) -> Response {
    let body = json!({
        "samples": pump_readings(seed, 300),
        "window": window,
        "n_estimators": 20,
        "random_state": 7,
        "feature_names": ["flow", "pressure"],
    });
    let response = app
        .post(&format!("{model}/retrain"), body.to_string())
        .await;
    response.ok_json();
    response
}

/// A server with a windowed model, `pump`.
async fn app() -> App {
    let app = App::new();
    retrain(&app, PUMP, 1, WINDOW).await;
    app
}

async fn ask(app: &App, path: &str, body: &Value) -> Value {
    app.post(path, body.to_string()).await.ok_json()
}

/// The answers to the next readings of the pump.
async fn next(app: &App, body: Value) -> Vec<Value> {
    let answer = ask(app, "/models/pump/predict", &body).await;
    match &answer["predictions"] {
        Value::Array(predictions) => predictions.clone(),
        _ => vec![answer],
    }
}

/// The answers to whole windows, one for each reading that ends one.
async fn whole_windows(app: &App, readings: &[Value]) -> Vec<Value> {
    let mut answers = Vec::new();
    for window in readings.windows(WINDOW) {
        answers.extend(next(app, json!({ "window": window })).await);
    }
    answers
}

/// The answers without the alarm, which those to whole windows do not have.
fn without_alarm(answers: &[Value]) -> Vec<Value> {
    let mut answers = answers.to_vec();
    for answer in &mut answers {
        let alarm = answer.as_object_mut().expect("an object").remove("alarm");
        assert!(alarm.is_some_and(|alarm| alarm.is_boolean()));
    }
    answers
}

fn is_warming_up(answer: &Value) -> bool {
    let status = answer["status"] == "Warming Up";
    assert_eq!(status, answer["anomaly_score"].is_null(), "{answer}");
    assert!(!status || (answer["prediction"] == 0 && answer["alarm"] == false));
    status
}

/// The times of readings that come each second.
fn times(first: usize, count: usize) -> Vec<String> {
    let time = |i| {
        format!(
            "2026-11-24T{:02}:{:02}:{:02}.5+01:00",
            i / 3600,
            i / 60 % 60,
            i % 60
        )
    };
    (first..first + count).map(time).collect()
}

#[tokio::test]
async fn answers_across_requests_equal_those_to_whole_windows() {
    let app = app().await;
    let readings = pump_readings(2, 40);
    let mut answers = next(&app, json!({ "value": readings[0] })).await;
    answers.extend(next(&app, json!({ "values": readings[1..3] })).await);
    answers.extend(next(&app, json!({ "values": [] })).await);
    for reading in &readings[3..10] {
        answers.extend(next(&app, json!({ "value": reading })).await);
    }
    let named = |reading: &Value| json!({ "pressure": reading[1], "flow": reading[0] });
    let objects: Vec<Value> = readings[10..].iter().map(named).collect();
    answers.extend(next(&app, json!({ "values": objects })).await);
    assert_eq!(answers.len(), readings.len());

    assert!(answers[..WINDOW - 1].iter().all(is_warming_up));
    assert!(!answers[WINDOW - 1..].iter().any(is_warming_up));
    let judged = without_alarm(&answers[WINDOW - 1..]);
    assert_eq!(judged, whole_windows(&app, &readings).await);
}

#[tokio::test]
async fn the_keys_of_an_answer_are_in_alphabetical_order() {
    let app = app().await;
    let predict = "/models/pump/predict";
    let first = app.post(predict, r#"{"value": [2.5, 99]}"#).await;
    let scaled = first.ok_json()["scaled_value"].to_string();
    let expected = format!(
        "{{\"alarm\":false,\"anomaly_score\":null,\"input_value\":[2.5,99.0],\
         \"out_of_range\":true,\"prediction\":0,\"scaled_value\":{scaled},\
         \"status\":\"Warming Up\"}}\n"
    );
    assert_eq!(first.body, expected);
    let body = json!({ "values": pump_readings(2, 4) }).to_string();
    app.post(predict, body).await.ok_json();
    let body = r#"{"value": [2.5, 3.5], "explain": true}"#;
    let last = app.post(predict, body).await;
    let keys = [
        "{\"alarm\":",
        ",\"anomaly_score\":",
        ",\"contributions\":[",
        ",\"input_value\":[2.5,3.5]",
        ",\"out_of_range\":false",
        ",\"prediction\":",
        ",\"scaled_value\":[",
        ",\"status\":\"",
    ];
    let positions: Vec<_> = keys.iter().map(|key| last.body.find(key)).collect();
    assert!(positions.iter().all(Option::is_some), "{}", last.body);
    assert!(positions.is_sorted(), "{}", last.body);
}

#[tokio::test]
async fn the_default_model_may_be_windowed() {
    let app = App::new();
    let data = json!({
        "samples": samples(&readings(1, 300, 1)), "window": WINDOW, "n_estimators": 20,
    });
    ask(&app, "/models/default/retrain", &data).await;
    let values: Vec<Value> = (0..20).map(|i| json!(0.25 * f64::from(i))).collect();
    let mut answers = Vec::new();
    for value in &values {
        answers.push(ask(&app, "/predict", &json!({ "value": value })).await);
    }
    assert_eq!(
        answers.iter().filter(|a| is_warming_up(a)).count(),
        WINDOW - 1
    );
    // A reading of one sensor is a number.
    assert_eq!(answers[1]["input_value"], json!(0.25));
    assert!(answers[1]["scaled_value"].is_f64());
    let answers = without_alarm(&answers);
    for (window, answer) in values.windows(WINDOW).zip(&answers[WINDOW - 1..]) {
        let whole = ask(&app, "/predict", &json!({ "window": window })).await;
        assert_eq!(whole, *answer);
    }
    // server.py's retrain keeps the window, and the stream goes on.
    let data = json!({ "samples": samples(&readings(3, 300, 1)) });
    ask(&app, "/retrain", &data).await;
    assert!(!is_warming_up(
        &ask(&app, "/predict", &json!({ "value": 2.5 })).await
    ));
}

#[tokio::test]
async fn a_stream_outlives_retrains_and_rollbacks() {
    let app = app().await;
    let readings = pump_readings(2, 30);
    next(&app, json!({ "values": readings[..10] })).await;
    for (i, change) in ["retrain", "rollback", "rollback to 2"]
        .into_iter()
        .enumerate()
    {
        match change {
            "retrain" => drop(retrain(&app, PUMP, 4, WINDOW).await),
            "rollback" => drop(ask(&app, "/models/pump/rollback", &json!({})).await),
            _ => drop(ask(&app, "/models/pump/rollback", &json!({ "version": 2 })).await),
        }
        let end = 11 + i;
        let answers = next(&app, json!({ "value": readings[end - 1] })).await;
        let window = &readings[end - WINDOW..end];
        let whole = next(&app, json!({ "window": window })).await;
        assert_eq!(without_alarm(&answers), whole, "{change}");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_window_and_its_model() {
    let app = app().await;
    let readings = pump_readings(2, 30);
    next(&app, json!({ "values": readings })).await;
    retrain(&app, PUMP, 1, WINDOW + 1).await;
    let answers = next(&app, json!({ "values": readings })).await;
    assert_eq!(answers.iter().filter(|a| is_warming_up(a)).count(), WINDOW);

    app.delete(PUMP).await.ok_json();
    retrain(&app, PUMP, 1, WINDOW + 1).await;
    let answers = next(&app, json!({ "values": readings })).await;
    assert_eq!(answers.iter().filter(|a| is_warming_up(a)).count(), WINDOW);
}

#[tokio::test]
async fn a_stream_ends_with_the_server() {
    let objects: Arc<InMemory> = Arc::default();
    let start = || {
        let store = Store::from_objects(Arc::clone(&objects) as _, "noted");
        let default = DefaultModel::LoadOrTrain(Box::new(|| training_data::synthetic(42)));
        let registry = Registry::open(store, RegistryConfig::new(params()), default);
        App::of(registry.expect("it opens"))
    };
    let app = start();
    retrain(&app, PUMP, 1, WINDOW).await;
    let readings = pump_readings(2, 10);
    let before = next(&app, json!({ "values": readings })).await;
    drop(app);
    let app = start();
    assert_eq!(next(&app, json!({ "values": readings })).await, before);
}

#[tokio::test]
async fn a_stream_ends_where_another_server_deletes_the_model() {
    let objects: Arc<InMemory> = Arc::default();
    let start = || {
        let store = Store::from_objects(Arc::clone(&objects) as _, "noted");
        let config = RegistryConfig {
            refresh_interval: Some(Duration::from_millis(20)),
            ..RegistryConfig::new(params())
        };
        let default = DefaultModel::LoadOrTrain(Box::new(|| training_data::synthetic(42)));
        let registry = Registry::open(store, config, default);
        App::of(registry.expect("it opens"))
    };
    let (one, other) = (start(), start());
    retrain(&one, PUMP, 1, WINDOW).await;
    let readings = pump_readings(2, 10);
    next(&one, json!({ "values": readings })).await;
    let until = async |app: &App, status: u16| {
        for _ in 0..500 {
            if app.get(PUMP).await.status == status {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the model has not become {status}");
    };
    until(&other, 200).await;
    other.delete(PUMP).await.ok_json();
    until(&one, 404).await;
    retrain(&other, PUMP, 1, WINDOW).await;
    until(&one, 200).await;
    let answers = next(&one, json!({ "value": readings[0] })).await;
    assert!(is_warming_up(&answers[0]));
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_answered_again() {
    let app = app().await;
    let mut readings = pump_readings(2, 50);
    // An alarm within.
    readings[20] = json!([900, 900]);
    readings[21] = json!([900, 900]);
    let first = json!({ "values": readings[..30], "times": times(0, 30) });
    let answers = next(&app, first.clone()).await;
    assert_eq!(answers[21]["alarm"], true);
    assert_eq!(next(&app, first).await, answers);
    // Again, with further readings.
    let more = json!({ "values": readings, "times": times(0, 50) });
    let answers = next(&app, more.clone()).await;
    let judged = without_alarm(&answers[WINDOW - 1..]);
    assert_eq!(judged, whole_windows(&app, &readings).await);
    assert_eq!(next(&app, more).await, answers);
    // One reading, with the reason.
    let again = json!({ "value": readings[49], "time": times(49, 1)[0], "explain": true });
    let mut again = next(&app, again).await;
    let contributions = again[0]
        .as_object_mut()
        .expect("an object")
        .remove("contributions");
    assert!(contributions.is_some_and(|contributions| contributions.is_array()));
    assert_eq!(again[0], answers[49]);
    // None of them was appended: the next reading follows the last one.
    let reading = json!([1.25, 2.5]);
    let next_one = next(&app, json!({ "value": reading, "time": times(50, 1)[0] })).await;
    readings.push(reading);
    let whole = next(&app, json!({ "window": readings[51 - WINDOW..] })).await;
    assert_eq!(without_alarm(&next_one), whole);
}

#[tokio::test]
async fn a_gap_restarts_the_warm_up_and_a_late_reading_does_not() {
    let app = app().await;
    let readings = pump_readings(2, 30);
    let ask = async |from: usize, count: usize, time: usize| -> Vec<bool> {
        let values = &readings[from..from + count];
        let body = json!({ "values": values, "times": times(time, count) });
        let answers = next(&app, body).await;
        answers.iter().map(is_warming_up).collect()
    };
    let warm_up: Vec<bool> = (0..10).map(|i| i < WINDOW - 1).collect();
    assert_eq!(ask(0, 10, 100).await, warm_up);
    // The last came at 109. So many steps later is no gap yet.
    assert_eq!(ask(10, 1, 109 + WINDOW).await, [false]);
    // Late by 3 seconds.
    assert_eq!(ask(11, 1, 106 + WINDOW).await, [false]);
    assert_eq!(ask(12, 1, 110 + WINDOW).await, [false]);
    assert_eq!(ask(13, 10, 1000).await, warm_up);
    // The clock is set back.
    assert_eq!(ask(13, 10, 500).await, warm_up);
}

#[tokio::test]
async fn a_wild_clock_is_no_error_and_costs_one_warm_up() {
    let app = app().await;
    let readings = pump_readings(2, 30);
    next(
        &app,
        json!({ "values": readings[..20], "times": times(0, 20) }),
    )
    .await;
    for wild in [
        json!("2056-01-01T00:00:00Z"),
        json!(1e300),
        json!(-1e300),
        json!(0),
    ] {
        let answers = next(&app, json!({ "value": [2.5, 2.5], "time": wild })).await;
        assert!(is_warming_up(&answers[0]), "{wild}");
        let body = json!({ "values": readings[20..], "times": times(20, 10) });
        let answers = next(&app, body).await;
        let silent = answers.iter().filter(|a| is_warming_up(a)).count();
        assert!(silent < WINDOW, "{silent} after {wild}");
        // The same readings again must be new ones.
        let body = json!({ "values": readings[..20], "times": times(7200, 20) });
        next(&app, body).await;
    }
}

#[tokio::test]
async fn a_refused_request_appends_nothing() {
    let app = app().await;
    let readings = pump_readings(2, 30);
    next(&app, json!({ "values": readings[..10] })).await;
    for (body, field, code) in [
        (
            json!({ "values": [[1, 1], [1, null]] }),
            "values",
            "wrong_type",
        ),
        (
            json!({ "values": [[1, 1], [1, 1, 1]] }),
            "values",
            "wrong_width",
        ),
        (
            json!({ "values": [[1, 1]], "times": [] }),
            "times",
            "wrong_width",
        ),
        (
            json!({ "values": [[1, 1]], "times": ["noon"] }),
            "times",
            "wrong_type",
        ),
        (
            json!({ "value": [1, 1], "time": "2026-11-24T09:30:00" }),
            "time",
            "wrong_type",
        ),
        (
            json!({ "value": [1, 1], "explain": 1 }),
            "explain",
            "wrong_type",
        ),
        (json!({ "window": [[1, 1]] }), "window", "wrong_width"),
        (
            json!({ "values": vec![[1, 1]; 10_001] }),
            "values",
            "too_many",
        ),
        (
            json!({ "values": vec![[1, 1]; 1667], "explain": true }),
            "explain",
            "too_many",
        ),
    ] {
        let response = app.post("/models/pump/predict", body.to_string()).await;
        assert_eq!(response.status, 422, "{body}: {}", response.body);
        response.error();
        let error = response.json();
        assert_eq!(
            (&error["field"], &error["code"]),
            (&json!(field), &json!(code))
        );
    }
    let answer = next(&app, json!({ "value": readings[10] })).await;
    let whole = next(&app, json!({ "window": readings[11 - WINDOW..11] })).await;
    assert_eq!(without_alarm(&answer), whole);
}

#[tokio::test]
async fn a_reading_that_cannot_be_scaled_is_refused_by_its_place() {
    let app = App::new();
    let data = readings(1, 300, 2) * 0.1;
    let body = json!({ "samples": samples(&data), "window": WINDOW, "n_estimators": 20 });
    ask(&app, "/models/small/retrain", &body).await;
    let far = json!([0.1, -1.7e308]);
    let path = "/models/small/predict";
    for (body, place) in [
        (
            json!({ "value": far }),
            json!({ "field": "value", "feature": 1 }),
        ),
        (
            json!({ "values": [[0.1, 0.1], far] }),
            json!({ "field": "values", "index": 1, "feature": 1 }),
        ),
        (
            json!({ "window": [[0, 0], [0, 0], far, [0, 0], [0, 0]] }),
            json!({ "field": "window", "index": 2, "feature": 1 }),
        ),
    ] {
        let refused = app.post(path, body.to_string()).await;
        assert_eq!(refused.status, 422, "{}", refused.body);
        let error = refused.json();
        assert_eq!(error["code"], "out_of_bounds");
        for (key, value) in place.as_object().expect("an object") {
            assert_eq!(error[key], *value, "{error}");
        }
    }
    // None of them counts.
    let values: Vec<Value> = vec![json!([0.1, 0.1]); WINDOW];
    let answers = ask(&app, path, &json!({ "values": values })).await;
    let warming_up = answers["predictions"].as_array().expect("a list").iter();
    assert_eq!(warming_up.filter(|a| is_warming_up(a)).count(), WINDOW - 1);
}

// It runs beside the serving threads, in the same order.
#[tokio::test]
async fn a_large_request_gets_the_answers_of_small_ones() {
    let (one, other) = (app().await, app().await);
    let readings = pump_readings(2, 10_000);
    let large = next(&one, json!({ "values": readings })).await;
    let mut small = Vec::new();
    for readings in readings.chunks(97) {
        small.extend(next(&other, json!({ "values": readings })).await);
    }
    assert!(large == small);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_request_of_many_at_once_is_appended_whole_and_once() {
    const REQUESTS: usize = 64;
    let app = app().await;
    let requests: Vec<Vec<Value>> = (0..REQUESTS)
        .map(|i| pump_readings(100 + i as u64, 3 * WINDOW))
        .collect();
    let tasks: Vec<_> = requests
        .iter()
        .map(|readings| {
            let (app, body) = (app.clone(), json!({ "values": readings }));
            tokio::spawn(async move { next(&app, body).await })
        })
        .collect();
    let mut warming_up = 0;
    for (readings, task) in requests.iter().zip(tasks) {
        let answers = task.await.expect("no panic");
        assert_eq!(answers.len(), readings.len());
        warming_up += answers.iter().filter(|a| is_warming_up(a)).count();
        // From there on a window holds readings of this request alone.
        let own = without_alarm(&answers[WINDOW - 1..]);
        assert_eq!(own, whole_windows(&app, readings).await);
    }
    assert_eq!(warming_up, WINDOW - 1);
    // A reading that several clients send with the same time is appended once.
    let app = self::app().await;
    let body = json!({ "values": pump_readings(2, WINDOW - 1), "times": times(0, WINDOW - 1) });
    let tasks: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let (app, body) = (app.clone(), body.clone());
            tokio::spawn(async move { next(&app, body).await })
        })
        .collect();
    for task in tasks {
        assert!(task.await.expect("no panic").iter().all(is_warming_up));
    }
}

#[tokio::test]
async fn models_with_and_without_a_window_explain_their_predictions() {
    let app = app().await;
    let plain = json!({
        "samples": samples(&readings(1, 300, 3)), "n_estimators": 20, "window": null,
    });
    ask(&app, "/models/plain/retrain", &plain).await;
    next(&app, json!({ "values": pump_readings(2, 10) })).await;
    for (path, body, features, views) in [
        ("/predict", json!({ "value": 9 }), vec![json!(0)], 1),
        ("/predict", json!({ "values": [2, 9] }), vec![json!(0)], 1),
        (
            "/models/plain/predict",
            json!({ "value": [2, 9, 3] }),
            vec![json!(0), json!(1), json!(2)],
            1,
        ),
        (
            "/models/plain/predict",
            json!({ "values": [[2, 9, 3]] }),
            vec![json!(0), json!(1), json!(2)],
            1,
        ),
        (
            "/models/pump/predict",
            json!({ "value": [2, 90] }),
            vec![json!("flow"), json!("pressure")],
            3,
        ),
        (
            "/models/pump/predict",
            json!({ "window": pump_readings(2, WINDOW) }),
            vec![json!("flow"), json!("pressure")],
            3,
        ),
    ] {
        let plain = app.post(path, body.to_string()).await;
        plain.ok_json();
        let mut explained_body = body.clone();
        explained_body["explain"] = json!(true);
        let explained = ask(&app, path, &explained_body).await;
        let answers = match &explained["predictions"] {
            Value::Array(answers) => answers.clone(),
            _ => vec![explained.clone()],
        };
        for answer in answers {
            let contributions = answer["contributions"].as_array().expect("a list");
            let shares: Vec<f64> = contributions
                .iter()
                .map(|c| c["share"].as_f64().expect("a number"))
                .collect();
            assert!(shares.is_sorted_by(|a, b| a >= b), "{answer}");
            let sum: f64 = shares.iter().sum();
            assert!(shares.is_empty() || (sum - 1.0).abs() < 1e-9, "{answer}");
            assert!(contributions.len() <= views * features.len());
            for contribution in contributions {
                assert!(features.contains(&contribution["feature"]), "{answer}");
                let view = contribution["view"].as_str().expect("text");
                let views = &["value", "level", "spread"][..views];
                assert!(views.contains(&view), "{answer}");
            }
        }
        if path != "/models/pump/predict" {
            // Without it, nothing is different.
            let mut without = explained_body.clone();
            without["explain"] = json!(false);
            assert_eq!(app.post(path, without.to_string()).await.body, plain.body);
        }
    }
    let many = |count| json!({ "values": vec![[1, 2, 3]; count], "explain": true }).to_string();
    let path = "/models/plain/predict";
    let answer = app.post(path, many(3333)).await.ok_json();
    assert_eq!(answer["predictions"].as_array().map(Vec::len), Some(3333));
    let refused = app.post(path, many(3334)).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["code"]),
        (422, &json!("too_many"))
    );
    for body in [
        r#"{"value": 2, "explain": "yes"}"#,
        r#"{"value": 2, "explain": 1}"#,
    ] {
        let refused = app.predict(body).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["field"]),
            (422, &json!("explain"))
        );
    }
}

/// A model of one feature, too, may get many readings to explain.
#[tokio::test]
async fn many_readings_of_one_feature_are_explained() {
    let app = App::new();
    let values: Array2<f64> = readings(3, 10_000, 1);
    let body = json!({ "values": samples(&values), "explain": true });
    let answer = ask(&app, "/predict", &body).await;
    let predictions = answer["predictions"].as_array().expect("a list");
    assert_eq!(predictions.len(), 10_000);
    assert!(predictions.iter().all(|p| p["contributions"].is_array()));
}
