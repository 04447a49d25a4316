//! Request bodies: content type, size limits and time-outs; and JSON responses.

use std::error::Error;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Frame;
use serde::Serialize;
use tokio::time::timeout_at;

use super::budget::{BodyBudget, ReceivingBody, Reservation};
use super::error::{ApiError, ErrorCode};
use super::limits::{BODY_PACE, Pace};
use super::state::AppState;

pub(super) const JSON: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/json"),
);

/// A body declared as JSON, not yet parsed, of at most `LIMIT` bytes.
pub(super) struct JsonBody<const LIMIT: usize>(pub(super) ReceivedBody);

impl<const LIMIT: usize> FromRequest<Arc<AppState>> for JsonBody<LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<AppState>) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::media_type(
                request.headers().get(header::CONTENT_TYPE),
            ));
        }
        read(request.into_body(), LIMIT, &BODY_PACE, &app.bodies)
            .await
            .map(Self)
    }
}

/// A body that may be empty, and then needs no content type.
pub(super) struct OptionalJsonBody<const LIMIT: usize>(pub(super) ReceivedBody);

impl<const LIMIT: usize> FromRequest<Arc<AppState>> for OptionalJsonBody<LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<AppState>) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        let body = read(body, LIMIT, &BODY_PACE, &app.bodies).await?;
        if !body.is_empty() && !is_json(&head.headers) {
            return Err(ApiError::media_type(head.headers.get(header::CONTENT_TYPE)));
        }
        Ok(Self(body))
    }
}

/// The bytes of a body, and the memory reserved for them, if any.
pub(super) struct ReceivedBody {
    bytes: Bytes,
    reservation: Option<Reservation>,
}

impl ReceivedBody {
    /// Reserves memory for a body that has to wait. It is reserved as long as this lives.
    pub(super) fn reserved(mut self, budget: &BodyBudget) -> Result<Self, ApiError> {
        if self.reservation.is_none() {
            self.reservation = Some(budget.reserve(self.bytes.len())?);
        }
        Ok(self)
    }
}

impl Deref for ReceivedBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
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

/// Reads a body. Nearly every body arrives in one frame, which is returned without a copy, and
/// needs no timer and no reservation.
async fn read(
    mut body: Body,
    limit: usize,
    pace: &Pace,
    budget: &BodyBudget,
) -> Result<ReceivedBody, ApiError> {
    let limit = limit.min(budget.largest_body());
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(ApiError::too_large(limit));
    }
    let longest = announced.map_or(limit, |length| length as usize);
    let mut first = Bytes::new();
    let mut receiving: Option<ReceivingBody> = None;
    let mut received = 0;
    let mut clock = None;
    while !body.is_end_stream() {
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => {
                if receiving.is_none() && received > 0 {
                    receiving = Some(receive(budget, &mut first, longest)?);
                }
                let clock = clock.get_or_insert_with(|| Clock::new(pace, received));
                // Boxed, so that the usual request does not carry the state of this one.
                Box::pin(clock.frame(&mut body, received, receiving.as_ref())).await?
            }
        };
        let Some(frame) = frame else {
            break;
        };
        let Ok(data) = frame.map_err(|error| incomplete_body(&error))?.into_data() else {
            continue;
        };
        received += data.len();
        // A chunked body announces no length, so the limit is checked here as well.
        if received > limit {
            return Err(ApiError::too_large(limit));
        }
        match &mut receiving {
            None if first.is_empty() => first = data,
            None => {
                let begun = receive(budget, &mut first, longest)?;
                begun.append(&data, longest)?;
                receiving = Some(begun);
            }
            Some(receiving) => receiving.append(&data, longest)?,
        }
    }
    let (bytes, reservation) = match receiving {
        None => (first, None),
        Some(receiving) => {
            let (bytes, reservation) = receiving.finish()?;
            (bytes.into(), Some(reservation))
        }
    };
    Ok(ReceivedBody { bytes, reservation })
}

