//! Request bodies, on any bytes: the answer is never a server error, also not for one of many readings,
//! and one that is not 200 leaves the model as it was.
//!
//! The first byte chooses the path.

#![no_main]

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use iforest_server::forest::IsolationForest;
use iforest_server::http::{Api, ApiConfig};
use iforest_server::registry::Registry;
use iforest_server::training_data;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

const PATHS: [&str; 7] = [
    "/predict",
    "/retrain",
    "/models/named/predict",
    "/models/named/retrain",
    "/models/new/retrain",
    "/models/named/rollback",
    "/models/windowed/predict",
];

const NAMED: &str = r#"{"samples": [[1, 2], [2, 1]], "feature_names": ["a", "b"], "n_estimators": 2}"#;

struct App {
    runtime: Runtime,
    api: Api,
}

impl App {
    fn new() -> Self {
        let params = IsolationForest::params().n_estimators(2).random_state(1);
        let registry = Registry::train(params, training_data::synthetic(1)).expect("it trains");
        let app = Self {
            runtime: Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
            api: Api::new(Arc::new(registry), ApiConfig::default()),
        };
        let (status, _) = app.post("/models/named/retrain", NAMED.as_bytes());
        assert_eq!(status, StatusCode::OK);
        let samples: Vec<String> = (0..60)
            .map(|i| format!("[{}, {}]", i * 7 % 11, i * i % 13))
            .collect();
        let windowed = format!(
            r#"{{"samples": [{}], "window": 2, "n_estimators": 2}}"#,
            samples.join(", ")
        );
        let (status, _) = app.post("/models/windowed/retrain", windowed.as_bytes());
        assert_eq!(status, StatusCode::OK);
        app
    }

    fn post(&self, path: &str, body: &[u8]) -> (StatusCode, Vec<u8>) {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_vec()))
            .expect("a valid request");
        self.runtime.block_on(async {
            let response = self.api.clone().oneshot(request).await;
            let (head, body) = response.expect("infallible").into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes();
            (head.status, body.to_vec())
        })
    }
}

static APP: OnceLock<App> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let app = APP.get_or_init(App::new);
    let path = PATHS[usize::from(*first) % PATHS.len()];
    let question = br#"{"value": [1.5, 1.5]}"#;
    let before = app.post("/models/named/predict", question);
    let (status, answer) = app.post(path, body);
    assert!(!status.is_server_error(), "{path}: {status}");
    assert!(answer.ends_with(b"}\n"), "{path}: not JSON");
    // What a request holds is escaped in the answer, so this is no part of it.
    let internal = br#""code":"internal""#;
    let mut parts = answer.windows(internal.len());
    assert!(!parts.any(|part| part == internal), "{path}: internal");
    if status != StatusCode::OK {
        assert_eq!(app.post("/models/named/predict", question), before, "{path}");
    }
});
