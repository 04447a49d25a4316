//! Whether a web page may change models.
//!
//! A browser sends the requests of any web page to any address, and names the page's origin in
//! `Origin` and `Sec-Fetch-Site`. Programs send neither header, and are not checked.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use thiserror::Error;
use url::Url;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The origin of a web page, such as `https://scada.example:8443`, as browsers send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

/// A text that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected an origin such as https://scada.example or http://10.0.0.7:1880")]
pub struct OriginError;

impl Origin {
    /// The value of the header `Origin`.
    pub(super) fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let url = Url::parse(text.trim()).map_err(|_| OriginError)?;
        let is_origin = matches!(url.scheme(), "http" | "https")
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !is_origin {
            return Err(OriginError);
        }
        HeaderValue::try_from(url.origin().ascii_serialization())
            .map(Self)
            .map_err(|_| OriginError)
    }
}

/// Decides which pages may change models.
#[derive(Debug)]
pub(super) struct OriginCheck {
    allowed: Vec<Origin>,
    machine: Option<String>,
}

impl OriginCheck {
    pub(super) fn new(allowed: Vec<Origin>) -> Self {
        let machine = machine_name();
        Self { allowed, machine }
    }

    /// Whether a request comes from a program, from an allowed origin, or from this server's own
    /// origin.
    ///
    /// A page can give its own host name this machine's address (DNS rebinding), and then its origin
    /// is the request's host. So the host must be a name that no page can have: an IP address,
    /// `localhost` or the name of this machine.
    pub(super) fn allows(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(origin), None) => {
                self.allowed.iter().any(|allowed| allowed.0 == *origin)
                    || self.is_own(origin, headers, uri)
            }
            (None, _) => {
                let mut sites = headers.get_all(SEC_FETCH_SITE).iter().peekable();
                // Browsers send Origin with all that changes anything. If a proxy removed it, the
                // browser's own verdict counts, which rebinding deceives, and so does the host.
                sites.peek().is_none()
                    || (sites.all(|site| site == "same-origin" || site == "none")
                        && host(headers, uri).is_some_and(|host| self.is_trusted(host.host())))
            }
            (Some(_), Some(_)) => false,
        }
    }

    /// Whether a page's origin is the host of its request. The schemes are not compared: a proxy may
    /// speak TLS for this server.
    fn is_own(&self, origin: &HeaderValue, headers: &HeaderMap, uri: &Uri) -> bool {
        let Some((default_port, origin)) = origin.to_str().ok().and_then(split_origin) else {
            return false;
        };
        let Some(host) = host(headers, uri) else {
            return false;
        };
        let port = |authority: &Authority| authority.port_u16().unwrap_or(default_port);
        host.host().eq_ignore_ascii_case(origin.host())
            && port(&host) == port(&origin)
            && self.is_trusted(host.host())
    }

    fn is_trusted(&self, host: &str) -> bool {
        let is_machine = self.machine.as_deref().is_some_and(|machine| {
            let short = machine.split('.').next().unwrap_or(machine);
            host.eq_ignore_ascii_case(machine)
                || host
                    .strip_suffix(".local")
                    .unwrap_or(host)
                    .eq_ignore_ascii_case(short)
        });
        is_ip_address(host) || host.eq_ignore_ascii_case("localhost") || is_machine
    }
}

/// The default port and the authority of an origin.
fn split_origin(origin: &str) -> Option<(u16, Authority)> {
    let (port, authority) = match origin.split_once("://")? {
        ("http", authority) => (80, authority),
        ("https", authority) => (443, authority),
        _ => return None,
    };
    let authority: Authority = authority.parse().ok()?;
    (!authority.as_str().contains('@')).then_some((port, authority))
}

/// The host that a request is for. One in the request line counts before the header.
fn host(headers: &HeaderMap, uri: &Uri) -> Option<Authority> {
    if let Some(authority) = uri.authority() {
        return Some(authority.clone());
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok()?.parse().ok(),
        _ => None,
    }
}

fn is_ip_address(host: &str) -> bool {
    match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<IpAddr>().is_ok(),
    }
}

