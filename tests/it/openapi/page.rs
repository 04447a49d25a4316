//! `/docs`, and `/openapi.json` as it is served.

use std::collections::BTreeSet;

use axum::http::{Method, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use sha2::{Digest, Sha256};

use super::Document;
use crate::support::router::App;

/// The most bytes that the page may have.
const LIMIT: usize = 60_000;

/// All texts between `before` and the next quote.
fn quoted<'a>(html: &'a str, before: &str) -> Vec<&'a str> {
    let parts = html.split(before).skip(1);
    parts.filter_map(|part| part.split('"').next()).collect()
}

#[tokio::test]
async fn the_document_is_served_as_it_is() {
    let response = App::new().get("/openapi.json").await;
    assert_eq!(response.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(response.json(), Document::read().0);
}

// Plants often have no way to the internet, and a page that may load or send nothing leaks nothing.
#[tokio::test]
async fn the_page_is_small_and_whole_and_loads_nothing() {
    let response = App::new().get("/docs").await;
    let html = response.clone().ok();
    assert!(html.len() <= LIMIT, "{} bytes", html.len());
    assert_eq!(
        response.headers[header::CONTENT_TYPE],
        "text/html; charset=utf-8"
    );
    let policy = response.headers[header::CONTENT_SECURITY_POLICY].to_str();
    let policy = policy.expect("text");
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for element in ["style", "script"] {
        let (_, text) = html
            .split_once(&format!("<{element}>"))
            .expect("an element");
        let (text, _) = text.split_once(&format!("</{element}>")).expect("its end");
        // Browsers hash it with line feeds alone.
        let hash = BASE64.encode(Sha256::digest(text.replace("\r\n", "\n")));
        let source = format!("{element}-src 'sha256-{hash}'");
        assert!(policy.contains(&source), "{policy}: {source}");
    }
    assert!(!html.contains(" src="));

    let ids = quoted(&html, " id=\"");
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
    for link in quoted(&html, " href=\"") {
        let target = link.strip_prefix('#');
        assert!(
            target.is_some_and(|id| unique.contains(id))
                || ["openapi.json", "data:,"].contains(&link),
            "{link}"
        );
    }
}

#[tokio::test]
async fn the_page_shows_every_operation_shape_code_and_example() {
    let html = App::new().get("/docs").await.ok();
    let ids: BTreeSet<&str> = quoted(&html, " id=\"").into_iter().collect();
    let document = Document::read();
    for (method, path, operation) in document.operations() {
        let id = operation["operationId"].as_str().expect("text");
        assert!(ids.contains(id), "{id}");
        assert!(
            html.contains(&format!("{method} <code>{path}</code>")),
            "{method} {path}"
        );
    }
    let components = &document.0["components"];
    for (name, _) in super::fields(&components["schemas"]) {
        assert!(ids.contains(name), "{name}");
    }
    for code in components["schemas"]["ErrorCode"]["oneOf"]
        .as_array()
        .expect("a list")
    {
        let code = code["const"].as_str().expect("text");
        assert!(ids.contains(code), "{code}");
    }
    for (name, example) in super::fields(&components["examples"]) {
        let shown = example["value"].to_string();
        let shown = shown
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        assert!(html.contains(&shown), "{name}");
    }
}

#[tokio::test]
async fn head_is_answered_without_a_body() {
    let app = App::new();
    for path in ["/docs", "/openapi.json"] {
        let [get, head] = [app.get(path).await, app.request(Method::HEAD, path).await];
        assert_eq!(head.status, 200);
        assert_eq!(head.body, "");
        let length = |headers: &axum::http::HeaderMap| headers[header::CONTENT_LENGTH].clone();
        assert_eq!(length(&head.headers), length(&get.headers));
    }
}
