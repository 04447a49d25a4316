//! Bodies as they come and go: JSON with its content type, and how long it may be.

use std::error::Error;
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

use super::MAX_PREDICT_BODY;
use super::error::ApiError;

pub(super) const JSON: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/json"),
);

/// How long nothing of a body may come. What has come of it takes memory, and where clients are cut
/// off without a word nobody else would ever free that.
const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many KiB of bodies may be arriving at the same time; only [`LARGE_BODY`] ones count.
static ARRIVING_KIB: Semaphore = Semaphore::const_new(256 * 1024);

/// From how many bytes on a body counts. No question is as large, so uploads that crawl keep none
/// from being asked.
const LARGE_BODY: usize = MAX_PREDICT_BODY;

/// For how long a refused body may pause and still be let come, how long that may take in all, and
/// how many bytes of it.
const DRAIN_IDLE_TIMEOUT: Duration = Duration::from_millis(500);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_DRAINED: usize = 64 * 1024 * 1024;

/// The body of a request that says it is JSON, not yet read, of at most `LIMIT` bytes.
pub(super) struct JsonBody<const LIMIT: usize>(pub(super) Bytes);

impl<const LIMIT: usize, S: Sync> FromRequest<S> for JsonBody<LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (head, mut body) = request.into_parts();
        let content_length = head.headers.get(header::CONTENT_LENGTH);
        let content_length =
            content_length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let refused = if !is_json(&head.headers) {
            Some(ApiError::media_type(head.headers.get(header::CONTENT_TYPE)))
        } else if content_length.is_some_and(|length| length > LIMIT) {
            Some(ApiError::too_large(LIMIT))
        } else {
            None
        };
        match refused {
            None => Ok(Self(read(&mut body, LIMIT, BODY_IDLE_TIMEOUT).await?)),
            Some(error) => {
                // Who waits to be content_length to go on has sent nothing yet.
                if !head.headers.contains_key(header::EXPECT) {
                    drain(&mut body).await;
                }
                Err(error)
            }
        }
    }
}

/// A body that may be left out, and then need not say what it is.
pub(super) struct MaybeJsonBody<const LIMIT: usize>(pub(super) Bytes);

impl<const LIMIT: usize, S: Sync> FromRequest<S> for MaybeJsonBody<LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (head, mut body) = request.into_parts();
        let body = read(&mut body, LIMIT, BODY_IDLE_TIMEOUT).await?;
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
async fn read(body: &mut Body, limit: usize, patience: Duration) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut all = Vec::new();
    let mut counted = None;
    while !body.is_end_stream() {
        let come = first.len().max(all.len());
        // Mostly it is there already, and needs no clock.
        let frame = match body.frame().now_or_never() {
            Some(frame) => Ok(frame),
            None => timeout(patience, body.frame()).await,
        };
        let Some(frame) = frame.map_err(|_| ApiError::timeout(come, patience))? else {
            break;
        };
        let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else {
            continue;
        };
        let come = come + data.len();
        // The length need not be content_length beforehand.
        let fits = if come > limit {
            Err(ApiError::too_large(limit))
        } else if come > LARGE_BODY {
            count(&mut counted, come)
        } else {
            Ok(())
        };
        if let Err(error) = fits {
            drop((first, all, counted));
            drain(body).await;
            return Err(error);
        }
        if first.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.into() })
}

/// Counts a body of which so many bytes have come.
fn count(counted: &mut Option<SemaphorePermit<'_>>, come: usize) -> Result<(), ApiError> {
    let before = counted.as_ref().map_or(0, SemaphorePermit::num_permits);
    let more = come.div_ceil(1024).saturating_sub(before);
    let more = ARRIVING_KIB.try_acquire_many(u32::try_from(more).unwrap_or(u32::MAX));
    let more = more.map_err(|_| ApiError::too_many_large())?;
    match counted {
        Some(counted) => counted.merge(more),
        None => *counted = Some(more),
    }
    Ok(())
}

/// Why a body could not be read to its end: the first cause tells most.
fn broken(error: &dyn Error) -> ApiError {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    ApiError::malformed(format!("the body broke off: {cause}"))
}

/// Lets the rest of a refused body come: many clients look for an answer only once they have sent
/// all, and see a broken connection where nobody reads that.
async fn drain(body: &mut Body) {
    let mut come = 0;
    let discarded = async {
        while come <= MAX_DRAINED {
            match timeout(DRAIN_IDLE_TIMEOUT, body.frame()).await {
                Ok(Some(Ok(frame))) => come += frame.data_ref().map_or(0, Bytes::len),
                _ => break,
            }
        }
    };
    let _ = timeout(DRAIN_TIMEOUT, discarded).await;
}

/// Flask's `request.is_json`: `application/json` or `application/…+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let Some(value) = value.and_then(|value| value.to_str().ok()) else {
        return false;
    };
    // What nearly everybody sends.
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

    // A gateway must get its memory back from clients that were cut off in the middle.
    #[tokio::test]
    async fn a_body_that_stops_coming_is_given_up() {
        let parts = stream::iter(["{\"value\"", ": 2"].map(Ok::<_, std::io::Error>));
        let mut body = Body::from_stream(parts.chain(stream::pending()));
        let refused = read(&mut body, 1024, Duration::from_millis(20)).await;
        let expected = ApiError::timeout(11, Duration::from_millis(20));
        assert_eq!(refused, Err(expected));
    }
}
