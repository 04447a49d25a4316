//! What the server answers, through its router: each row of what was observed on server.py, where
//! this server differs on purpose, and that nothing a client sends gives 500 or changes the model.

mod common;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use common::SplitMix;
use common::router::{Answer, JSON, post, send, server};
use iforest_server::http;

async fn predict(router: &Router, body: &str) -> Answer {
    post(router, "/predict", body.to_owned()).await
}

// Recorded: server.py with numpy.random.seed(42) and IForest(contamination=0.05, random_state=42)
// trains on the same 500 readings, and answers with the same bytes.
#[tokio::test]
#[cfg_attr(
    not(all(target_os = "linux", target_env = "gnu")),
    ignore = "scores are recorded with glibc, see common::RECORDED_SCORES"
)]
async fn the_first_model_is_the_one_of_server_py() {
    let router = server();
    let answer = predict(&router, r#"{"value": 2.5}"#).await;
    assert_eq!(
        answer.body,
        "{\"anomaly_score\":-0.05813124527712765,\"input_value\":2.5,\"prediction\":0,\
         \"scaled_value\":0.004820167687263519,\"status\":\"Normal Behaviour\"}\n"
    );
    let answer = predict(&router, r#"{"value": 9}"#).await;
    assert_eq!(
        answer.body,
        "{\"anomaly_score\":0.0878620643209258,\"input_value\":9.0,\"prediction\":1,\
         \"scaled_value\":4.361540805679029,\"status\":\"Anomaly Detected\"}\n"
    );
}

#[tokio::test]
async fn predict_answers_what_server_py_answers() {
    let router = server();
    // The body, and the value that is judged as Python writes it.
    for (body, value) in [
        (r#"{"value": 2.5}"#, "2.5"),
        (r#"{"value":9}"#, "9.0"),
        (r#"{"value": "2.5"}"#, "2.5"),
        (r#"{"value": " 2.5 "}"#, "2.5"),
        (r#"{"value": "1_000"}"#, "1000.0"),
        (r#"{"value": true}"#, "1.0"),
        (r#"{"value": false}"#, "0.0"),
        (r#"{"value": -0}"#, "0.0"),
        (r#"{"value": -0.0}"#, "-0.0"),
        (r#"{"value": 0.00001}"#, "1e-05"),
        (r#"{"value": 9007199254740993}"#, "9007199254740992.0"),
        (
            r#"{"value": 123456789012345678901234567890}"#,
            "1.2345678901234568e+29",
        ),
        (r#"{"value": 1e39}"#, "1e+39"),
        (r#"{"value": 1e308}"#, "1e+308"),
        (r#"{"value": 2.5, "extra": 1}"#, "2.5"),
        (
            r#"{"extra": {"value": [1, "\ud800"]}, "value": 2.5}"#,
            "2.5",
        ),
        (r#"{"value": 2.5, "value": 9}"#, "9.0"),
        (r#"{"value": "abc", "value": 9}"#, "9.0"),
        (r#"{"v\u0061lue": 9}"#, "9.0"),
        (r#"{"\ud800": 1, "value": 9}"#, "9.0"),
        (" \n{ \"value\" :\t9 }\r\n", "9.0"),
        ("\u{feff}{\"value\": 9}", "9.0"),
    ] {
        let answer = predict(&router, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{body}: {}", answer.body);
        assert_eq!(answer.headers[header::CONTENT_TYPE], JSON, "{body}");
        let keys = [
            "anomaly_score",
            "input_value",
            "prediction",
            "scaled_value",
            "status",
        ];
        let positions: Vec<_> = keys.iter().map(|key| answer.body.find(key)).collect();
        assert!(
            positions.is_sorted() && positions[0].is_some(),
            "{}",
            answer.body
        );
        assert!(
            answer.body.contains(&format!("\"input_value\":{value},")),
            "{}",
            answer.body
        );
        assert!(answer.body.ends_with("\"}\n"), "{}", answer.body);
    }
}

// Windows PowerShell writes files in UTF-16, and Python's json reads it.
#[tokio::test]
async fn utf16_bodies_are_read() {
    let router = server();
    let expected = predict(&router, r#"{"value": 2.5}"#).await.body;
    let text = "\u{feff}{\"value\": 2.5}";
    for skip in [0, 1] {
        let units: Vec<u16> = text.encode_utf16().skip(skip).collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        for body in [little, big] {
            let answer = post(&router, "/predict", body).await;
            assert_eq!(answer.body, expected);
        }
    }
    let odd = post(&router, "/predict", b"\xff\xfe{\0}".to_vec()).await;
    assert_eq!(odd.status, StatusCode::BAD_REQUEST);
    assert_eq!(odd.error(), "the body is not valid UTF-16");
}

#[tokio::test]
async fn predict_refuses_with_the_field_and_what_it_got() {
    let router = server();
    let must_be = "the body must be an object such as {\"value\": 2.5}";
    let missing = format!("the field value is missing; {must_be}");
    for (body, status, error) in [
        ("{}", 422, missing.as_str()),
        (r#"{"Value": 1}"#, 422, missing.as_str()),
        ("[]", 422, &format!("{must_be}, got []")),
        ("3", 422, &format!("{must_be}, got 3")),
        ("\"value\"", 422, &format!("{must_be}, got \"value\"")),
        (
            r#"{"value": null}"#,
            422,
            "value must be a finite number, got null",
        ),
        (
            r#"{"value": [2.5]}"#,
            422,
            "value must be a finite number, got [2.5]",
        ),
        (
            r#"{"value": {"a": 1}}"#,
            422,
            "value must be a finite number, got {\"a\": 1}",
        ),
        (
            r#"{"value": "abc"}"#,
            422,
            "value must be a finite number, got \"abc\"",
        ),
        (
            r#"{"value": "nan"}"#,
            422,
            "value must be a finite number, got \"nan\"",
        ),
        (
            r#"{"value": "inf"}"#,
            422,
            "value must be a finite number, got \"inf\"",
        ),
        (
            r#"{"value": "1e400"}"#,
            422,
            "value must be a finite number, got \"1e400\"",
        ),
        (
            r#"{"value": ""}"#,
            422,
            "value must be a finite number, got \"\"",
        ),
        (
            r#"{"value": "2,5"}"#,
            422,
            "value must be a finite number, got \"2,5\"",
        ),
        (
            r#"{"value": "\ud800"}"#,
            422,
            "value must be a finite number, got \"\\ud800\"",
        ),
        (
            r#"{"value": 1e400}"#,
            400,
            "value must be a finite number, got 1e400, which is beyond the range of a double",
        ),
        (
            r#"{"value": NaN}"#,
            400,
            "the body is not JSON: expected value at line 1 column 11",
        ),
        (
            "",
            400,
            "the body is not JSON: EOF while parsing a value at line 1 column 0",
        ),
        (
            "{bad",
            400,
            "the body is not JSON: key must be a string at line 1 column 2",
        ),
        (
            r#"{"value": 2.5}x"#,
            400,
            "the body is not JSON: trailing characters at line 1 column 15",
        ),
        (
            "3x",
            400,
            "the body is not JSON: trailing characters at line 1 column 2",
        ),
    ] {
        let answer = predict(&router, body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
        assert_eq!(answer.error(), error, "{body}");
    }
    let long = format!(r#"{{"value": "{}"}}"#, "x".repeat(1000));
    let shown = predict(&router, &long).await.error();
    assert_eq!(
        shown,
        format!("value must be a finite number, got \"{}…", "x".repeat(59))
    );
    let not_utf8 = post(
        &router,
        "/predict",
        b"{\"value\": 2.5, \"a\": \"\xff\"}".to_vec(),
    )
    .await;
    assert_eq!(not_utf8.status, StatusCode::BAD_REQUEST);
    assert!(not_utf8.error().starts_with("the body is not UTF-8"));
}

#[tokio::test]
async fn content_types_are_judged_as_by_flask() {
    let router = server();
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
            let answer = send(&router, request.body(body).expect("a good request")).await;
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
    let router = server();
    for path in ["/predict", "/retrain"] {
        for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE"] {
            let request = Request::builder()
                .method(Method::from_bytes(method.as_bytes()).expect("a method"))
                .uri(path);
            let answer = send(&router, request.body(Body::empty()).expect("good")).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
            assert_eq!(answer.headers[header::ALLOW], "POST, OPTIONS", "{method}");
            if method != "HEAD" {
                assert_eq!(
                    answer.error(),
                    format!("the method must be POST, got {method}")
                );
            }
        }
        let request = Request::options(path).body(Body::empty());
        let answer = send(&router, request.expect("good")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers[header::ALLOW], "POST, OPTIONS");
        assert_eq!(answer.body, "");
        let with_query = post(&router, &format!("{path}?x=1"), "{}").await;
        assert_eq!(with_query.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    for path in ["/predict/", "/retrain/", "/Predict", "/", "/nope"] {
        let answer = post(&router, path, r#"{"value": 2.5}"#).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(
            answer.error(),
            format!("there is no {path:?} here; POST to /predict or /retrain, or GET /models")
        );
    }
}

#[tokio::test]
async fn retrain_answers_what_server_py_answers() {
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
        let router = server();
        let before = predict(&router, r#"{"value": 2.5}"#).await.body;
        let answer = post(&router, "/retrain", format!(r#"{{"samples": {samples}}}"#)).await;
        let expected =
            format!("{{\"message\":\"Model retrained successfully\",\"samples_used\":{used}}}\n");
        assert_eq!(answer.body, expected, "{samples}");
        assert_eq!(answer.status, StatusCode::OK, "{samples}");
        assert_eq!(answer.headers[header::CONTENT_TYPE], JSON);
        let after = predict(&router, r#"{"value": 2.5}"#).await;
        assert_eq!(after.status, StatusCode::OK, "{samples}: {}", after.body);
        assert_ne!(after.body, before, "{samples}");
    }
    let twice = r#"{"samples": ["a"], "samples": [1, 2, 3]}"#;
    let answer = post(&server(), "/retrain", twice).await;
    assert!(
        answer.body.contains("\"samples_used\":3"),
        "{}",
        answer.body
    );
}

// What server.py answers after training on one value or on constants, seen on it.
#[tokio::test]
async fn a_model_of_constants_calls_everything_normal_as_server_py_does() {
    let router = server();
    for (samples, value, scaled) in [
        ("[1]", "2.5", "1.5"),
        ("5", "2.5", "-2.5"),
        ("[2, 2, 2, 2]", "1000.0", "998.0"),
        ("[1e308]", "2.5", "-1e+308"),
        ("[1.5, \"2\"]", "2.5", "3.0"),
    ] {
        post(&router, "/retrain", format!(r#"{{"samples": {samples}}}"#)).await;
        let answer = predict(&router, &format!(r#"{{"value": {value}}}"#)).await;
        let expected = format!(
            "{{\"anomaly_score\":-0.0,\"input_value\":{value},\"prediction\":0,\
             \"scaled_value\":{scaled},\"status\":\"Normal Behaviour\"}}\n"
        );
        assert_eq!(answer.body, expected, "{samples}");
    }
}

#[tokio::test]
async fn retrain_refuses_with_the_place_and_keeps_the_model() {
    let router = server();
    let before = predict(&router, r#"{"value": 2.5}"#).await.body;
    let uneven = |got| {
        format!(
            "samples[1] has another shape than what stands before it, got {got}; samples must be \
             a list of numbers"
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
            "the field samples is missing; the body must be an object such as {\"samples\": \
             [2.4, 2.5, 2.6]}",
        ),
        (
            r#"{"samples": [1e308, 1e308]}"#,
            422,
            "samples must be smaller or nearer to each other: their mean, or their distance from \
             it, is beyond the range of a double",
        ),
        (
            &deep,
            422,
            "samples must not be nested deeper than 64 arrays",
        ),
    ] {
        let answer = post(&router, "/retrain", body.to_owned()).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
        assert_eq!(answer.error(), error, "{body}");
        // server.py answers 500 to everything after some of these.
        assert_eq!(
            predict(&router, r#"{"value": 2.5}"#).await.body,
            before,
            "{body}"
        );
    }
}

// What `baseUrl + "/predict"` gives when the base ends in a slash, and what some clients escape.
#[tokio::test]
async fn paths_spelt_otherwise_are_found_as_by_flask() {
    let router = server();
    let expected = predict(&router, r#"{"value": 2.5}"#).await.body;
    for path in ["//predict", "/%70redict", "//%70redict?x=1"] {
        let answer = post(&router, path, r#"{"value": 2.5}"#).await;
        assert_eq!(answer.body, expected, "{path}");
    }
}

// A scaled value beyond the range of a double is server.py's 500; here it names the field.
#[tokio::test]
async fn a_value_too_far_to_be_scaled_is_refused() {
    let router = server();
    let narrow = r#"{"samples": [1.0001, 1.0002, 1.0003]}"#;
    post(&router, "/retrain", narrow).await;
    let answer = predict(&router, r#"{"value": 1e308}"#).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let expected = "value must be nearer to the training readings, got 1e308";
    assert_eq!(answer.error(), expected);
}

// Bodies of told and untold length.
#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_the_limit() {
    let router = server();
    for (path, limit) in [
        ("/predict", http::MAX_PREDICT_BODY),
        ("/retrain", http::MAX_RETRAIN_BODY),
    ] {
        let told = Body::from(vec![b' '; limit + 1]);
        let parts = vec![b' '; limit / 2 + 1];
        let parts = [Ok::<_, std::io::Error>(parts.clone()), Ok(parts)];
        let untold = Body::from_stream(futures_util::stream::iter(parts));
        for body in [told, untold] {
            let answer = post(&router, path, body).await;
            assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
            assert_eq!(
                answer.error(),
                format!("the body must be at most {limit} bytes")
            );
        }
    }
}

// Two retrains come one after the other: the first is long to read and to fit, the second short.
// Both are answered, and the one asked last stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_retrain_does_not_overtake_a_long_one() {
    let router = server();
    let long = format!(
        "{{\"samples\":[{}]}}",
        vec!["2.4999999999,7"; 100_000].join(",")
    );
    let first = tokio::spawn({
        let router = router.clone();
        async move { post(&router, "/retrain", long).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let last = post(&router, "/retrain", r#"{"samples": [1, 2, 3]}"#).await;
    assert_eq!(last.status, StatusCode::OK);
    let first = first.await.expect("no panic");
    assert!(
        first.body.contains("\"samples_used\":200000"),
        "{}",
        first.body
    );
    let stays = predict(&router, r#"{"value": 2.5}"#).await.body;
    let alone = server();
    post(&alone, "/retrain", r#"{"samples": [1, 2, 3]}"#).await;
    assert_eq!(stays, predict(&alone, r#"{"value": 2.5}"#).await.body);
}

// Node-RED sends all that waits in one request: each answer is the one that the value alone gets.
#[tokio::test]
async fn many_values_are_answered_as_one_by_one() {
    let router = server();
    let values = ["2.5", "9", "\"0.25\"", "true", "-1e3"];
    let mut expected = Vec::new();
    for value in values {
        let answer = predict(&router, &format!("{{\"value\":{value}}}")).await;
        expected.push(answer.body.trim_end().to_owned());
    }
    let body = format!("{{\"values\": [{}]}}", values.join(", "));
    let answer = predict(&router, &body).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers[header::CONTENT_TYPE], JSON);
    assert_eq!(
        answer.body,
        format!("{{\"predictions\":[{}]}}\n", expected.join(","))
    );
    let none = predict(&router, r#"{"values": []}"#).await;
    assert_eq!(none.body, "{\"predictions\":[]}\n");
    // server.py knows value only.
    let both = predict(&router, r#"{"values": [1, 2], "value": 2.5}"#).await;
    assert_eq!(both.body.trim_end(), expected[0]);
}

// One bad value refuses the whole request, and its place is told.
#[tokio::test]
async fn one_bad_value_refuses_many_with_its_index() {
    let router = server();
    for (body, status, error) in [
        (
            r#"{"values": [1, null]}"#,
            422,
            "values[1] must be a finite number, got null",
        ),
        (
            r#"{"values": [[1]]}"#,
            422,
            "values[0] must be a finite number, got [1]",
        ),
        (
            r#"{"values": [1, 2, "abc"]}"#,
            422,
            "values[2] must be a finite number, got \"abc\"",
        ),
        (
            r#"{"values": [1e400]}"#,
            400,
            "values[0] must be a finite number, got 1e400, which is beyond the range of a double",
        ),
        (
            r#"{"values": 5}"#,
            422,
            "values must be a list of numbers, got 5",
        ),
        (
            r#"{"values": [1, NaN]}"#,
            400,
            "the body is not JSON: expected value at line 1 column 16",
        ),
    ] {
        let answer = predict(&router, body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
        assert_eq!(answer.error(), error, "{body}");
    }
    let many = format!("{{\"values\":[{}1]}}", "1,".repeat(10_000));
    let answer = predict(&router, &many).await;
    let expected = "values must hold at most 10000 numbers, got 10001";
    assert_eq!(answer.error(), expected);
    post(
        &router,
        "/retrain",
        r#"{"samples": [1.0001, 1.0002, 1.0003]}"#,
    )
    .await;
    let far = predict(&router, r#"{"values": [1, 1e308]}"#).await;
    let expected = "values[1] must be nearer to the training readings, got 1e308";
    assert_eq!(far.error(), expected);
}

// The dashboard's gauge takes its limits from here: each is the last reading of its side.
#[tokio::test]
async fn the_model_tells_its_normal_ranges_to_the_last_digit() {
    let router = server();
    let get = || {
        Request::get("/models/default")
            .body(Body::empty())
            .expect("good")
    };
    let answer = send(&router, get()).await;
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
            let limit = range[end]
                .as_f64()
                .expect("this model alarms on both sides");
            let beyond = f64::from_bits(limit.to_bits().wrapping_add_signed(outwards));
            for (value, normal) in [(limit, true), (beyond, false)] {
                let answer = predict(&router, &format!("{{\"value\":{value:?}}}")).await;
                assert_eq!(
                    answer.body.contains("Normal"),
                    normal,
                    "{value:?} of {range}"
                );
            }
        }
    }
    // A model that calls everything normal has one range without ends.
    post(&router, "/retrain", r#"{"samples": [2, 2, 2]}"#).await;
    let answer = send(&router, get()).await;
    assert!(
        answer.body.contains("\"normal_ranges\":[[null,null]],"),
        "{}",
        answer.body
    );

    let request = Request::post("/models/default").body(Body::empty());
    let wrong = send(&router, request.expect("good")).await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(wrong.error(), "the method must be GET or DELETE, got POST");
}

// Two hundred thousand readings are past the two megabytes that axum reads by default.
#[tokio::test]
async fn a_long_history_is_accepted() {
    let router = server();
    let history = vec!["2.4999999999"; 200_000].join(",");
    let answer = post(&router, "/retrain", format!("{{\"samples\":[{history}]}}")).await;
    assert!(
        answer.body.contains("\"samples_used\":200000"),
        "{}",
        answer.body
    );
}

// Whatever comes as a body, the server has an answer, and the model is as before unless the answer
// says that it was retrained. Bodies are made by cutting, doubling and overwriting good ones.
#[tokio::test]
async fn any_bytes_as_a_body_never_give_500_nor_change_the_model() {
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
    let router = server();
    let mut random = SplitMix(3);
    let mut expected = predict(&router, r#"{"value": 2.5}"#).await.body;
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
        let answer = post(&router, path, body.clone()).await;
        let shown = String::from_utf8_lossy(&body);
        match answer.status.as_u16() {
            200 => {
                if path == "/retrain" {
                    expected = predict(&router, r#"{"value": 2.5}"#).await.body;
                }
            }
            400 | 422 => {
                answer.error();
                refused += 1;
            }
            other => panic!("{other} for {shown}"),
        }
        let now = predict(&router, r#"{"value": 2.5}"#).await.body;
        assert_eq!(now, expected, "after {path} {shown}");
    }
    assert!(refused > 1000 && refused < 5900, "{refused}");
}
