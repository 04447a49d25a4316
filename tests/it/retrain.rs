//! `POST /retrain`, as recorded from server.py, and where this server differs on purpose.

use axum::http::{StatusCode, header};

use crate::support::http::JSON;
use crate::support::router::App;

#[tokio::test]
async fn retrain_accepts_what_server_py_accepts() {
    for (samples, used) in [
        ("[1, 2, 3]", 3),
        ("[[1], [2], [3]]", 3),
        ("[[1, 2], [3, 4]]", 4),
        ("[[[1, 2], [3, 4]]]", 4),
        ("5", 1),
        ("\"5\"", 1),
        ("true", 1),
        ("[1]", 1),
        ("[2, 2, 2, 2]", 4),
        (r#"["1", "2", "3"]"#, 3),
        (r#"[" 1 ", "2_0"]"#, 2),
        (r#"[1.5, "2"]"#, 2),
        ("[true, false, true]", 3),
        ("[true, 2.5]", 2),
        ("[123456789012345678901234567890, 1]", 2),
        ("[1e308, -1e308]", 2),
        ("[1e308]", 1),
        ("[5e-324, 0]", 2),
    ] {
        let app = App::new();
        let before = app.predict(r#"{"value": 2.5}"#).await.body;
        let answer = app
            .post("/retrain", format!(r#"{{"samples": {samples}}}"#))
            .await;
        let expected =
            format!("{{\"message\":\"Model retrained successfully\",\"samples_used\":{used}}}\n");
        assert_eq!(answer.body, expected, "{samples}");
        assert_eq!(answer.status, StatusCode::OK, "{samples}");
        assert_eq!(answer.headers[header::CONTENT_TYPE], JSON);
        let after = app.predict(r#"{"value": 2.5}"#).await;
        assert_eq!(after.status, StatusCode::OK, "{samples}: {}", after.body);
        assert_ne!(after.body, before, "{samples}");
    }
    let twice = r#"{"samples": ["a"], "samples": [1, 2, 3]}"#;
    let answer = App::new().post("/retrain", twice).await;
    assert!(
        answer.body.contains("\"samples_used\":3"),
        "{}",
        answer.body
    );
}

// Recorded from server.py after training on one value or on constants.
#[tokio::test]
async fn a_model_trained_on_a_constant_calls_everything_normal_as_server_py_does() {
    let app = App::new();
    for (samples, value, scaled) in [
        ("[1]", "2.5", "1.5"),
        ("5", "2.5", "-2.5"),
        ("[2, 2, 2, 2]", "1000.0", "998.0"),
        ("[1e308]", "2.5", "-1e+308"),
        ("[1.5, \"2\"]", "2.5", "3.0"),
    ] {
        app.post("/retrain", format!(r#"{{"samples": {samples}}}"#))
            .await;
        let answer = app.predict(&format!(r#"{{"value": {value}}}"#)).await;
        let expected = format!(
            "{{\"anomaly_score\":-0.0,\"input_value\":{value},\"prediction\":0,\
             \"scaled_value\":{scaled},\"status\":\"Normal Behaviour\"}}\n"
        );
        assert_eq!(answer.body, expected, "{samples}");
    }
}

#[tokio::test]
async fn an_invalid_retrain_is_refused_with_the_index_and_keeps_the_model() {
    let app = App::new();
    let before = app.predict(r#"{"value": 2.5}"#).await.body;
    let uneven = |got| {
        format!(
            "samples[1] has another shape than what stands before it, got {got}; samples must be a list of numbers"
        )
    };
    let deep = format!("{{\"samples\": {}1{}}}", "[".repeat(65), "]".repeat(65));
    for (body, status, error) in [
        (
            r#"{"samples": [1, null, 3]}"#,
            422,
            "samples[1] must be a finite number, got null",
        ),
        (
            r#"{"samples": [1, NaN, 3]}"#,
            400,
            "the body is not JSON: expected value at line 1 column 17",
        ),
        (
            r#"{"samples": [1, 1e400]}"#,
            400,
            "samples[1] must be a finite number, got 1e400, which is beyond the range of a double",
        ),
        (
            r#"{"samples": ["a"]}"#,
            422,
            "samples[0] must be a finite number, got \"a\"",
        ),
        (
            r#"{"samples": [1, "inf"]}"#,
            422,
            "samples[1] must be a finite number, got \"inf\"",
        ),
        (
            r#"{"samples": []}"#,
            422,
            "samples must hold at least one number, got []",
        ),
        (
            r#"{"samples": [[]]}"#,
            422,
            "samples must hold at least one number, got [[]]",
        ),
        (r#"{"samples": [[1], [2, 3]]}"#, 422, &uneven("[2, 3]")),
        (r#"{"samples": [1, [2]]}"#, 422, &uneven("[2]")),
        (r#"{"samples": [[1], 2]}"#, 422, &uneven("2")),
        (
            r#"{"samples": [[1, 2], [3, {"a": 1}]]}"#,
            422,
            "samples[1][1] must be a finite number, got {\"a\": 1}",
        ),
        (
            r#"{"samples": {"a": 1}}"#,
            422,
            "samples must be a list of numbers, got {\"a\": 1}",
        ),
        (
            r#"{"samples": null}"#,
            422,
            "samples must be a list of numbers, got null",
        ),
        (
            r#"{"samples": [true, "1"]}"#,
            422,
            "samples must not mix text with true and false",
        ),
        (
            "{}",
            422,
            "the field samples is missing; the body must be an object such as {\"samples\": [2.4, 2.5, 2.6]}",
        ),
        (
            r#"{"samples": [1e308, 1e308]}"#,
            422,
            "samples must be smaller or nearer to each other: their mean, or their distance from it, is beyond the range of a double",
        ),
        (
            &deep,
            422,
            "samples must not be nested deeper than 64 arrays",
        ),
    ] {
        let answer = app.post("/retrain", body.to_owned()).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
        assert_eq!(answer.error(), error, "{body}");
        // After some of these server.py answers 500 to every request.
        assert_eq!(
            app.predict(r#"{"value": 2.5}"#).await.body,
            before,
            "{body}"
        );
    }
}

// The first of two retrains takes long to read and to fit, the second is short. Both succeed, and
// the model of the second stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_retrain_does_not_overtake_a_long_one() {
    let app = App::new();
    let long = format!(
        "{{\"samples\":[{}]}}",
        vec!["2.4999999999,7"; 100_000].join(",")
    );
    let first = tokio::spawn({
        let app = app.clone();
        async move { app.post("/retrain", long).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let last = app.post("/retrain", r#"{"samples": [1, 2, 3]}"#).await;
    assert_eq!(last.status, StatusCode::OK);
    let first = first.await.expect("no panic");
    assert!(
        first.body.contains("\"samples_used\":200000"),
        "{}",
        first.body
    );
    let after = app.predict(r#"{"value": 2.5}"#).await.body;
    let alone = App::new();
    alone.post("/retrain", r#"{"samples": [1, 2, 3]}"#).await;
    assert_eq!(after, alone.predict(r#"{"value": 2.5}"#).await.body);
}

// This body exceeds the two megabytes that axum accepts by default.
#[tokio::test]
async fn two_hundred_thousand_readings_are_accepted() {
    let app = App::new();
    let history = vec!["2.4999999999"; 200_000].join(",");
    let answer = app
        .post("/retrain", format!("{{\"samples\":[{history}]}}"))
        .await;
    assert!(
        answer.body.contains("\"samples_used\":200000"),
        "{}",
        answer.body
    );
}