/// Begins to receive a body of which the first frame is there.
fn receive(
    budget: &BodyBudget,
    first: &mut Bytes,
    longest: usize,
) -> Result<ReceivingBody, ApiError> {
    let receiving = budget.receive()?;
    receiving.append(&std::mem::take(first), longest)?;
    Ok(receiving)
}

/// Watches over the pace of a body.
struct Clock<'a> {
    pace: &'a Pace,
    window_started: Instant,
    /// How much had arrived by then.
    window_received: usize,
}

impl<'a> Clock<'a> {
    fn new(pace: &'a Pace, received: usize) -> Self {
        Self {
            pace,
            window_started: Instant::now(),
            window_received: received,
        }
    }

    /// Waits for the next frame.
    async fn frame(
        &mut self,
        body: &mut Body,
        received: usize,
        receiving: Option<&ReceivingBody>,
    ) -> Result<Option<Result<Frame<Bytes>, axum::Error>>, ApiError> {
        let Pace { idle, window, rate } = *self.pace;
        let idle_end = Instant::now() + idle;
        loop {
            let window_end = self.window_started + window;
            let waited = timeout_at(idle_end.min(window_end).into(), async {
                match receiving {
                    None => Ok(body.frame().await),
                    Some(receiving) => tokio::select! {
                        frame = body.frame() => Ok(frame),
                        error = receiving.evicted() => Err(error),
                    },
                }
            });
            if let Ok(frame) = waited.await {
                return frame;
            }
            if window_end <= idle_end {
                let came = received - self.window_received;
                if came == 0 {
                    return Err(ApiError::timeout(received, window));
                }
                if (came as f64) < window.as_secs_f64() * rate as f64 {
                    return Err(ApiError::too_slow(came, window, rate));
                }
                self.window_started = window_end;
                self.window_received = received;
            } else {
                return Err(ApiError::timeout(received, idle));
            }
        }
    }
}

/// Why a body ended too early. The root cause says most.
fn incomplete_body(error: &dyn Error) -> ApiError {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let message = format!("the body broke off: {cause}");
    ApiError::malformed(ErrorCode::IncompleteBody, message)
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
    use std::time::Duration;

    use futures_util::{Stream, StreamExt, stream};

    use super::*;

    const PACE: Pace = Pace {
        idle: Duration::from_millis(20),
        window: Duration::from_millis(100),
        rate: 1024,
    };

    type Part = Result<&'static str, std::io::Error>;

    async fn read_all(parts: impl Stream<Item = Part> + Send + 'static) -> Result<(), ApiError> {
        let body = Body::from_stream(parts);
        let read = read(body, 1024, &PACE, &BodyBudget::new(1 << 20)).await;
        read.map(|body| assert_eq!(&*body, b"{\"value\": 2}"))
    }

    // A gateway must get its memory back from clients that vanish in the middle of a body.
    #[tokio::test]
    async fn a_body_that_stops_arriving_times_out() {
        let parts = stream::iter(["{\"value\"", ": 2"].map(Ok));
        let result = read_all(parts.chain(stream::pending())).await;
        assert_eq!(result, Err(ApiError::timeout(11, PACE.idle)));
        let error = ApiError::timeout(11, PACE.idle).to_json();
        assert!(error.ends_with(b",\"code\":\"timeout\"}\n"));
        let result = read_all(stream::pending()).await;
        assert_eq!(result, Err(ApiError::timeout(0, PACE.idle)));
    }

    // Nor may a client that sends a byte now and then keep it for hours.
    #[tokio::test]
    async fn a_body_that_arrives_too_slowly_times_out() {
        let parts = stream::iter("{\"value\": 2}      ".as_bytes().chunks(1));
        let parts = parts.then(|part| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(std::str::from_utf8(part).expect("text"))
        });
        let error = read_all(parts).await.expect_err("it takes 180 ms");
        assert!(error.to_string().contains("too slowly"), "{error}");
        assert!(error.to_string().contains("1024 bytes a second"), "{error}");
    }
}
