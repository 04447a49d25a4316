//! The OpenAPI document against the server: its operations, its examples, and the page that shows it.

mod document;
mod page;

use std::collections::BTreeSet;

use serde_json::{Value, json};

pub(crate) use self::document::Document;
use self::document::fields;
use crate::error_codes::documented;
use crate::support::http::{self, Response};
use crate::support::router::App;
use crate::support::server::Server;

/// All examples of requests, in an order in which each succeeds on a new server.
const STORY: &str = "
    POST /predict reading
    POST /predict readings
    POST /predict models
    POST /models/{name}/retrain features
    POST /models/{name}/predict features
    POST /models/{name}/retrain window
    POST /models/{name}/predict window
    POST /models/{name}/predict whole_window
    GET /models models
    GET /models/{name} model
    SEND all errors
    POST /models/{name}/retrain again
    POST /models/{name}/rollback version
    GET /models/{name}/versions model
    DELETE /models/{name} model
    POST /retrain readings
    GET /health health
    GET /ready ready
    GET /version version";

/// Stands for the examples of errors.
const ERRORS: Step = ("SEND", "all", "errors");

/// A method, a path, and the name of an example.
type Step = (&'static str, &'static str, &'static str);

fn story() -> impl Iterator<Item = Step> {
    STORY.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?, words.next()?))
    })
}

/// The options that make the answers those of the examples.
const OPTIONS: [&str; 4] = ["--random-state", "42", "--store", "memory:"];

fn send(
    server: &Server,
    method: &str,
    path: &str,
    body: Option<&str>,
    headers: &Value,
) -> Response {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close");
    if body.is_some() && headers["Content-Type"].is_null() {
        head += "\r\nContent-Type: application/json";
    }
    for (name, value) in fields(headers) {
        head += &format!("\r\n{name}: {}", value.as_str().expect("text"));
    }
    let mut stream = server.connect();
    let body = body.unwrap_or_default();
    http::send(&mut stream, &head, body.as_bytes()).expect("it is sent");
    http::read_last_response(&mut stream).expect("a response")
}

#[test]
fn the_document_is_of_this_release() {
    let document = Document::read();
    assert_eq!(document.0["info"]["version"], env!("CARGO_PKG_VERSION"));
}

// The unit test in src/http/routes.rs compares the paths.
#[test]
fn each_path_takes_the_documented_methods_and_no_others() {
    let document = Document::read();
    let server = Server::start(&OPTIONS);
    for (path, _) in fields(&document.0["paths"]) {
        let operations = document.operations().into_iter();
        let documented: BTreeSet<String> = operations
            .filter(|(_, known, _)| *known == path)
            .map(|(method, ..)| method)
            .collect();
        let path = path.replace("{name}", "some-model");
        // HEAD goes where GET does, and is tested with the page.
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS"] {
            let takes = match method {
                "OPTIONS" => documented.contains("POST"),
                method => documented.contains(method),
            };
            let response = send(&server, method, &path, None, &Value::Null);
            assert_eq!(
                response.status != 405,
                takes,
                "{method} {path}: {response:?}"
            );
            if takes && method == "OPTIONS" {
                continue;
            }
            document.check(method, &path, &response);
            if takes {
                continue;
            }
            let allowed = response.headers["allow"].to_str().expect("text");
            let allowed: BTreeSet<String> = allowed
                .split(',')
                .map(|method| method.trim().to_owned())
                .filter(|method| method != "HEAD" && method != "OPTIONS")
                .collect();
            assert_eq!(allowed, documented, "{method} {path}");
        }
    }
}

#[test]
fn every_example_is_answered_as_the_document_says() {
    let document = Document::read();
    let server = Server::start(&OPTIONS);
    let mut sent = BTreeSet::new();
    for step @ (method, template, name) in story() {
        if step == ERRORS {
            errors(&document, &server);
            continue;
        }
        sent.insert(step);
        let mut operations = document.operations().into_iter();
        let found = operations.find(|(known, path, _)| known == method && *path == template);
        let (_, _, operation) = found.expect("an operation");
        let model = &operation["parameters"][0]["examples"][name]["value"];
        let path = template.replace("{name}", model.as_str().unwrap_or_default());
        let request = &operation["requestBody"]["content"]["application/json"];
        let body = &request["examples"][name]["value"];
        if !body.is_null() {
            document.validate(&path, &request["schema"], body);
        }
        let body = (!body.is_null()).then(|| body.to_string());
        let response = send(&server, method, &path, body.as_deref(), &Value::Null);
        document.check(method, &path, &response);
        let answer = &operation["responses"]["200"]["content"]["application/json"];
        assert_example(&response.ok_json(), &answer["examples"][name]["value"]);
    }
    assert_eq!(sent, examples(&document));
}

/// Sends the examples of errors.
fn errors(document: &Document, server: &Server) {
    let mut sent = 0;
    for (name, example) in fields(&document.0["components"]["examples"]) {
        let request = &example["x-request"];
        if request.is_null() {
            continue;
        }
        let [method, path] = ["method", "path"].map(|key| request[key].as_str().expect("text"));
        let body = request["body"].as_str();
        let response = send(server, method, path, body, &request["headers"]);
        document.check(method, path, &response);
        assert_eq!(response.json(), example["value"], "{name}");
        sent += 1;
    }
    assert!(sent > 20, "{sent}");
}

