//! `iforest-server healthcheck`: asks the server on this machine whether it is healthy.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use iforest_server::escape::escape;
use ureq::Agent;

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
    match get(&url) {
        Ok(200) => Ok(()),
        Ok(status) => Err(format!(
            "GET {url}: expected status 200, got {status}; does another program listen there?"
        )),
        Err(error) => Err(format!("GET {url}: {}", cause(&error))),
    }
}

/// Returns the status of the answer.
fn get(url: &str) -> Result<u16, ureq::Error> {
    let config = Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(TIMEOUT));
    #[cfg(feature = "tls")]
    let config = {
        // Fails if the process already has a provider, which is then used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // The name in the certificate is that of the plant's network, not that of the loopback
        // interface. Nothing secret is sent, and nothing but a status is believed. To compare with
        // the certificate file would call a server ill that keeps the old certificate because the
        // new one is broken.
        config.tls_config(
            ureq::tls::TlsConfig::builder()
                .disable_verification(true)
                .build(),
        )
    };
    let answer = config.build().new_agent().get(url).call()?;
    Ok(answer.status().as_u16())
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

/// What is wrong, and what helps where one side uses TLS and the other does not.
fn cause(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("no answer within {} seconds", TIMEOUT.as_secs()),
        ureq::Error::Protocol(problem) => format!(
            "the answer is not HTTP ({problem}); if the server has a certificate, name it with --tls-cert and \
             --tls-key"
        ),
        #[cfg(feature = "tls")]
        ureq::Error::Io(problem) if is_of_tls(problem) => format!(
            "no TLS connection ({problem}); if the server has no certificate, leave out --tls-cert and \
             --tls-key"
        ),
        ureq::Error::Io(problem) => problem.to_string(),
        _ => error.to_string(),
    }
}

#[cfg(feature = "tls")]
fn is_of_tls(error: &io::Error) -> bool {
    let within = error.get_ref();
    within.is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
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
