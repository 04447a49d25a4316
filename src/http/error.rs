//! Every refusal as it goes over the wire: a status and `{"error":"…"}`.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::detector::DetectorError;
use crate::registry::ChangeError;

/// A request that gets no answer but an error.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// The body is not JSON, or has a number that is not finite.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The body is JSON, but not of the shape or range that is asked for.
    pub(super) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    pub(super) fn media_type(got: Option<&HeaderValue>) -> Self {
        let got = match got {
            Some(value) => format!("{:?}", String::from_utf8_lossy(value.as_bytes())),
            None => "none".to_owned(),
        };
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("the header Content-Type must be application/json, got {got}"),
        )
    }

    /// The rest of the body does not come.
    pub(super) fn timeout(come: usize, patience: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body stopped after {come} bytes, and nothing came for {patience:?}"),
        )
    }

    pub(super) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body must be at most {limit} bytes"),
        )
    }

    /// More of large bodies is arriving than the server takes.
    pub(super) fn too_many_large() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many large requests arrive at the same time; try again later",
        )
    }

    pub(super) fn not_found(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("there is no {path:?} here; POST to /predict or /retrain, or GET /models"),
        )
    }

    /// `allowed` is what the route takes.
    pub(super) fn method_not_allowed(allowed: &str, got: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("the method must be {allowed}, got {got}"),
        )
    }

    /// A fault of ours. What happened goes to the log, not to the client.
    pub(super) fn internal(cause: &str) -> Self {
        tracing::error!(cause, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the server failed at this request; its log says why",
        )
    }

    /// More retrains wait than the server takes.
    fn busy() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many retrains wait already; try again later",
        )
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let status = match &error {
            ChangeError::Refused(DetectorError::Overflow { .. }) => {
                return Self::unprocessable(
                    "samples must be smaller or nearer to each other: their mean, or their \
                     distance from it, is beyond the range of a double",
                );
            }
            ChangeError::Refused(error) => {
                return Self::unprocessable(format!("samples: {error}"));
            }
            ChangeError::Busy => return Self::busy(),
            ChangeError::Interrupted => return Self::internal("a training was interrupted"),
            ChangeError::Store(error) => {
                return Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("the store failed, and what is served is as it was: {error}"),
                );
            }
            ChangeError::NoModel(_) | ChangeError::NoVersion { .. } => StatusCode::NOT_FOUND,
            ChangeError::NoOlderVersion { .. }
            | ChangeError::Unreadable { .. }
            | ChangeError::DefaultStays => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        tracing::debug!(
            status = self.status.as_u16(),
            error = self.message,
            "refused"
        );
        #[derive(Serialize)]
        struct ErrorBody {
            error: String,
        }
        let body = ErrorBody {
            error: self.message,
        };
        let mut body = serde_json::to_vec(&body).unwrap_or_default();
        body.push(b'\n');
        let json = (header::CONTENT_TYPE, "application/json");
        (self.status, [json], body).into_response()
    }
}