/// Panics unless the answer is the example, but for times, and for the last digits where the C library
/// is another one.
fn assert_example(answer: &Value, example: &Value) {
    fn without_times(value: &Value) -> Value {
        match value {
            Value::Array(items) => items.iter().map(without_times).collect(),
            Value::Object(fields) => {
                let fields = fields.iter();
                let kept = fields.filter(|(name, _)| *name != "trained_at");
                kept.map(|(name, value)| (name.clone(), without_times(value)))
                    .collect()
            }
            value => value.clone(),
        }
    }
    // As text, because the order of the fields is promised too.
    let [answer, example] = [answer, example].map(|value| without_times(value).to_string());
    assert_eq!(answer, example);
}

/// All examples of answers of status 200.
fn examples(document: &Document) -> BTreeSet<Step> {
    let mut examples = BTreeSet::new();
    for (method, path, operation) in document.operations() {
        let content = &operation["responses"]["200"]["content"];
        for (_, media) in fields(content) {
            for (name, _) in fields(&media["examples"]) {
                let step = story()
                    .find(|step| *step == (&*method, path, name))
                    .unwrap_or_else(|| panic!("{method} {path}: {name} is not sent"));
                examples.insert(step);
            }
        }
        let requests = &operation["requestBody"]["content"]["application/json"]["examples"];
        let answers = &content["application/json"]["examples"];
        for (name, _) in fields(requests) {
            assert!(
                !answers[name].is_null(),
                "{method} {path}: {name} has no answer"
            );
        }
    }
    examples
}

// Random requests seldom come near a bound with everything else right.
#[tokio::test]
async fn the_server_has_the_documented_ranges_of_settings() {
    let document = Document::read();
    let app = App::new();
    let mut tried = 0;
    let settings = &document.0["components"]["schemas"]["RetrainRequest"]["properties"];
    for (name, setting) in fields(settings) {
        let alternatives = setting["anyOf"].as_array().into_iter().flatten();
        for range in alternatives.chain([setting]) {
            // Each bound, and the next number beyond it.
            let step = if range["type"] == "number" { 1e-6 } else { 1.0 };
            for (key, step) in [
                ("minimum", -step),
                ("exclusiveMinimum", 0.0),
                ("maximum", step),
            ] {
                let Some(bound) = range[key].as_f64().filter(|bound| *bound < f64::MAX) else {
                    continue;
                };
                let number = |value: f64| match value.fract() == 0.0 && range["type"] != "number" {
                    true => format!("{value:.0}"),
                    false => format!("{value:?}"),
                };
                let code = async |value: f64| {
                    let value = number(value);
                    let body = format!("{{\"samples\": [1, 2, 3], \"{name}\": {value}}}");
                    let response = app.post("/models/ranges/retrain", body).await;
                    response.json()["code"].as_str().map(str::to_owned)
                };
                let beyond = code(bound + step).await;
                assert_eq!(
                    beyond.as_deref(),
                    Some("out_of_bounds"),
                    "{name}: beyond {key}"
                );
                if step != 0.0 {
                    let at = code(bound).await;
                    assert_ne!(at.as_deref(), Some("out_of_bounds"), "{name}: at {key}");
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 10, "{tried}");
}

// tests/it/error_codes.rs shows that these are the codes that the server gives.
#[test]
fn every_error_code_has_its_place_and_an_example() {
    let document = Document::read();
    let components = &document.0["components"];
    let mut responses: Vec<(String, &Value)> = vec![(
        "405".to_owned(),
        &components["responses"]["MethodNotAllowed"],
    )];
    for (_, _, operation) in document.operations() {
        for (status, response) in fields(&operation["responses"]) {
            if status != "200" {
                responses.push((status.to_owned(), document.resolve(response)));
            }
        }
    }
    let mut codes = BTreeSet::new();
    let mut used = BTreeSet::new();
    for (status, response) in responses {
        let media = &response["content"]["application/json"];
        let allowed = media["schema"]["properties"]["code"]["enum"].as_array();
        let mut shown = BTreeSet::new();
        for (name, example) in fields(&media["examples"]) {
            used.insert(name);
            let value = &document.resolve(example)["value"];
            document.validate(name, &media["schema"], value);
            shown.insert(value["code"].as_str().expect("a code"));
        }
        for code in allowed.expect("its codes") {
            let code = code.as_str().expect("text");
            assert!(shown.contains(code), "{status} {code} has no example");
            codes.insert((code.to_owned(), status.parse::<u16>().expect("a number")));
        }
    }
    assert_eq!(codes, documented());
    let examples: BTreeSet<&str> = fields(&components["examples"])
        .map(|(name, _)| name)
        .collect();
    assert_eq!(used, examples);
    let listed = components["schemas"]["ErrorCode"]["oneOf"].as_array();
    let listed = listed.expect("a list").iter();
    let listed: BTreeSet<&str> = listed.filter_map(|code| code["const"].as_str()).collect();
    let codes: BTreeSet<&str> = codes.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!(listed, codes);
}

// A field that the document does not know must not pass.
#[test]
#[should_panic(expected = "surprise")]
fn an_undocumented_field_is_noticed() {
    let answer = json!({"message": "Model deleted successfully", "name": "m", "surprise": 1});
    let document = Document::read();
    let schema = document.0["components"]["schemas"]["Deleted"].clone();
    document.validate("an answer", &schema, &answer);
}
