//! The body of a rollback.

use super::json;
use crate::http::error::ApiError;

/// Parses `{"version": …}`, or an empty body for the version before the served one.
pub(in crate::http) fn parse_rollback(body: &[u8]) -> Result<Option<u64>, ApiError> {
    let text = json::decode(body)?;
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let [version] = json::only_fields(&text, ["version"], r#"{"version": 3}"#)?;
    match version {
        None => Ok(None),
        Some(raw) if raw.get() == "null" => Ok(None),
        Some(raw) => raw.get().parse().map(Some).map_err(|_| {
            let code = json::number_code(raw);
            json::unexpected(code, "version", "expected a whole number", raw)
        }),
    }
}
