//! Request bodies: content type, size limits and time-outs; and JSON responses.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::error::{ApiError, ErrorCode};
use super::limits::{
    BODY_IDLE_TIMEOUT, DRAIN_IDLE_TIMEOUT, DRAIN_TIMEOUT, LARGE_BODY, MAX_DRAINED,
};
use super::state::AppState;

pub(super) const JSON: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/json"),
);

/// A body declared as JSON, not yet parsed, of at most `LIMIT` bytes.
pub(super) struct JsonBody<const LIMIT: usize>(pub(super) Bytes);

impl<const LIMIT: usize> FromRequest<Arc<AppState>> for JsonBody<LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<AppState>) -> Result<Self, ApiError> {
        let (head, mut body) = request.into_parts();
        let rejection = if !is_json(&head.headers) {
            Some(ApiError::media_type(head.headers.get(header::CONTENT_TYPE)))
        } else if content_length(&head.headers).is_some_and(|length| length > LIMIT) {
            Some(ApiError::too_large(LIMIT))
        } else {
            None
        };
        let Some(error) = rejection else {
            return read(&mut body, LIMIT, BODY_IDLE_TIMEOUT, &app.large_bodies)
                .await
                .map(Self);
        };
        // A client that expects 100 Continue has sent nothing yet.
        if !head.headers.contains_key(header::EXPECT) {
            drain(&mut body).await;
        }
        Err(error)
    }
}

/// A body that may be empty, and then needs no content type.
pub(super) struct OptionalJsonBody<const LIMIT: usize>(pub(super) Bytes);

impl<const LIMIT: usize> FromRequest<Arc<AppState>> for OptionalJsonBody<LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<AppState>) -> Result<Self, ApiError> {
        let (head, mut body) = request.into_parts();
        let body = read(&mut body, LIMIT, BODY_IDLE_TIMEOUT, &app.large_bodies).await?;
        if !body.is_empty() && !is_json(&head.headers) {
            return Err(ApiError::media_type(head.headers.get(header::CONTENT_TYPE)));
        }
        Ok(Self(body))
    }
}

/// A JSON response. Like Flask's, it ends in a line feed.
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

fn content_length(headers: &HeaderMap) -> Option<usize> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Reads a body. Nearly every body arrives in one frame, which is returned without a copy.
async fn read(
    body: &mut Body,
    limit: usize,
    idle: Duration,
    large_bodies: &Semaphore,
) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut joined = Vec::new();
    let mut permit = None;
    while !body.is_end_stream() {
        let received = first.len().max(joined.len());
        // Most frames are there already, and need no timer.
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => timeout(idle, body.frame())
                .await
                .map_err(|_| ApiError::timeout(received, idle))?,
        };
        let Some(frame) = frame else {
            break;
        };
        let Ok(data) = frame.map_err(|error| incomplete(&error))?.into_data() else {
            continue;
        };
        let received = received + data.len();
        // A chunked body announces no length, so the limit is checked here as well.
        let accepted = if received > limit {
            Err(ApiError::too_large(limit))
        } else if received > LARGE_BODY {
            reserve(large_bodies, &mut permit, received)
        } else {
            Ok(())
        };
        if let Err(error) = accepted {
            drop((first, joined, permit));
            drain(body).await;
            return Err(error);
        }
        if first.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() {
        first
    } else {
        joined.into()
    })
}

/// Reserves memory for a large body of which `received` bytes have arrived.
fn reserve<'a>(
    large_bodies: &'a Semaphore,
    permit: &mut Option<SemaphorePermit<'a>>,
    received: usize,
) -> Result<(), ApiError> {
    let held = permit.as_ref().map_or(0, SemaphorePermit::num_permits);
    let missing = received.div_ceil(1024).saturating_sub(held);
    let more = large_bodies
        .try_acquire_many(u32::try_from(missing).unwrap_or(u32::MAX))
        .map_err(|_| ApiError::too_many_large_bodies())?;
    match permit {
        Some(permit) => permit.merge(more),
        None => *permit = Some(more),
    }
    Ok(())
}

/// Why a body ended too early. The root cause says most.
fn incomplete(error: &dyn Error) -> ApiError {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let message = format!("the body broke off: {cause}");
    ApiError::malformed(ErrorCode::IncompleteBody, message)
}

/// Reads and drops the rest of a rejected body. Many clients send the whole body before they read
/// the response, and report a broken connection where nobody receives it.
async fn drain(body: &mut Body) {
    let drained = async {
        let mut received = 0;
        while received <= MAX_DRAINED {
            match timeout(DRAIN_IDLE_TIMEOUT, body.frame()).await {
                Ok(Some(Ok(frame))) => received += frame.data_ref().map_or(0, Bytes::len),
                _ => break,
            }
        }
    };
    // At the time-out the response goes out all the same.
    let _ = timeout(DRAIN_TIMEOUT, drained).await;
}

/// Flask's `request.is_json`: `application/json` or `application/…+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    // The usual value needs no parsing.
    if value.eq_ignore_ascii_case("application/json") {
        return true;
    }
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

    // A gateway must get its memory back from clients that vanish in the middle of a body.
    #[tokio::test]
    async fn a_body_that_stops_arriving_times_out() {
        let parts = stream::iter(["{\"value\"", ": 2"].map(Ok::<_, std::io::Error>));
        let mut body = Body::from_stream(parts.chain(stream::pending()));
        let idle = Duration::from_millis(20);
        let result = read(&mut body, 1024, idle, &Semaphore::new(0)).await;
        let error = result.expect_err("a time-out");
        assert_eq!(error, ApiError::timeout(11, idle));
        let body = error.into_response().into_body().collect().await;
        let body = body.expect("a whole body").to_bytes();
        assert!(body.ends_with(b",\"code\":\"timeout\"}\n"), "{body:?}");
    }
}
