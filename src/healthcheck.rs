//! `iforest-server healthcheck`: asks the server on this machine whether it is healthy.

use std::error::Error;
use std::io::{self, Write};
use std::iter::successors;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use iforest_server::escape::escape;
use reqwest::{Client, StatusCode, redirect};

use crate::config::{Config, Serving};

/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) fn run(config: &Config) -> ExitCode {
    match check(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Fails where standard error is closed; the exit code remains.
            let _ = writeln!(io::stderr(), "unhealthy: {}", escape(&problem));
            ExitCode::FAILURE
        }
    }
}

fn check(config: &Config) -> Result<(), String> {
    let Serving { host, port } = &config.serving;
    if *port == 0 {
        return Err("with port 0 only the log of the server says where it listens".to_owned());
    }
    let scheme = if config.security.tls_cert.is_some() {
        "https"
    } else {
        "http"
    };
    let url = format!("{scheme}://{}:{port}/health", own_address(host));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let answer = runtime.block_on(get(&url));
    // The look-up of a name may go on beyond the time-out.
    runtime.shutdown_background();
    match answer {
        Ok(StatusCode::OK) => Ok(()),
        Ok(status) => Err(format!(
            "GET {url}: expected status 200, got {}; does another program listen there?",
            status.as_u16()
        )),
        Err(error) => Err(format!("GET {url}: {}", cause(&error))),
    }
}

async fn get(url: &str) -> reqwest::Result<StatusCode> {
    let client = Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(TIMEOUT);
    #[cfg(any(feature = "cloud", feature = "tls"))]
    let client = {
        // Fails if the process already has a provider, which is then used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // The name in the certificate is that of the plant's network, not that of the loopback
        // interface. Nothing secret is sent, and nothing but a status is believed. To compare with
        // the certificate file would call a server ill that keeps the old certificate because the
        // new one is broken.
        client.tls_danger_accept_invalid_certs(true)
    };
    Ok(client.build()?.get(url).send().await?.status())
}

/// The address of this machine at which a server that listens on `host` answers.
fn own_address(host: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V4(address)) if address.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => "[::1]".to_owned(),
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    }
}

/// The root of an error, since reqwest's own text only repeats the address; and what helps where one
/// side uses TLS and the other does not.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} seconds", TIMEOUT.as_secs());
    }
    let first: &(dyn Error + 'static) = error;
    let causes: Vec<_> = successors(Some(first), |&cause| cause.source()).collect();
    let root = causes.last().unwrap_or(&first);
    if causes.iter().any(|&cause| is_of_http(cause)) {
        return format!(
            "the answer is not HTTP ({root}); if the server has a certificate, name it with --tls-cert and \
             --tls-key"
        );
    }
    if causes.iter().any(|&cause| is_of_tls(cause)) {
        return format!(
            "no TLS connection ({root}); if the server has no certificate, leave out --tls-cert and \
             --tls-key"
        );
    }
    root.to_string()
}

fn is_of_http(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref().is_some_and(hyper::Error::is_parse)
}

/// An I/O error does not name the error within as its source.
#[cfg(any(feature = "cloud", feature = "tls"))]
fn is_of_tls(error: &(dyn Error + 'static)) -> bool {
    let within = error.downcast_ref().and_then(io::Error::get_ref);
    error.is::<rustls::Error>() || within.is_some_and(|error| is_of_tls(error))
}

#[cfg(not(any(feature = "cloud", feature = "tls")))]
fn is_of_tls(_: &(dyn Error + 'static)) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_address_can_be_called() {
        for (host, expected) in [
            ("0.0.0.0", "127.0.0.1"),
            ("::", "[::1]"),
            ("::1", "[::1]"),
            ("10.0.0.7", "10.0.0.7"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(own_address(host), expected);
        }
    }
}