/// The name of this machine.
fn machine_name() -> Option<String> {
    #[cfg(unix)]
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").ok()?;
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn allows(headers: &[(&str, &str)]) -> bool {
        let check = OriginCheck {
            allowed: vec!["https://scada.example".parse().expect("an origin")],
            machine: Some("gateway-7.plant.example".to_owned()),
        };
        let mut request = Request::post("/retrain");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a good request").into_parts();
        check.allows(&head.headers, &head.uri)
    }

    #[test]
    fn programs_are_not_checked() {
        assert!(allows(&[("host", "iforest:5000")]));
        assert!(allows(&[("host", "evil.example")]));
        // Node's fetch sends this one.
        assert!(allows(&[("host", "iforest"), ("sec-fetch-mode", "cors")]));
    }

    #[test]
    fn pages_of_this_server_are_allowed_where_no_other_page_can_have_its_name() {
        for (origin, host) in [
            ("http://10.0.0.7:5000", "10.0.0.7:5000"),
            ("http://10.0.0.7", "10.0.0.7"),
            ("http://10.0.0.7", "10.0.0.7:80"),
            ("https://10.0.0.7", "10.0.0.7"),
            ("https://10.0.0.7", "10.0.0.7:443"),
            ("http://[fe80::1]:5000", "[fe80::1]:5000"),
            ("http://localhost:5000", "localhost:5000"),
            ("http://localhost:5000", "LocalHost:5000"),
            ("http://gateway-7.plant.example", "gateway-7.plant.example"),
            ("http://gateway-7", "GATEWAY-7"),
            ("http://gateway-7.local:5000", "gateway-7.local:5000"),
        ] {
            let headers = [("origin", origin), ("host", host)];
            assert!(allows(&headers), "{headers:?}");
        }
    }

    #[test]
    fn other_pages_are_refused() {
        for (origin, host) in [
            // Another page, another port, another scheme's port.
            ("http://evil.example", "10.0.0.7:5000"),
            ("http://localhost:1880", "localhost:5000"),
            ("http://localhost", "localhost:443"),
            // DNS rebinding.
            ("http://evil.example:5000", "evil.example:5000"),
            ("http://10.0.0.7.evil.example", "10.0.0.7.evil.example"),
            ("http://gateway-7.evil.example", "gateway-7.evil.example"),
            ("http://plant.example", "plant.example"),
            ("http://x.localhost", "x.localhost"),
            // Sandboxed pages, files and what is no origin.
            ("null", "localhost:5000"),
            ("", "localhost:5000"),
            ("localhost:5000", "localhost:5000"),
            ("file://localhost", "localhost"),
            ("http://a@localhost", "localhost"),
            ("http://localhost/", "evil.example"),
            // Near misses of the allowed one.
            ("http://scada.example", "10.0.0.7:5000"),
            ("https://scada.example:8443", "10.0.0.7:5000"),
            ("https://scada.example.evil.example", "10.0.0.7:5000"),
        ] {
            let headers = [("origin", origin), ("host", host)];
            assert!(!allows(&headers), "{headers:?}");
        }
        let twice = [
            ("origin", "https://scada.example"),
            ("origin", "http://evil.example"),
            ("host", "localhost"),
        ];
        assert!(!allows(&twice));
        let hosts = [
            ("origin", "http://localhost"),
            ("host", "localhost"),
            ("host", "evil.example"),
        ];
        assert!(!allows(&hosts));
    }

    #[test]
    fn an_allowed_origin_may_call_by_any_host() {
        let origin = ("origin", "https://scada.example");
        assert!(allows(&[origin, ("host", "iforest:5000")]));
        assert!(allows(&[
            origin,
            ("host", "10.0.0.7:5000"),
            ("sec-fetch-site", "cross-site"),
        ]));
    }

    // A proxy may remove Origin.
    #[test]
    fn without_an_origin_the_browsers_verdict_and_the_host_count() {
        for (site, host, allowed) in [
            ("same-origin", "localhost:5000", true),
            ("none", "10.0.0.7", true),
            ("same-origin", "evil.example:5000", false),
            ("same-site", "localhost:5000", false),
            ("cross-site", "localhost:5000", false),
            ("", "localhost:5000", false),
        ] {
            let headers = [("sec-fetch-site", site), ("host", host)];
            assert_eq!(allows(&headers), allowed, "{headers:?}");
        }
        let both = [
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "cross-site"),
            ("host", "localhost"),
        ];
        assert!(!allows(&both));
    }

    #[test]
    fn origins_are_read_as_browsers_send_them() {
        for (text, origin) in [
            ("https://SCADA.example/", "https://scada.example"),
            ("https://scada.example:443", "https://scada.example"),
            (" http://10.0.0.7:1880", "http://10.0.0.7:1880"),
            ("http://[0:0::1]:1880", "http://[::1]:1880"),
        ] {
            let parsed: Origin = text.parse().expect("an origin");
            assert_eq!(parsed.header(), origin);
        }
        for text in [
            "",
            "*",
            "null",
            "scada.example",
            "ftp://a",
            "http://a/b",
            "http://a?b",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(OriginError), "{text}");
        }
    }
}
