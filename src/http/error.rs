//! Error responses: a status and `{"error": "…", "code": "…", …}`.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::place::Place;
use crate::detector::DetectorError;
use crate::forest::{FitError, ParamsError};
use crate::registry::{ChangeError, LoadError};

/// When to try again where there was no memory: trainings, which take most of it, last some seconds.
const RETRY_MEMORY_AFTER: Duration = Duration::from_secs(2);

/// What kind of error a response reports. Programs match on these words, so they never change; the
/// text beside them may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ErrorCode {
    /// The body is not JSON, or not UTF-8 or UTF-16.
    NotJson,
    /// The body ended before its announced length.
    IncompleteBody,
    /// A number is beyond the range of a double, or text reads as infinity or NaN.
    NotFinite,
    /// A value is of another JSON type than expected.
    WrongType,
    /// A reading has more or fewer values than the model has features.
    WrongWidth,
    /// A field, or a feature of a reading, is missing.
    MissingField,
    /// There is no such field.
    UnknownField,
    /// A value is outside its range.
    OutOfBounds,
    /// Fields contradict each other.
    Conflict,
    /// A list has too few items.
    TooFew,
    /// A list has too many items, or a forest would be too large.
    TooMany,
    /// The training, or the precomputation of the model's scores, would take too long.
    TooCostly,
    /// The body is too large, or a training needs more memory than there may be.
    TooLarge,
    /// The content type is not JSON.
    MediaType,
    /// The request stopped arriving, or came too slowly.
    Timeout,
    /// The request has no Host header, or more than one.
    BadHost,
    /// The request has no valid API key.
    Unauthorized,
    /// The role of the API key does not allow the request.
    Forbidden,
    /// A foreign web page sent the request.
    ForbiddenOrigin,
    /// There is no such path.
    NotFound,
    /// The path does not take this method.
    Method,
    /// A path below `/models` has a percent sign or a double slash.
    BadPath,
    /// The path names no possible model.
    BadName,
    /// There is no such model.
    NoModel,
    /// The model has no such version, or no older one.
    NoVersion,
    /// `default` cannot be deleted.
    DefaultModel,
    /// The version asked for cannot be read.
    Damaged,
    /// Too much work is waiting.
    Busy,
    /// The server is starting or stopping.
    NotReady,
    /// The store is full or does not answer.
    StoreFailed,
    /// The server is at fault.
    Internal,
}

/// When to try again where the server is busy and cannot estimate it. Most such waits end sooner.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error response.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    place: Option<Place>,
    /// In seconds.
    retry_after: Option<u64>,
}

/// The message of an error response, or the cause that only the log shows.
#[derive(Debug, Clone)]
pub(super) struct LoggedError(pub(super) String);

