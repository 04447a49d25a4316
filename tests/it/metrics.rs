//! `/metrics`, `/health`, `/ready` and `/version`, through the router.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{Method, Request, header};
use iforest_server::http::ApiConfig;
use iforest_server::registry::{DefaultModel, Registry, RegistryConfig};
use iforest_server::store::Store;
use iforest_server::training_data;

use crate::support::data::params;
use crate::support::folder::Folder;
use crate::support::router::App;

/// The samples of an exposition, by name and labels.
type Samples = BTreeMap<String, f64>;

/// Reads an exposition. Panics unless it is well-formed: each metric has one `HELP` and one `TYPE`
/// in front of all its samples, and each sample is there once.
fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    let mut families = BTreeSet::new();
    let mut family = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a text");
            assert!(help.ends_with('.'), "{line}");
            assert!(families.insert(name.to_owned()), "{name} begins twice");
            let kind = lines.next().expect("a type");
            assert!(kind.starts_with(&format!("# TYPE {name} ")), "{kind}");
            family = name.to_owned();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let name = series.split('{').next().expect("a name");
        let suffixes = ["", "_bucket", "_sum", "_count"];
        let is_of_family = suffixes
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(&*family));
        assert!(is_of_family, "{line} is not of {family}");
        let value = value.parse().expect("a number");
        let previous = samples.insert(series.to_owned(), value);
        assert_eq!(previous, None, "{series} is there twice");
    }
    samples
}

