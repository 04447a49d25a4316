//! `/openapi.json`, the description of the API for programs, and `/docs`, the same for people.
//!
//! Both come from `docs/openapi.json`, which the tests hold to the truth. The page is written from it at
//! the first request.

mod page;

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use self::page::Page;
use super::body::JSON;
use super::error::ApiError;

pub(super) const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

pub(super) async fn document() -> impl IntoResponse {
    ([JSON], DOCUMENT)
}

pub(super) async fn page() -> Response {
    static PAGE: LazyLock<Result<(Bytes, String), String>> = LazyLock::new(|| {
        let document = serde_json::from_str(DOCUMENT).map_err(|error| error.to_string())?;
        let Page { html, policy } = page::render(&document);
        Ok((html.into(), policy))
    });
    match &*PAGE {
        Ok((html, policy)) => {
            let headers = [
                (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                (header::CONTENT_SECURITY_POLICY, policy),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, html.clone()).into_response()
        }
        Err(error) => ApiError::internal(error).into_response(),
    }
}
