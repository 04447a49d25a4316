//! `iforest-server healthcheck`: asks the server on this machine whether it is healthy.

use std::error::Error;
use std::io::{self, Write};
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
            // Where nobody reads it, the exit code says enough.
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
        Ok(status) => Err(format!("GET {url}: the status is {}", status.as_u16())),
        Err(error) => Err(format!("GET {url}: {}", cause(&error))),
    }
}

async fn get(url: &str) -> reqwest::Result<StatusCode> {
    // Fails if the process already has a provider, which is then used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(TIMEOUT)
        // The name in the certificate is that of the plant's network, not that of the loopback
        // interface. Nothing secret is sent, and nothing but a status is believed. To compare with
        // the certificate file would call a server ill that keeps the old certificate because the
        // new one is broken.
        .tls_danger_accept_invalid_certs(true)
        .build()?;
    Ok(client.get(url).send().await?.status())
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

/// The root of an error: reqwest's own text only repeats the address.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} seconds", TIMEOUT.as_secs());
    }
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
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
