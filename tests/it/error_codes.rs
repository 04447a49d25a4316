//! Every error code: a request that gets it, and its row in the table of `docs/http-api.md`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, header};
use futures_util::future::join_all;
use futures_util::stream;
use iforest_server::http::{ApiConfig, ApiKeys};
use iforest_server::registry::{DefaultModel, Registry, RegistryConfig};
use iforest_server::store::Store;
use iforest_server::training_data;
use serde_json::{Value, json};

use crate::openapi::Document;
use crate::support::data::{params, readings, samples};
use crate::support::folder::{Folder, write};
use crate::support::http::{JSON, Response};
use crate::support::router::App;

/// Shown elsewhere. By unit tests in `src/http`: no request provokes the first, and the second takes
/// half a minute. By tests of the real binary: the third is given before the router.
const SHOWN_ELSEWHERE: [(&str, u16); 3] = [("internal", 500), ("timeout", 408), ("bad_host", 400)];

/// The code and the status of an error, which must be as the OpenAPI document says.
fn code(method: &str, path: &str, response: &Response) -> (String, u16) {
    response.error();
    Document::read().check(method, path, response);
    let code = response.json()["code"].as_str().map(str::to_owned);
    (code.expect("a code"), response.status.as_u16())
}

/// The place that a response names, as `[field, index, feature]`.
fn place(response: &Response) -> Value {
    let body = response.json();
    json!([body["field"], body["index"], body["feature"]])
}

async fn named(app: &App) {
    let body = r#"{"samples": [[1, 2], [2, 1], [3, 3]], "feature_names": ["a", "b"]}"#;
    app.post("/models/named/retrain", body).await.ok();
}

#[tokio::test]
async fn a_refused_value_is_named_by_field_index_and_feature() {
    let app = App::new();
    named(&app).await;
    let named = "/models/named";
    for (path, body, expected) in [
        (
            "/predict",
            r#"{"value": null}"#,
            json!(["wrong_type", "value", null, null]),
        ),
        (
            "/predict",
            r#"{"values": [1, 2, "x"]}"#,
            json!(["wrong_type", "values", 2, null]),
        ),
        (
            "/predict",
            r#"{"value": "inf"}"#,
            json!(["not_finite", "value", null, null]),
        ),
        (
            "/predict",
            r#"{"values": 3}"#,
            json!(["wrong_type", "values", null, null]),
        ),
        (
            "/predict",
            "{}",
            json!(["missing_field", "value", null, null]),
        ),
        ("/predict", "[]", json!(["wrong_type", null, null, null])),
        ("/predict", "{", json!(["not_json", null, null, null])),
        (
            "/retrain",
            r#"{"samples": [1, [2]]}"#,
            json!(["wrong_width", "samples", 1, null]),
        ),
        (
            "/retrain",
            r#"{"samples": [[1, 2], [3, "x"]]}"#,
            json!(["wrong_type", "samples", 1, null]),
        ),
        (
            "/retrain",
            r#"{"samples": []}"#,
            json!(["too_few", "samples", null, null]),
        ),
        (
            "/models/named/predict",
            r#"{"value": [1, "x"]}"#,
            json!(["wrong_type", "value", null, 1]),
        ),
        (
            "/models/named/predict",
            r#"{"values": [[1, 2], [1]]}"#,
            json!(["wrong_width", "values", 1, null]),
        ),
        (
            "/models/named/predict",
            r#"{"value": 1}"#,
            json!(["wrong_width", "value", null, null]),
        ),
        (
            "/models/named/predict",
            r#"{"value": {"a": 1, "b": "x"}}"#,
            json!(["wrong_type", "value", null, "b"]),
        ),
        (
            "/models/named/predict",
            r#"{"value": {"a": 1}}"#,
            json!(["missing_field", "value", null, "b"]),
        ),
        (
            "/models/named/predict",
            r#"{"values": [[1, 2], [1, 1e308]]}"#,
            json!(["out_of_bounds", "values", 1, 1]),
        ),
        (
            "/models/named/retrain",
            r#"{"samples": [[1, 2]], "contaminaton": 0.1}"#,
            json!(["unknown_field", "contaminaton", null, null]),
        ),
        (
            "/models/named/retrain",
            r#"{"samples": [[1, 2]], "contamination": 0.9}"#,
            json!(["out_of_bounds", "contamination", null, null]),
        ),
        (
            "/models/named/retrain",
            r#"{"samples": [[1, 2]], "n_estimators": 1.5}"#,
            json!(["out_of_bounds", "n_estimators", null, null]),
        ),
        (
            "/models/named/retrain",
            r#"{"samples": [[1, 2]], "random_state": "x"}"#,
            json!(["wrong_type", "random_state", null, null]),
        ),
        (
            "/models/named/retrain",
            r#"{"samples": [[1, 2]], "out_of_range": "far"}"#,
            json!(["out_of_bounds", "out_of_range", null, null]),
        ),
        (
            "/models/named/retrain",
            r#"{"samples": [[1, 2]], "feature_names": ["a", "a"]}"#,
            json!(["out_of_bounds", "feature_names", 1, null]),
        ),
        (
            "/models/named/retrain",
            r#"{"samples": [[1, 2], [1, null]]}"#,
            json!(["wrong_type", "samples", 1, 1]),
        ),
        (
            "/models/named/rollback",
            r#"{"version": 99}"#,
            json!(["no_version", "version", null, null]),
        ),
        (
            "/models/named/rollback",
            r#"{"version": "x"}"#,
            json!(["wrong_type", "version", null, null]),
        ),
    ] {
        // The largest double is too far away for a model of ordinary readings.
        let body = body.replace("1e308", "1.7e308");
        let response = app.post(path, body.clone()).await;
        code("POST", path, &response);
        let [field, index, feature] = [0, 1, 2].map(|i| place(&response)[i].clone());
        let got = json!([response.json()["code"], field, index, feature]);
        assert_eq!(got, expected, "{path} {body}: {}", response.body);
    }
    assert_eq!(app.get(named).await.status, 200);
}

