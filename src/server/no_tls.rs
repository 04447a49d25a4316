//! In place of `tls`, in a program without the feature of this name.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::connections::OpenConnection;
use crate::reload::Reload;

/// A certificate. Without the feature `tls` no value of this type exists.
#[derive(Debug)]
pub struct Tls(Infallible);

/// A certificate that cannot be used.
#[derive(Debug, Error)]
#[error(
    "a certificate is set, but this program is built without TLS; leave out --tls-cert and \
     --tls-key, or use a program that is built with the feature \"tls\""
)]
pub struct TlsError;

impl Tls {
    /// Refuses the certificate.
    ///
    /// # Errors
    ///
    /// Always [`TlsError`].
    pub fn load(_cert: &Path, _key: &Path) -> Result<Self, TlsError> {
        Err(TlsError)
    }
}

impl Reload for Tls {
    fn reload(&self) {
        match self.0 {}
    }
}

#[allow(clippy::unused_async, reason = "as the function that it stands for")]
pub(super) async fn accept(
    stream: TcpStream,
    tls: Option<&Tls>,
    _open: &OpenConnection,
    _stop: watch::Receiver<()>,
) -> io::Result<TcpStream> {
    match tls {
        None => Ok(stream),
        Some(tls) => match tls.0 {},
    }
}
