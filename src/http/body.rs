//! Bodies as they come and go: JSON with its content type, and how long it may be.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::time::timeout;

use super::error::ApiError;

pub(super) const JSON: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/json"),
);

/// How long nothing of a body may come. What has come of it takes memory, and where clients are cut
/// off without a word nobody else would ever free that.
const PATIENCE: Duration = Duration::from_secs(30);

/// The body of a request that says it is JSON, not yet read, of at most `LIMIT` bytes.
pub(super) struct JsonBody<const LIMIT: usize>(pub(super) Bytes);

impl<const LIMIT: usize, S: Sync> FromRequest<S> for JsonBody<LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        if !is_json(&head.headers) {
            return Err(ApiError::media_type(head.headers.get(header::CONTENT_TYPE)));
        }
        let told = head.headers.get(header::CONTENT_LENGTH);
        let told = told.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if told.is_some_and(|length| length > LIMIT) {
            return Err(ApiError::too_large(LIMIT));
        }
        Ok(Self(read(body, LIMIT, PATIENCE).await?))
    }
}

/// A body that may be left out, and then need not say what it is.
pub(super) struct MaybeJsonBody<const LIMIT: usize>(pub(super) Bytes);

impl<const LIMIT: usize, S: Sync> FromRequest<S> for MaybeJsonBody<LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        let body = read(body, LIMIT, PATIENCE).await?;
        if !body.is_empty() && !is_json(&head.headers) {
            return Err(ApiError::media_type(head.headers.get(header::CONTENT_TYPE)));
        }
        Ok(Self(body))
    }
}

/// An answer in JSON, ending in a line feed as Flask's.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(mut body) => {
                body.push(b'\n');
                ([JSON], body).into_response()
            }
            Err(error) => ApiError::internal(&error.to_string()).into_response(),
        }
    }
}

/// Reads a body, of which nearly every one comes in one piece.
async fn read(mut body: Body, limit: usize, patience: Duration) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut all = Vec::new();
    loop {
        let come = first.len().max(all.len());
        let frame = timeout(patience, body.frame()).await;
        let Some(frame) = frame.map_err(|_| ApiError::stalled(come, patience))? else {
            break;
        };
        let frame = frame.map_err(|_| ApiError::malformed("the body broke off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
        // The length need not be told beforehand.
        if first.len().max(all.len()) > limit {
            return Err(ApiError::too_large(limit));
        }
    }
    Ok(if all.is_empty() { first } else { all.into() })
}

/// Flask's `request.is_json`: `application/json` or `application/…+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let Some(value) = value.and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or_default().trim();
    let Some((kind, subtype)) = media_type.split_once('/') else {
        return false;
    };
    let suffix = subtype.rsplit_once('+').map(|(_, suffix)| suffix);
    kind.eq_ignore_ascii_case("application")
        && (subtype.eq_ignore_ascii_case("json")
            || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("json")))
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;

    // A gateway must get its memory back from clients that were cut off in the middle.
    #[tokio::test]
    async fn a_body_that_stops_coming_is_given_up() {
        let parts = stream::iter(["{\"value\"", ": 2"].map(Ok::<_, std::io::Error>));
        let body = Body::from_stream(parts.chain(stream::pending()));
        let refused = read(body, 1024, Duration::from_millis(20)).await;
        let expected = ApiError::stalled(11, Duration::from_millis(20));
        assert_eq!(refused, Err(expected));
    }
}