#[tokio::test]
async fn every_code_of_the_documents_is_the_answer_to_some_request() {
    let mut seen: BTreeSet<_> = SHOWN_ELSEWHERE
        .map(|(code, status)| (code.to_owned(), status))
        .into();
    let folder = Folder::new();
    let store = Store::open(folder.text()).expect("a folder");
    let first = DefaultModel::LoadOrTrain(Box::new(|| training_data::synthetic(42)));
    let registry = Registry::open(store, RegistryConfig::new(params()), first);
    let app = App::of(registry.expect("it opens"));
    named(&app).await;

    let many = format!("{{\"values\": [{}0]}}", "0,".repeat(10_000));
    for (path, body) in [
        ("/predict", "{"),
        ("/predict", r#"{"value": 1e400}"#),
        ("/predict", r#"{"value": "nan"}"#),
        ("/predict", r#"{"value": null}"#),
        ("/predict", "{}"),
        ("/predict", many.as_str()),
        ("/models/named/predict", r#"{"value": [1]}"#),
        ("/models/named/retrain", r#"{"samples": [], "x": 1}"#),
        (
            "/models/named/retrain",
            r#"{"samples": [], "contamination": 1}"#,
        ),
        (
            "/models/named/retrain",
            r#"{"samples": [], "drift": "keep"}"#,
        ),
        ("/models/named/retrain", r#"{"samples": []}"#),
        (
            "/models/costly/retrain",
            r#"{"samples": [1,2,3,4,5,6,7,8,9,10], "n_estimators": 100000}"#,
        ),
        ("/nowhere", "{}"),
        ("/models/none/predict", r#"{"value": 1}"#),
        ("/models/a+b/predict", r#"{"value": 1}"#),
        ("/models/a%20b/predict", r#"{"value": 1}"#),
        ("/models/named/rollback", ""),
        ("/models/named/rollback", r#"{"version": 7}"#),
    ] {
        seen.insert(code("POST", path, &app.post(path, body.to_owned()).await));
    }
    let path = "/models/default";
    seen.insert(code("DELETE", path, &app.delete(path).await));
    let refused = app.request(Method::PUT, "/predict").await;
    seen.insert(code("PUT", "/predict", &refused));
    let refused = app.post("/predict", vec![b' '; 1024 * 1024 + 1]).await;
    seen.insert(code("POST", "/predict", &refused));

    let foreign = Request::delete("/models/named")
        .header(header::ORIGIN, "http://elsewhere.example")
        .body(Body::empty());
    let refused = app.send(foreign.expect("a valid request")).await;
    seen.insert(code("DELETE", "/models/named", &refused));
    let keys = folder.file("keys", "reader read 0123456789abcdef");
    let keys = ApiKeys::load(Path::new(&keys)).expect("a valid file");
    let guarded = App::with(ApiConfig {
        api_keys: Some(Arc::new(keys)),
        ..ApiConfig::default()
    });
    seen.insert(code("GET", "/models", &guarded.get("/models").await));
    let reader = Request::delete("/models/named")
        .header(header::AUTHORIZATION, "Bearer 0123456789abcdef")
        .body(Body::empty());
    let refused = guarded.send(reader.expect("a valid request")).await;
    seen.insert(code("DELETE", "/models/named", &refused));

    let stopping = App::with(ApiConfig {
        stopping: Arc::new(true.into()),
        ..ApiConfig::default()
    });
    seen.insert(code("GET", "/ready", &stopping.get("/ready").await));

    let untyped = Request::post("/predict").body(Body::from("{}"));
    let refused = app.send(untyped.expect("a valid request")).await;
    seen.insert(code("POST", "/predict", &refused));
    let broken = stream::iter([Ok("{\"value\""), Err(std::io::Error::other("reset"))]);
    let request = Request::post("/predict")
        .header(header::CONTENT_TYPE, JSON)
        .body(Body::from_stream(broken));
    let refused = app.send(request.expect("a valid request")).await;
    seen.insert(code("POST", "/predict", &refused));

    let body = r#"{"samples": [1, 2, 3], "n_estimators": 1000}"#;
    let path = "/models/busy/retrain";
    let retrains = join_all((0..40).map(|_| app.post(path, body))).await;
    let refused = retrains.iter().find(|response| response.status == 503);
    seen.insert(code("POST", path, refused.expect("more than may wait")));

    app.post("/models/damaged/retrain", r#"{"samples": [1, 2]}"#)
        .await
        .ok();
    app.post("/models/damaged/retrain", r#"{"samples": [1, 2]}"#)
        .await
        .ok();
    write(&folder.version("damaged", 1), b"no model");
    let path = "/models/damaged/rollback";
    let rollback = app.post(path, r#"{"version": 1}"#).await;
    seen.insert(code("POST", path, &rollback));

    // Padded, these trees take more memory than the server may use.
    let config = RegistryConfig {
        memory_limit: "32MiB".parse().expect("a size"),
        ..RegistryConfig::new(params())
    };
    let first = DefaultModel::LoadOrTrain(Box::new(|| training_data::synthetic(42)));
    let small = Registry::open(Store::in_memory(), config, first);
    let large = json!({
        "samples": samples(&readings(1, 300, 2)), "n_estimators": 2000, "max_samples": 300
    });
    let app_of_32_mib = App::of(small.expect("it opens"));
    let path = "/models/large/retrain";
    let refused = app_of_32_mib.post(path, large.to_string()).await;
    seen.insert(code("POST", path, &refused));

    std::fs::rename(folder.path(), folder.away()).expect("moved away");
    let failed = app.post("/retrain", r#"{"samples": [1, 2]}"#).await;
    seen.insert(code("POST", "/retrain", &failed));

    assert_eq!(seen, documented());
}

/// The rows `| code | status | …` of the table of codes.
pub(crate) fn documented() -> BTreeSet<(String, u16)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/http-api.md");
    let text = std::fs::read_to_string(path).expect("the document");
    text.lines()
        .skip_while(|line| !line.starts_with("| code | status |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.split('|').skip(1).map(str::trim);
            let code = cells.next().expect("a code").trim_matches('`').to_owned();
            let status = cells.next().expect("a status").parse();
            (code, status.expect("a status code"))
        })
        .collect()
}
