//! Content types, methods, paths and sizes, as server.py treats them; and `GET /models/default`.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use futures_util::{StreamExt, stream};
use iforest_server::http;

use crate::support::data::SplitMix;
use crate::support::http::JSON;
use crate::support::router::App;

#[tokio::test]
async fn content_types_are_checked_as_flask_does() {
    let app = App::new();
    for (content_type, status) in [
        (Some("application/json"), 200),
        (Some("application/json; charset=utf-8"), 200),
        (Some("application/json;charset=latin-1"), 200),
        (Some("APPLICATION/JSON"), 200),
        (Some("application/vnd.x+json"), 200),
        (Some("text/plain"), 415),
        (Some("text/x+json"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
        (Some(""), 415),
        (Some("application/"), 415),
        (None, 415),
    ] {
        for path in ["/predict", "/retrain"] {
            let mut request = Request::post(path);
            if let Some(content_type) = content_type {
                request = request.header(header::CONTENT_TYPE, content_type);
            }
            let body = Body::from(r#"{"value": 2.5, "samples": [1, 2, 3]}"#);
            let answer = app.send(request.body(body).expect("a valid request")).await;
            assert_eq!(answer.status.as_u16(), status, "{path} {content_type:?}");
            if status == 415 {
                let got = content_type.map_or("none".to_owned(), |got| format!("{got:?}"));
                let expected =
                    format!("the header Content-Type must be application/json, got {got}");
                assert_eq!(answer.error(), expected);
            }
        }
    }
}

#[tokio::test]
async fn methods_and_paths_are_those_of_server_py() {
    let app = App::new();
    for path in ["/predict", "/retrain"] {
        for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE"] {
            let name = Method::from_bytes(method.as_bytes()).expect("a method");
            let answer = app.request(name, path).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
            assert_eq!(answer.headers[header::ALLOW], "POST, OPTIONS", "{method}");
            if method != "HEAD" {
                assert_eq!(
                    answer.error(),
                    format!("the method must be POST, got {method}")
                );
            }
        }
        let answer = app.request(Method::OPTIONS, path).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers[header::ALLOW], "POST, OPTIONS");
        assert_eq!(answer.body, "");
        let with_query = app.post(&format!("{path}?x=1"), "{}").await;
        assert_eq!(with_query.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    for path in ["/predict/", "/retrain/", "/Predict", "/", "/nope"] {
        let answer = app.post(path, r#"{"value": 2.5}"#).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(
            answer.error(),
            format!("there is no {path:?} here; POST to /predict or /retrain, or GET /models")
        );
    }
}

// `baseUrl + "/predict"` doubles the slash when the base ends in one, and some clients percent-
// encode letters.
#[tokio::test]
async fn doubled_slashes_and_percent_encoding_are_accepted_as_flask_does() {
    let app = App::new();
    let expected = app.predict(r#"{"value": 2.5}"#).await.body;
    for path in ["//predict", "/%70redict", "//%70redict?x=1"] {
        let answer = app.post(path, r#"{"value": 2.5}"#).await;
        assert_eq!(answer.body, expected, "{path}");
    }
}

// With and without a Content-Length.
#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_the_limit() {
    let app = App::new();
    for (path, limit) in [
        ("/predict", http::MAX_PREDICT_BODY),
        ("/retrain", http::MAX_RETRAIN_BODY),
    ] {
        let sized = Body::from(vec![b' '; limit + 1]);
        let parts = vec![b' '; limit / 2 + 1];
        let parts = [Ok::<_, std::io::Error>(parts.clone()), Ok(parts)];
        let streamed = Body::from_stream(stream::iter(parts));
        for body in [sized, streamed] {
            let answer = app.post(path, body).await;
            assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
            assert_eq!(
                answer.error(),
                format!("the body must be at most {limit} bytes")
            );
        }
    }
}

// The gauge of the dashboard takes its limits from here. Each limit is the last normal reading on
// its side.
#[tokio::test]
async fn normal_ranges_are_exact_to_the_last_digit() {
    let app = App::new();
    let answer = app.get("/models/default").await;
    assert_eq!(answer.status, StatusCode::OK);
    let model: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    for (field, expected) in [
        ("name", serde_json::json!("default")),
        ("features", 1.into()),
        ("samples_used", 500.into()),
        ("contamination", 0.05.into()),
        ("n_estimators", 100.into()),
        ("max_samples", 256.into()),
        ("random_state", 42.into()),
    ] {
        assert_eq!(model[field], expected, "{field}");
    }
    assert!(model["threshold"].as_f64().expect("a number").abs() < 1e-9);
    let trained_at = model["trained_at"].as_str().expect("a time");
    assert_eq!(
        trained_at.len(),
        "2026-11-23T02:00:00Z".len(),
        "{trained_at}"
    );
    let ranges = model["normal_ranges"].as_array().expect("ranges");
    assert!(!ranges.is_empty());
    for range in ranges {
        for (end, outwards) in [(0, -1i64), (1, 1)] {
            let limit = range[end].as_f64().expect("this model has both limits");
            let beyond = f64::from_bits(limit.to_bits().wrapping_add_signed(outwards));
            for (value, normal) in [(limit, true), (beyond, false)] {
                let answer = app.predict(&format!("{{\"value\":{value:?}}}")).await;
                assert_eq!(
                    answer.body.contains("Normal"),
                    normal,
                    "{value:?} of {range}"
                );
            }
        }
    }
    // A model that calls everything normal has one range without limits.
    app.post("/retrain", r#"{"samples": [2, 2, 2]}"#).await;
    let answer = app.get("/models/default").await;
    assert!(
        answer.body.contains("\"normal_ranges\":[[null,null]],"),
        "{}",
        answer.body
    );

    let wrong = app.request(Method::POST, "/models/default").await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(wrong.error(), "the method must be GET or DELETE, got POST");
}

// Every body gets a response, and the model changes only when the response says so. Bodies are
// valid ones that were cut, doubled and overwritten.
#[tokio::test]
async fn random_bodies_never_cause_a_500_or_change_the_model() {
    let seeds: [&[u8]; 8] = [
        br#"{"value": 2.5}"#,
        br#"{"value": "2.5", "value": -1e3}"#,
        br#"{"samples": [1, 2.5, "3", true]}"#,
        br#"{"samples": [[1, 2], [3, 4]], "value": [null, "\u00e9\n"]}"#,
        br#"[{"value": 1}, 2, "three"]"#,
        "{\"value\": \"٣\", \"é\": 1}".as_bytes(),
        b"\xff\xfe{\x00\"\x00v\x00",
        b"",
    ];
    let interesting = b"{}[]\",:.-+eE0123456789 \\u\0\xff\xfe\xefntf_";
    let app = App::new();
    let mut random = SplitMix(3);
    let mut expected = app.predict(r#"{"value": 2.5}"#).await.body;
    let mut refused = 0;
    for _ in 0..6000 {
        let mut body = seeds[random.next() as usize % seeds.len()].to_vec();
        for _ in 0..random.next() % 6 {
            let at = random.next() as usize % (body.len() + 1);
            match random.next() % 4 {
                0 => body.truncate(at),
                1 => body.extend_from_within(at..),
                2 => body.insert(at, interesting[random.next() as usize % interesting.len()]),
                _ => {
                    if let Some(byte) = body.get_mut(at) {
                        *byte = random.next() as u8;
                    }
                }
            }
        }
        let path = ["/predict", "/retrain"][random.next() as usize % 2];
        let answer = app.post(path, body.clone()).await;
        let shown = String::from_utf8_lossy(&body);
        match answer.status.as_u16() {
            200 => {
                if path == "/retrain" {
                    expected = app.predict(r#"{"value": 2.5}"#).await.body;
                }
            }
            400 | 422 => {
                answer.error();
                refused += 1;
            }
            other => panic!("{other} for {shown}"),
        }
        let now = app.predict(r#"{"value": 2.5}"#).await.body;
        assert_eq!(now, expected, "after {path} {shown}");
    }
    assert!(refused > 1000 && refused < 5900, "{refused}");
}

// Memory for bodies is bounded, however many clients send them. Those that stall make room.
#[tokio::test]
async fn bodies_that_find_no_memory_are_refused() {
    let app = App::with_body_budget(100 * 1024);
    let body = |length: usize| format!("{{\"samples\": [1, 2, 3]{}}}", " ".repeat(length));
    let stalled = stream::iter([Ok::<_, std::io::Error>(body(50 * 1024))]);
    let stalled = Request::post("/retrain")
        .header(header::CONTENT_TYPE, JSON)
        .body(Body::from_stream(stalled.chain(stream::pending())));
    let stalled = tokio::spawn({
        let app = app.clone();
        async move { app.send(stalled.expect("a valid request")).await }
    });
    tokio::task::yield_now().await;

    let busy = app.post("/retrain", body(60 * 1024)).await;
    assert_eq!(busy.status, 503, "{busy:?}");
    assert_eq!(busy.json()["code"], "busy");
    assert_eq!(busy.headers[header::RETRY_AFTER], "1");
    assert!(busy.error().contains("try again"), "{busy:?}");
    app.post("/predict", r#"{"value": 2.5}"#).await.ok();
    let never = app.post("/retrain", body(200 * 1024)).await;
    assert_eq!(never.status, 413, "{never:?}");

    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    app.post("/retrain", body(60 * 1024)).await.ok();
    let evicted = stalled.await.expect("no panic");
    assert_eq!(evicted.status, 408, "{evicted:?}");
    assert_eq!(evicted.json()["code"], "timeout");
}