impl ApiError {
    fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            place: None,
            retry_after: None,
        }
    }

    /// Names the place in the body that is at fault.
    pub(super) fn at(mut self, place: impl Into<Place>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Says when to try again, in whole seconds, at least one.
    fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time.as_millis().div_ceil(1000).clamp(1, u64::MAX.into()) as u64);
        self
    }

    /// 400: the body is not JSON, or has a number that is not finite.
    pub(super) fn malformed(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 422: the body is JSON, but not of the expected shape or range.
    pub(super) fn unprocessable(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }

    /// 422: `readings` where only readings of one model can be.
    pub(super) fn readings() -> Self {
        let message = "readings belongs to POST /predict, which takes readings of many models; send \
                       value or values here";
        Self::unprocessable(ErrorCode::UnknownField, message).at("readings")
    }

    /// Whether it is [`readings`](Self::readings).
    pub(super) fn is_readings(&self) -> bool {
        self.code == ErrorCode::UnknownField && self.place == Some("readings".into())
    }

    pub(super) fn media_type(got: Option<&HeaderValue>) -> Self {
        let got = match got {
            Some(value) => format!("{:?}", String::from_utf8_lossy(value.as_bytes())),
            None => "none".to_owned(),
        };
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ErrorCode::MediaType,
            format!("the header Content-Type must be application/json, got {got}"),
        )
    }

    pub(super) fn timeout(received: usize, idle: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            ErrorCode::Timeout,
            format!("the body stopped after {received} bytes, and nothing came for {idle:?}"),
        )
    }

    pub(super) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::TooLarge,
            format!("the body must be at most {limit} bytes"),
        )
    }

    /// The rate is in bytes a second.
    pub(super) fn too_slow(received: usize, window: Duration, rate: usize) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            ErrorCode::Timeout,
            format!(
                "the body came too slowly: send at least {rate} bytes a second; {received} bytes \
                 came in the last {window:?}"
            ),
        )
    }

    /// An unfinished body was dropped for another one.
    pub(super) fn evicted(age: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            ErrorCode::Timeout,
            format!(
                "too many large requests arrive or wait at the same time, and this body was not \
                 complete after {:.1} seconds; send it again later, and faster",
                age.as_secs_f64()
            ),
        )
    }

    pub(super) fn too_many_bodies() -> Self {
        Self::busy("too many large requests arrive or wait at the same time; try again later")
    }

    /// 503: what is asked may be done later.
    fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Busy, message)
            .retry_after(RETRY_AFTER)
    }

    /// The memory for unfinished request heads and unread responses is used up.
    pub(crate) fn too_many_connections() -> Self {
        Self::busy("too many unfinished requests; try again later")
    }

    /// A request head did not end in time.
    pub(crate) fn head_timeout(limit: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            ErrorCode::Timeout,
            format!("the request headers must arrive within {limit:?}"),
        )
    }

    pub(super) fn bad_host(got: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::BadHost,
            format!("the request must have one Host header, got {got}"),
        )
    }

    pub(super) fn not_found(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            ErrorCode::NotFound,
            format!("there is no {path:?} here; POST to /predict or /retrain, or GET /models"),
        )
    }

    pub(super) fn bad_path() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::BadPath,
            "a path below /models must have no percent sign and no double slash; the name of a \
             model is of A-Z, a-z, 0-9, '.', '_' and '-'",
        )
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            ErrorCode::Unauthorized,
            "this server needs an API key, in the header Authorization: Bearer KEY",
        )
    }

    pub(super) fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            ErrorCode::Forbidden,
            "this API key has the role read, and the request needs the role all",
        )
    }

    pub(super) fn forbidden_origin() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            ErrorCode::ForbiddenOrigin,
            "web pages of another origin may not change models; the server's --allowed-origins \
             lists the origins that may",
        )
    }

    /// `allowed` lists the methods that the path takes.
    pub(super) fn method_not_allowed(allowed: &str, got: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::Method,
            format!("the method must be {allowed}, got {got}"),
        )
    }

    /// 503: the server is starting or stopping.
    pub(super) fn not_ready(reason: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady, reason)
    }

    /// A fault of the server. The cause goes to the log, not to the client.
    pub(super) fn internal(cause: &str) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Internal,
            cause,
        )
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ParamsError> for ApiError {
    fn from(error: ParamsError) -> Self {
        let field = match error {
            ParamsError::NEstimators(_) => "n_estimators",
            ParamsError::MaxSamplesCount | ParamsError::MaxSamplesFraction(_) => "max_samples",
            ParamsError::Contamination(_) => "contamination",
        };
        Self::unprocessable(ErrorCode::OutOfBounds, error.to_string()).at(field)
    }
}

/// Why readings could not be trained on.
fn training_error(error: DetectorError) -> ApiError {
    let field = match error {
        DetectorError::Fit(FitError::NoSamples { .. } | FitError::NoDistance { rows: 2.. }) => {
            "max_samples"
        }
        _ => "samples",
    };
    let message = match &error {
        DetectorError::Fit(FitError::Params(error)) => return error.clone().into(),
        DetectorError::Overflow { .. } => "samples must be smaller or nearer to each other: their \
                                           mean, or their distance from it, is beyond the range \
                                           of a double"
            .to_owned(),
        DetectorError::Fit(error @ FitError::NoSamples { .. }) => error.to_string(),
        error => format!("{field}: {error}"),
    };
    let code = match error {
        DetectorError::TooShort { .. } => ErrorCode::TooFew,
        _ => ErrorCode::OutOfBounds,
    };
    ApiError::unprocessable(code, message).at(field)
}

