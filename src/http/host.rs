//! The Host header, which HTTP/1.1 asks of every request.

use axum::http::{HeaderMap, Version, header};

use super::error::ApiError;

/// Refuses a request without a Host header, or with two: a proxy in front may take it for another
/// host's (RFC 9112, section 3.2). HTTP/1.0 knows no such header.
pub(crate) fn check_host(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), None) => Ok(()),
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => Err(ApiError::bad_host("none")),
        (Some(_), Some(_)) => Err(ApiError::bad_host("two or more")),
    }
}