async fn metrics(app: &App) -> Samples {
    let response = app.get("/metrics").await;
    assert_eq!(
        response.headers[header::CONTENT_TYPE],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    parse(&response.ok())
}

fn predictions(samples: &Samples, model: &str) -> [f64; 3] {
    ["normal", "anomaly", "none"].map(|verdict| {
        samples[&format!("iforest_predictions_total{{model=\"{model}\",verdict=\"{verdict}\"}}")]
    })
}

fn requests(samples: &Samples, route: &str, status: u16) -> f64 {
    let series = format!("iforest_http_requests_total{{route=\"{route}\",status=\"{status}\"}}");
    samples.get(&series).copied().unwrap_or(0.0)
}

#[tokio::test]
async fn probes_answer_and_say_when_the_server_stops() {
    let config = ApiConfig::default();
    let stopping = config.stopping.clone();
    let app = App::with(config);
    assert_eq!(app.get("/health").await.ok(), "{\"status\":\"ok\"}\n");
    assert_eq!(app.get("/ready").await.ok(), "{\"status\":\"ready\"}\n");
    let version = app.get("/version").await.ok_json();
    assert_eq!(version["name"], "iforest-server");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    for path in ["/health", "/ready", "/version", "/metrics"] {
        let head = app.request(Method::HEAD, path).await;
        assert_eq!((head.status.as_u16(), &*head.body), (200, ""), "{path}");
        let post = app.post(path, "{}").await;
        assert_eq!(post.status, 405, "{path}");
        assert_eq!(post.error(), "the method must be GET, got POST");
    }

    stopping.store(true, Ordering::Relaxed);
    let response = app.get("/ready").await;
    assert_eq!(response.status, 503);
    assert_eq!(response.error(), "the server is stopping");
    assert_eq!(response.json()["code"], "not_ready");
    app.get("/health").await.ok();
}

// Each way to ask for predictions counts them.
#[tokio::test]
async fn predictions_are_counted_by_model_and_verdict() {
    let app = App::new();
    app.predict(r#"{"value": 2.5}"#).await.ok();
    app.predict(r#"{"value": 9}"#).await.ok();
    app.predict(r#"{"values": [2.5, 2.6, 9]}"#).await.ok();
    app.predict(r#"{"value": 9, "explain": true}"#).await.ok();
    app.predict(r#"{"values": [2.5, null]}"#).await.error();
    assert_eq!(
        predictions(&metrics(&app).await, "default"),
        [3.0, 3.0, 0.0]
    );

    let pairs =
        r#"{"samples": [[1, 2], [2, 1], [3, 3], [1, 1], [2, 2]], "out_of_range": "anomaly"}"#;
    app.post("/models/pair/retrain", pairs).await.ok();
    let pair = "/models/pair/predict";
    app.post(pair, r#"{"value": [2, 2]}"#).await.ok();
    app.post(pair, r#"{"values": [[2, 2], [9, 9]]}"#).await.ok();
    app.post(pair, r#"{"value": [9, 9], "explain": true}"#)
        .await
        .ok();
    let large = format!("{{\"values\": [{}]}}", vec!["[2,2]"; 2000].join(","));
    app.post(pair, large).await.ok();
    assert_eq!(
        predictions(&metrics(&app).await, "pair"),
        [2002.0, 2.0, 0.0]
    );

    // A window of two readings is not full at the first one.
    let samples: Vec<String> = (0..60).map(|i| format!("{}", i % 7)).collect();
    let windowed = format!("{{\"samples\": [{}], \"window\": 2}}", samples.join(","));
    app.post("/models/fan/retrain", windowed).await.ok();
    let fan = "/models/fan/predict";
    app.post(fan, r#"{"values": [3, 4, 1000000]}"#).await.ok();
    app.post(fan, r#"{"window": [3, 4]}"#).await.ok();
    assert_eq!(predictions(&metrics(&app).await, "fan"), [2.0, 1.0, 1.0]);

    // In a request for many models each counts its own, and no refused reading.
    let many = r#"{"readings": [
        {"model": "pair", "value": [2, 2]}, {"model": "fan", "value": [3]}, {"model": "fan", "value": null},
        {"model": "pair", "value": [9, 9]}, {"model": "default", "value": 9}, {"model": "pair"}
    ]}"#;
    app.predict(many).await.ok();
    let counted = metrics(&app).await;
    assert_eq!(predictions(&counted, "pair"), [2003.0, 3.0, 0.0]);
    assert_eq!(predictions(&counted, "fan").iter().sum::<f64>(), 5.0);
    assert_eq!(predictions(&counted, "default"), [3.0, 4.0, 0.0]);

    // They outlive a retrain, and end with the model.
    app.post("/models/pair/retrain", pairs).await.ok();
    assert_eq!(
        predictions(&metrics(&app).await, "pair"),
        [2003.0, 3.0, 0.0]
    );
    app.delete("/models/pair").await.ok();
    let after = metrics(&app).await;
    assert!(after.keys().all(|series| !series.contains("\"pair\"")));
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let app = App::new();
    app.predict(r#"{"value": 2.5}"#).await.ok();
    app.post("//predict", r#"{"value": 2.5}"#).await.ok();
    app.predict("{").await.error();
    app.post("/models/none/predict", r#"{"value": 1}"#)
        .await
        .error();
    app.get("/models/none/versions").await.error();
    app.delete("/models/none").await.error();
    app.get("/models").await.ok();
    app.get("/nowhere").await.error();
    app.get("/models/a/b/c").await.error();
    let samples = metrics(&app).await;
    for (route, status, count) in [
        ("/predict", 200, 2.0),
        ("/predict", 400, 1.0),
        ("/models/{name}/predict", 404, 1.0),
        ("/models/{name}/versions", 404, 1.0),
        ("/models/{name}", 404, 1.0),
        ("/models", 200, 1.0),
        ("other", 404, 2.0),
        ("/retrain", 200, 0.0),
    ] {
        assert_eq!(requests(&samples, route, status), count, "{route} {status}");
    }
    let all: f64 = samples
        .iter()
        .filter(|(series, _)| series.starts_with("iforest_http_requests_total{"))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(all, 9.0);
    let histogram = "iforest_http_request_duration_seconds";
    assert_eq!(
        samples[&format!("{histogram}_count{{route=\"/predict\"}}")],
        3.0
    );
    let all = format!("{histogram}_bucket{{route=\"/predict\",le=\"+Inf\"}}");
    assert_eq!(samples[&all], 3.0);
    let sum = samples[&format!("{histogram}_sum{{route=\"/predict\"}}")];
    assert!(sum > 0.0 && sum < 60.0, "{sum}");
}

#[tokio::test]
async fn models_trainings_and_the_store_are_described() {
    let folder = Folder::new();
    let store = Store::open(folder.text()).expect("a folder");
    let first = DefaultModel::LoadOrTrain(Box::new(|| training_data::synthetic(42)));
    let registry = Registry::open(store, RegistryConfig::new(params()), first);
    let app = App::of(registry.expect("it opens"));
    let press = "/models/press/retrain";
    app.post(press, r#"{"samples": [1, 2, 3]}"#).await.ok();
    app.post(press, r#"{"samples": [1, 2, 3, 4], "contamination": 0.2}"#)
        .await
        .ok();
    app.post(press, r#"{"samples": []}"#).await.error();
    let samples = metrics(&app).await;
    for (series, value) in [
        ("iforest_model_version{model=\"default\"}", 0.0),
        ("iforest_model_version{model=\"press\"}", 2.0),
        ("iforest_model_expected_anomaly_ratio{model=\"press\"}", 0.2),
        ("iforest_trainings_total{result=\"success\"}", 3.0),
        ("iforest_trainings_total{result=\"failure\"}", 0.0),
        ("iforest_training_duration_seconds_count", 3.0),
        ("iforest_training_samples_total", 507.0),
        ("iforest_trainings_waiting", 0.0),
        ("iforest_models_stored", 2.0),
        ("iforest_models_loaded", 2.0),
        (
            "iforest_store_operations_total{operation=\"write\",result=\"success\"}",
            2.0,
        ),
        (
            "iforest_store_operations_total{operation=\"write\",result=\"error\"}",
            0.0,
        ),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    let trained = samples["iforest_model_trained_timestamp_seconds{model=\"press\"}"];
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    assert!((now.as_secs_f64() - trained).abs() < 600.0);
    let synced = samples["iforest_sync_last_success_timestamp_seconds"];
    assert!((now.as_secs_f64() - synced).abs() < 600.0);
    let pool = |metric: &str| samples[&format!("iforest_memory_{metric}_bytes{{pool=\"models\"}}")];
    assert!(pool("used") > 0.0 && pool("used") < pool("limit"));
    #[cfg(target_os = "linux")]
    {
        assert!(samples["process_resident_memory_bytes"] > 1e6);
        let started = samples["process_start_time_seconds"];
        assert!((now.as_secs_f64() - started).abs() < 3600.0);
    }

    std::fs::rename(folder.path(), folder.away()).expect("moved away");
    app.post(press, r#"{"samples": [1, 2, 3]}"#).await.error();
    let samples = metrics(&app).await;
    let failed = "iforest_trainings_total{result=\"failure\"}";
    assert_eq!(
        samples.get(failed),
        Some(&0.0),
        "it was refused before it began"
    );
    let errors: f64 = samples
        .iter()
        .filter(|(series, _)| series.contains("result=\"error\""))
        .map(|(_, count)| count)
        .sum();
    assert!(errors > 0.0);
}

// Any client that may retrain can make up names, and each series costs Prometheus memory.
#[tokio::test]
async fn at_most_a_thousand_models_have_series_of_their_own() {
    let app = App::new();
    let body = r#"{"samples": [1, 2], "n_estimators": 1}"#;
    for i in 0..1010 {
        app.post(&format!("/models/m{i}/retrain"), body).await.ok();
    }
    app.post("/models/other/retrain", body).await.ok();
    let before = metrics(&app).await;
    assert!(
        !before
            .keys()
            .any(|series| series.contains("\"other\",verdict"))
    );
    for model in ["m0", "m1009", "other"] {
        app.post(&format!("/models/{model}/predict"), r#"{"value": 1}"#)
            .await
            .ok();
    }
    let samples = metrics(&app).await;
    let models: BTreeSet<&str> = samples
        .keys()
        .filter_map(|series| series.split("model=\"").nth(1)?.split('"').next())
        .collect();
    assert_eq!(models.len(), 1000);
    assert_eq!(predictions(&samples, "m0").iter().sum::<f64>(), 1.0);
    assert_eq!(predictions(&samples, "other").iter().sum::<f64>(), 2.0);
    assert_eq!(samples["iforest_models_stored"], 1012.0);
}

#[tokio::test]
async fn a_request_id_is_returned_and_none_is_made_up() {
    let app = App::new();
    for (path, status) in [("/health", 200), ("/models/none", 404)] {
        let request = Request::get(path)
            .header("X-Request-Id", "line 4/press-1")
            .body(Body::empty());
        let response = app.send(request.expect("a valid request")).await;
        assert_eq!(response.status, status);
        assert_eq!(response.headers["x-request-id"], "line 4/press-1");
        let response = app.get(path).await;
        assert!(!response.headers.contains_key("x-request-id"));
    }
}
