//! The `Date` header of responses.
//!
//! hyper's own keeps its text until the clock has passed it: set back by years, it would stay in the
//! future for years. And it panics before 1970 and after 9999.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderValue;

/// The year 10000, in seconds since 1970: the header has four digits for the year.
const END: u64 = 253_402_300_800;

thread_local! {
    /// The text of the last response, and the second that it names.
    static CACHED: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
}

/// The present time; `None` where the header cannot express it (RFC 9110, section 6.6.1, lets a
/// server without a clock leave it out).
pub(super) fn now() -> Option<HeaderValue> {
    at(SystemTime::now())
}

fn at(time: SystemTime) -> Option<HeaderValue> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    if seconds >= END {
        return None;
    }
    CACHED.with_borrow_mut(|cached| match cached {
        Some((second, value)) if *second == seconds => Some(value.clone()),
        _ => {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let value = HeaderValue::from_str(&httpdate::fmt_http_date(time)).ok()?;
            *cached = Some((seconds, value.clone()));
            Some(value)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // A gateway without a battery starts in 1970, and jumps when it finds a time server.
    #[test]
    fn the_date_follows_a_clock_that_jumps() {
        let text = |seconds: u64| {
            let value = at(UNIX_EPOCH + Duration::from_secs(seconds))?;
            value.to_str().map(str::to_owned).ok()
        };
        let of_2026 = Some("Tue, 24 Nov 2026 00:00:00 GMT".to_owned());
        assert_eq!(text(0).as_deref(), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
        assert_eq!(text(1_795_478_400), of_2026);
        assert_eq!(
            text(2_714_083_200).as_deref(),
            Some("Mon, 03 Jan 2056 00:00:00 GMT")
        );
        assert_eq!(text(1_795_478_400), of_2026, "set back");
        assert_eq!(
            text(END - 1).as_deref(),
            Some("Fri, 31 Dec 9999 23:59:59 GMT")
        );
        assert_eq!(text(END), None);
        assert_eq!(at(UNIX_EPOCH - Duration::from_secs(1)), None);
    }
}