impl From<LoadError> for ApiError {
    fn from(error: LoadError) -> Self {
        let unavailable =
            |code| Self::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string());
        match error {
            LoadError::Store { .. } => unavailable(ErrorCode::StoreFailed),
            LoadError::NoMemory(_) | LoadError::Changing(_) => {
                unavailable(ErrorCode::Busy).retry_after(RETRY_MEMORY_AFTER)
            }
            LoadError::Interrupted => Self::internal("a load was interrupted"),
        }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let (status, code) = match error {
            ChangeError::Refused(error) => return training_error(error),
            ChangeError::Load(error) => return error.into(),
            ChangeError::Interrupted => return Self::internal("a training was interrupted"),
            ChangeError::Store(error) => {
                return Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorCode::StoreFailed,
                    format!("the store failed, and what is served is as it was: {error}"),
                );
            }
            ChangeError::Busy { retry_after } => {
                return Self::busy("too many retrains wait already; try again later")
                    .retry_after(retry_after);
            }
            ChangeError::NoMemory => {
                let busy = StatusCode::SERVICE_UNAVAILABLE;
                return Self::new(busy, ErrorCode::Busy, error.to_string())
                    .retry_after(RETRY_MEMORY_AFTER);
            }
            ChangeError::TooLarge { .. } => (StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::TooLarge),
            ChangeError::NoModel(_) => (StatusCode::NOT_FOUND, ErrorCode::NoModel),
            ChangeError::NoVersion { .. } => (StatusCode::NOT_FOUND, ErrorCode::NoVersion),
            ChangeError::NoOlderVersion { .. } => (StatusCode::CONFLICT, ErrorCode::NoVersion),
            ChangeError::Unreadable { .. } => (StatusCode::CONFLICT, ErrorCode::Damaged),
            ChangeError::DefaultStays => (StatusCode::CONFLICT, ErrorCode::DefaultModel),
        };
        let response = Self::new(status, code, error.to_string());
        match error {
            ChangeError::NoVersion { .. } | ChangeError::Unreadable { .. } => {
                response.at("version")
            }
            _ => response,
        }
    }
}

impl ApiError {
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Logs the cause of an internal error that is a part of another response.
    pub(super) fn log_internal(&self, model: Option<&str>) {
        if self.code == ErrorCode::Internal {
            tracing::error!(model, cause = self.message, "a reading of a request failed");
        }
    }

    /// The body of the response.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct ErrorBody<'a> {
            error: &'a str,
            code: ErrorCode,
            #[serde(flatten)]
            place: Option<&'a Place>,
        }
        let body = ErrorBody {
            error: match self.code {
                ErrorCode::Internal => "the server failed at this request; its log says why",
                _ => &self.message,
            },
            code: self.code,
            place: self.place.as_ref(),
        };
        // Strings and numbers always have a JSON form.
        let mut body = serde_json::to_vec(&body).unwrap_or_default();
        body.push(b'\n');
        body
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = (header::CONTENT_TYPE, "application/json");
        let mut response = (self.status, [json], self.to_json()).into_response();
        if let Some(seconds) = self.retry_after {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == ErrorCode::Internal || tracing::enabled!(tracing::Level::DEBUG) {
            response.extensions_mut().insert(LoggedError(self.message));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    // No request provokes it, so it is shown here.
    #[tokio::test]
    async fn an_interrupted_training_is_an_internal_error() {
        let response = ApiError::from(ChangeError::Interrupted).into_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = response.into_body().collect().await.expect("a whole body");
        assert_eq!(
            body.to_bytes(),
            "{\"error\":\"the server failed at this request; its log says why\",\
             \"code\":\"internal\"}\n"
        );
    }
}
