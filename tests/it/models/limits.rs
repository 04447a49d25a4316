//! Limits that keep one request from taking the memory or the time of a gateway.

use axum::http::StatusCode;
use serde_json::json;

use crate::support::data::{readings, samples};
use crate::support::router::App;

// A few bytes of a request must not ask for a forest that fills the memory or takes hours.
#[tokio::test]
async fn the_size_of_a_model_is_limited() {
    let app = App::new();
    let thousand = samples(&readings(6, 1000, 1));
    let names: Vec<_> = (0..1025).map(|i| format!("f{i}")).collect();
    let wide = vec![1.0; 1025];
    for (more, expected) in [
        (
            json!({ "n_estimators": 10_000, "max_samples": 1000 }),
            "must be at most 1000000, got 10000 times 1000",
        ),
        (json!({ "n_estimators": 100_000 }), "got 100000 times 256"),
        (
            json!({ "feature_names": names }),
            "expected a list of 1 to 1024 different names",
        ),
        (
            json!({ "samples": [wide] }),
            "samples[0] must have at most 1024 numbers, got 1025",
        ),
    ] {
        let mut body = json!({ "samples": thousand });
        for (field, value) in more.as_object().expect("an object") {
            body[field] = value.clone();
        }
        let answer = app.post("/models/m/retrain", body.to_string()).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(answer.error().contains(expected), "{}", answer.body);
        assert!(answer.body.len() < 500, "{}", answer.body.len());
    }
    let two_million = vec!["[1,2]"; 2_000_000].join(",");
    let long = format!("{{\"n_estimators\":3900,\"samples\":[{two_million}]}}");
    let answer = app.post("/models/m/retrain", long).await;
    let error = answer.error();
    assert!(error.contains("fewer samples (2000000)"), "{error}");
    // Settings that were allowed for few readings are checked again for many.
    let few = json!({ "samples": [1, 2, 3], "n_estimators": 10_000, "max_samples": 1.0 });
    app.post("/models/default/retrain", few.to_string())
        .await
        .ok_json();
    let many = json!({ "samples": thousand }).to_string();
    let answer = app.post("/retrain", many).await;
    assert!(
        answer.error().contains("got 10000 times 1000"),
        "{}",
        answer.body
    );
}

// With 1,024 features these readings would take 160 GB.
#[tokio::test]
async fn rows_of_the_wrong_shape_are_refused_before_they_take_memory() {
    let app = App::new();
    let names: Vec<_> = (0..1024).map(|i| format!("f{i}")).collect();
    let ones = vec!["1"; 20_000_000].join(",");
    let names = serde_json::to_string(&names).expect("names");
    let body = format!("{{\"feature_names\":{names},\"samples\":[{ones}]}}");
    let answer = app.post("/models/wide/retrain", body).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let error = answer.error();
    assert!(
        error.starts_with("samples[0] must be a list of 1024 numbers"),
        "{error}"
    );
}
