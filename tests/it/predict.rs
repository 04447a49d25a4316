//! `POST /predict`, as recorded from server.py, and where this server differs on purpose.

use axum::http::{StatusCode, header};

use crate::support::http::JSON;
use crate::support::router::App;

// Recorded: server.py with numpy.random.seed(42) and IForest(contamination=0.05, random_state=42)
// trains on the same 500 readings and answers with the same bytes.
#[tokio::test]
async fn the_first_model_equals_that_of_server_py() {
    let app = App::new();
    let answer = app.predict(r#"{"value": 2.5}"#).await;
    assert_eq!(
        answer.body,
        "{\"anomaly_score\":-0.05813124527712765,\"input_value\":2.5,\"prediction\":0,\
         \"scaled_value\":0.004820167687263519,\"status\":\"Normal Behaviour\"}\n"
    );
    let answer = app.predict(r#"{"value": 9}"#).await;
    assert_eq!(
        answer.body,
        "{\"anomaly_score\":0.0878620643209258,\"input_value\":9.0,\"prediction\":1,\
         \"scaled_value\":4.361540805679029,\"status\":\"Anomaly Detected\"}\n"
    );
}

#[tokio::test]
async fn predict_accepts_what_server_py_accepts() {
    let app = App::new();
    // A body, and the value that the server understood, as Python prints it.
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
        let answer = app.predict(body).await;
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

// Windows PowerShell writes files in UTF-16, and the json module of Python reads it.
#[tokio::test]
async fn bodies_in_utf16_are_accepted() {
    let app = App::new();
    let expected = app.predict(r#"{"value": 2.5}"#).await.body;
    let text = "\u{feff}{\"value\": 2.5}";
    for skip in [0, 1] {
        let units: Vec<u16> = text.encode_utf16().skip(skip).collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        for body in [little, big] {
            let answer = app.post("/predict", body).await;
            assert_eq!(answer.body, expected);
        }
    }
    let odd = app.post("/predict", b"\xff\xfe{\0}".to_vec()).await;
    assert_eq!(odd.status, StatusCode::BAD_REQUEST);
    assert_eq!(odd.error(), "the body is not valid UTF-16");
}

#[tokio::test]
async fn an_invalid_body_is_refused_with_the_field_and_the_value() {
    let app = App::new();
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
        let answer = app.predict(body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
        assert_eq!(answer.error(), error, "{body}");
    }
    let long = format!(r#"{{"value": "{}"}}"#, "x".repeat(1000));
    let shown = app.predict(&long).await.error();
    assert_eq!(
        shown,
        format!("value must be a finite number, got \"{}…", "x".repeat(59))
    );
    let not_utf8 = app
        .post("/predict", b"{\"value\": 2.5, \"a\": \"\xff\"}".to_vec())
        .await;
    assert_eq!(not_utf8.status, StatusCode::BAD_REQUEST);
    assert!(not_utf8.error().starts_with("the body is not UTF-8"));
}

// server.py answers 500 when a scaled value overflows a double; this server names the field.
#[tokio::test]
async fn a_value_too_large_to_scale_is_refused() {
    let app = App::new();
    let narrow = r#"{"samples": [1.0001, 1.0002, 1.0003]}"#;
    app.post("/retrain", narrow).await;
    let answer = app.predict(r#"{"value": 1e308}"#).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let expected = "value must be nearer to the training readings, got 1e308";
    assert_eq!(answer.error(), expected);
}

// Node-RED sends all waiting readings in one request.
#[tokio::test]
async fn a_batch_gets_the_same_answers_as_single_values() {
    let app = App::new();
    let values = ["2.5", "9", "\"0.25\"", "true", "-1e3"];
    let mut expected = Vec::new();
    for value in values {
        let answer = app.predict(&format!("{{\"value\":{value}}}")).await;
        expected.push(answer.body.trim_end().to_owned());
    }
    let body = format!("{{\"values\": [{}]}}", values.join(", "));
    let answer = app.predict(&body).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers[header::CONTENT_TYPE], JSON);
    assert_eq!(
        answer.body,
        format!("{{\"predictions\":[{}]}}\n", expected.join(","))
    );
    let none = app.predict(r#"{"values": []}"#).await;
    assert_eq!(none.body, "{\"predictions\":[]}\n");
    // server.py has value alone, so value wins.
    let both = app.predict(r#"{"values": [1, 2], "value": 2.5}"#).await;
    assert_eq!(both.body.trim_end(), expected[0]);
}

#[tokio::test]
async fn one_invalid_value_refuses_the_batch_with_its_index() {
    let app = App::new();
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
        let answer = app.predict(body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
        assert_eq!(answer.error(), error, "{body}");
    }
    let many = format!("{{\"values\":[{}1]}}", "1,".repeat(10_000));
    let answer = app.predict(&many).await;
    let expected = "values must hold at most 10000 numbers, got 10001";
    assert_eq!(answer.error(), expected);
    app.post("/retrain", r#"{"samples": [1.0001, 1.0002, 1.0003]}"#)
        .await;
    let far = app.predict(r#"{"values": [1, 1e308]}"#).await;
    let expected = "values[1] must be nearer to the training readings, got 1e308";
    assert_eq!(far.error(), expected);
}
